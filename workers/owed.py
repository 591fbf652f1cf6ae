"""What ends without an ack reaches Kafka first: receipts that scripts owe (expired, replaced, evicted, and acks of what had been
handed to another channel), and parked messages."""

from __future__ import annotations

import time
from collections.abc import Sequence

from prometheus_client import Counter

from infra.journal import Entry, Journal
from infra.register import Owed, Parked, Parking, Register, Settlement
from schemas import codec, names
from schemas.codes import State
from schemas.records import DeadLetter, PushMessage, Receipt

parked_total = Counter("longwire_saver_parked_total", "Messages that no connection acknowledged, now dead letters")


async def pay(journal: Journal, register: Register, owed: Sequence[Owed]) -> None:
    """Produce the receipts, then strike them off. Raises JournalDown or RegisterDown: then they stay owed."""
    if not owed:
        return
    await produce_receipts(journal, owed)
    await register.paid(owed)


async def produce_receipts(journal: Journal, owed: Sequence[Owed]) -> None:
    """Produce the receipts; they are struck off by the caller."""
    now = int(time.time() * 1000)
    await journal.produce([_entry(item, now) for item in owed])


async def park(journal: Journal, register: Register, parked: Sequence[Parked], bounds: Parking) -> None:
    """What no connection ever acknowledged becomes a dead letter with its receipt, then is settled: it must not loop for ever.

    Raises JournalDown or RegisterDown: then the next connection that acknowledges nothing brings it again.
    """
    if not parked:
        return
    now = int(time.time() * 1000)
    reason = f"nothing was acknowledged in {bounds.connections} connections in a row over {bounds.seconds:.0f} s or more"
    entries = []
    for item in parked:
        realm, client = names.split_client_key(item.key)
        message = PushMessage(
            id=item.id,
            product=item.product,
            client=client,
            realm=realm,
            payload=item.body.payload,
            group=item.body.group or None,
            content_type=item.body.content_type or None,
            correlation=item.body.correlation,
            properties=dict(item.body.properties),
            mode=item.body.mode,
            pull_after_ms=item.body.pull_after_ms,
        )
        letter = DeadLetter(
            topic=names.MESSAGES,
            partition=-1,  # the register no longer knows where its record lies
            offset=-1,
            reason=reason,
            at_ms=now,
            key=client.encode(),
            value=codec.encode(message),
            id=item.id,
            client=client,
            product=item.product,
        )
        receipt = Receipt(
            id=item.id, product=item.product, realm=realm, client=client, state=State.DEAD, at_ms=now, detail="parked"
        )
        entries += [Entry(names.DEAD, item.product, letter), Entry(names.RECEIPTS, client, receipt)]
    await journal.produce(entries)
    await register.settle([(item.key, item.product, [Settlement(item.id, now, State.DEAD)]) for item in parked])
    parked_total.inc(len(parked))


def _entry(item: Owed, at_ms: int) -> Entry:
    realm, client = names.split_client_key(item.key)
    receipt = Receipt(
        id=item.id,
        product=item.product,
        realm=realm,
        client=client,
        state=State(item.state),
        at_ms=at_ms,
        detail=item.detail or None,
    )
    return Entry(names.RECEIPTS, client, receipt)
