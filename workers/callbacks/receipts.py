"""The consumer of `push.receipts`: what products are told of their messages. One receipt is one event, and nothing is kept.

Most products ask for nothing, and there is a receipt for each message: one whose bytes name a product that does not ask is passed
over undecoded (docs/adr/0023).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from schemas import names
from schemas.codec import Undecodable, decode_as, second_text
from schemas.codes import EventType, State
from schemas.records import Receipt
from workers.callbacks.asked import Asked, Kept, Sender
from workers.callbacks.telling import event_id, tell
from workers.runner import Dead, Incoming
from workers.webhooks import Event

KINDS: Final[dict[str, EventType]] = {
    State.STORED: EventType.MESSAGE_STORED,
    State.ACKED: EventType.MESSAGE_ACKED,
    State.WRITTEN: EventType.MESSAGE_WRITTEN,
    State.REJECTED: EventType.MESSAGE_REJECTED,
    State.EXPIRED: EventType.MESSAGE_EXPIRED,
    State.REPLACED: EventType.MESSAGE_REPLACED,
    State.EVICTED: EventType.MESSAGE_EVICTED,
    State.DEAD: EventType.MESSAGE_DEAD,
}
"""What settles a message, or says that it waits; the other states are ways that it goes."""


class ReceiptCallbacks:
    """The runner's handler for `push.receipts`."""

    def __init__(self, outbox: Sender, kept: Kept, asked: Asked) -> None:
        self._outbox = outbox
        self._kept = kept
        self._asked = asked

    async def assigned(self, partitions: frozenset[int]) -> None:
        """What a former owner left waits; raises JournalDown."""
        await self._kept.caught_up()

    async def revoked(self, partitions: frozenset[int]) -> None:
        """Nothing is kept between batches."""

    async def handle(self, partition: int, records: Sequence[Incoming]) -> list[Dead]:
        """Tell what is asked for; raises Retryable."""
        self._asked.check()
        asking = self._asked.of_messages
        if not asking:
            return []
        letters: list[Dead] = []
        events = list(self._events((each for each in records if _may_be_of(each.value or b"", asking)), letters))
        await tell(self._outbox, self._asked, events)
        return letters

    def _events(self, records: Iterable[Incoming], letters: list[Dead]) -> Iterable[Event]:
        for each in records:
            try:
                receipt = decode_as(Receipt, each.value or b"")
            except Undecodable as error:
                letters.append(Dead(each, str(error)))
                continue
            kind = KINDS.get(receipt.state)
            if kind is not None and self._asked.endpoints(receipt.product, kind):
                yield _event(receipt, kind)


def _may_be_of(value: bytes, products: frozenset[bytes]) -> bool:
    """Of one of these products? Told by the bytes; True where it can't be."""
    product = second_text(Receipt, value)
    return product is None or product in products


def _event(receipt: Receipt, kind: EventType) -> Event:
    """Its id is the message's fate: a receipt that was written twice is one event."""
    data: dict[str, Any] = {"id": receipt.id, "realm": receipt.realm, "client": receipt.client}
    if receipt.detail:
        data["detail"] = receipt.detail
    fate = (receipt.product, receipt.realm, receipt.client, receipt.id, receipt.detail or "")
    key = names.client_key(receipt.realm, receipt.client)
    return Event(event_id(kind, *fate), kind, receipt.product, key, receipt.at_ms, data)
