"""Receipts that scripts owe: what ended without an ack (expired, replaced, evicted) reaches `push.receipts`, then is paid."""

from __future__ import annotations

import time
from collections.abc import Sequence

from infra.journal import Entry, Journal
from infra.register import Owed, Register
from schemas import names
from schemas.codes import State
from schemas.records import Receipt


async def pay(journal: Journal, register: Register, owed: Sequence[Owed]) -> None:
    """Produce the receipts, then strike them off. Raises JournalDown or RegisterDown: then they stay owed."""
    if not owed:
        return
    now = int(time.time() * 1000)
    await journal.produce([_entry(item, now) for item in owed])
    await register.paid(owed)


def _entry(item: Owed, at_ms: int) -> Entry:
    realm, client = names.split_client_key(item.key)
    receipt = Receipt(id=item.id, product=item.product, realm=realm, client=client, state=State(item.state), at_ms=at_ms)
    return Entry(names.RECEIPTS, client, receipt)
