"""Delivery consumes `push.messages`: decode, expand, store, commit, hint.

One record's way: bytes → PushMessage (or a dead letter) → a user's message, or one that another partitioner put in the wrong
partition, is produced again under its client's key → a stored message gets its number n and its client's place in one script →
what the script ended is receipted → the offset may be committed → the room gets a hint. Delivery never waits for a room.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import structlog
from prometheus_client import Counter

from infra.journal import Entry, Journal
from infra.keeper import Keeper, Product
from infra.register import Register, SessionView, StoreItem, StoreOutcome
from infra.wire import Downlink, Hint
from schemas import names
from schemas.codec import Undecodable, decode_as
from schemas.codes import Mode, State
from schemas.partition import partition_of
from schemas.records import PushMessage, Receipt
from workers.hints import HintSender
from workers.owed import pay
from workers.refold import to_store
from workers.runner import Dead, Incoming, Retryable

EXPANSION: Final = 500
"""Records produced in one go when a user's message is expanded."""

log = structlog.get_logger("delivery")
outcomes = Counter("longwire_delivery_messages_total", "Messages by what delivery did", ["outcome"])


@dataclass(frozen=True, slots=True)
class Accepted:
    """A message with what delivery needs beside it."""

    record: Incoming
    message: PushMessage
    product: Product

    @property
    def key(self) -> str:
        """The client's key."""
        return names.client_key(self.message.realm, self.message.client or "")

    @property
    def accepted_ms(self) -> int:
        """When Kafka first appended it."""
        return self.message.accepted_ms or self.record.timestamp_ms

    @property
    def expires_ms(self) -> int:
        """When it expires, by Kafka's clock."""
        return self.accepted_ms + 1000 * (self.message.ttl_s or self.product.ttl_s)


class Delivery:
    """The handler of `push.messages` (workers.runner.Handler)."""

    def __init__(self, journal: Journal, register: Register, keeper: Keeper, hints: HintSender) -> None:
        self._journal = journal
        self._register = register
        self._keeper = keeper
        self._hints = hints

    async def assigned(self, partitions: frozenset[int]) -> None:
        """Nothing is kept between batches."""

    async def revoked(self, partitions: frozenset[int]) -> None:
        """Nothing is kept between batches."""

    async def handle(self, partition: int, records: Sequence[Incoming]) -> list[Dead]:
        """Store one partition's records in order; on return everything of them is in Redis or in Kafka again."""
        partitions = await self._journal.partitions(names.MESSAGES)
        letters: list[Dead] = []
        here: list[Accepted] = []
        elsewhere: list[tuple[Accepted, list[str]]] = []
        for record in records:
            accepted = self._accept(record)
            if isinstance(accepted, Dead):
                letters.append(accepted)
            elif (user := accepted.message.user) is not None:
                clients = await self._register.clients_of(accepted.message.realm, accepted.message.product, user)
                if clients:
                    elsewhere.append((accepted, clients))
                else:
                    letters.append(_nobody(accepted))
            elif partition_of(accepted.message.client or "", partitions) != partition:
                elsewhere.append((accepted, [accepted.message.client or ""]))
            else:
                here.append(accepted)
        await self._store([item for item in here if item.message.qos == 1])
        stored_in = self._register.incarnations()
        await self._pass_on([item for item in here if item.message.qos == 0])
        for accepted, clients in elsewhere:  # after all that Redis can fail: a retry would produce them once more
            await self._produce_again(accepted, clients)
        await self._receipt_dead(letters)
        self._hints.flush()
        if self._register.incarnations() != stored_in:
            raise Retryable("Redis lost something while the batch was handled")  # perhaps what was just stored
        return letters

    # --- in ------------------------------------------------------------------------------------------------------------

    def _accept(self, record: Incoming) -> Accepted | Dead:
        if record.value is None:
            return Dead(record, "a tombstone is no message")
        try:
            message = decode_as(PushMessage, record.value)
        except Undecodable as error:
            outcomes.labels("undecodable").inc()
            return Dead(record, str(error))
        product = self._keeper.products.get(message.product)
        reason = ""
        if product is None:
            if not self._keeper.current:
                raise Retryable(f"product {message.product} is not known, and the keeper was not read lately")
            reason = f"unknown product {message.product}"
        else:
            reason = _beyond(message, product)
        if product is None or reason:
            outcomes.labels("refused").inc()
            return Dead(record, reason, message.id, message.client, message.product, message.realm)
        return Accepted(record, message, product)

    async def _produce_again(self, item: Accepted, clients: list[str]) -> None:
        """Under each client's own key, acknowledged before the source is committed. Source and copies share id and time."""
        message = item.message
        for start in range(0, len(clients), EXPANSION):
            await self._journal.produce(
                [
                    Entry(names.MESSAGES, client, replace(message, client=client, user=None, accepted_ms=item.accepted_ms))
                    for client in clients[start : start + EXPANSION]
                ]
            )
        source = message.client or message.user or ""
        receipt = Receipt(
            id=message.id,
            product=message.product,
            realm=message.realm,
            client=source,
            state=State.EXPANDED,
            at_ms=_now_ms(),
            count=len(clients),
            detail="user" if message.user else f"partition {item.record.partition}",
        )
        await self._journal.produce([Entry(names.RECEIPTS, source, receipt)])
        outcomes.labels("expanded").inc()

    # --- stored --------------------------------------------------------------------------------------------------------

    async def _store(self, items: list[Accepted]) -> None:
        groups: dict[tuple[str, str], list[Accepted]] = {}
        for item in items:
            groups.setdefault((item.key, item.message.product), []).append(item)
        requests = [
            StoreItem(
                key,
                product,
                group[0].product.max_pending,
                [to_store(item.message, item.accepted_ms, item.expires_ms) for item in group],
            )
            for (key, product), group in groups.items()
        ]
        results = await self._register.store(requests)
        await pay(self._journal, self._register, [owed for result in results for owed in result.owed])
        outcomes.labels("stored").inc(len(items))
        for group, result in zip(groups.values(), results, strict=True):
            self._hint(group, result)

    def _hint(self, group: list[Accepted], result: StoreOutcome) -> None:
        session = result.session
        if session is None or result.bind is None:
            return
        for item, n in zip(group, result.numbers, strict=True):
            if n:
                remaining = max(1, -((result.now_ms - item.expires_ms) // 1000))
                self._hints.add(session.room, _hint(item, session, n, remaining))

    # --- fire and forget -----------------------------------------------------------------------------------------------

    async def _pass_on(self, items: list[Accepted]) -> None:
        """QoS 0 is never stored: written if the client is there now, else counted as dropped."""
        now, found = await self._register.locate([(item.key, item.message.product) for item in items])
        for item, (session, bind) in zip(items, found, strict=True):
            remaining = -((now - item.expires_ms) // 1000)
            if session is None or bind is None or remaining <= 0:
                outcomes.labels("dropped").inc()
                continue
            outcomes.labels("passed on").inc()
            self._hints.add(session.room, _hint(item, session, 0, remaining))

    # --- dead ----------------------------------------------------------------------------------------------------------

    async def _receipt_dead(self, letters: list[Dead]) -> None:
        now = _now_ms()
        receipts = [
            Receipt(
                id=letter.id,
                product=letter.product,
                realm=letter.realm,
                client=letter.client or "",
                state=State.DEAD,
                at_ms=now,
                detail=letter.reason[:200],
            )
            for letter in letters
            if letter.id and letter.product
        ]
        await self._journal.produce([Entry(names.RECEIPTS, receipt.client or receipt.product, receipt) for receipt in receipts])


def _now_ms() -> int:
    return int(time.time() * 1000)


def _beyond(message: PushMessage, product: Product) -> str:
    """Why a message does not keep to its product's bounds; "" if it does."""
    if len(message.payload) > product.max_payload:
        return f"payload has {len(message.payload)} bytes, the product allows {product.max_payload}"
    try:
        message.check_fallback(product.ttl_s)
    except ValueError as error:
        return str(error)
    return ""


def _nobody(item: Accepted) -> Dead:
    outcomes.labels("no clients").inc()
    message = item.message
    reason = f"user {message.user} has no clients in {message.product}"
    return Dead(item.record, reason, message.id, None, message.product, message.realm)


def _hint(item: Accepted, session: SessionView, n: int, remaining_s: int) -> Hint:
    message = item.message
    notice = message.mode == Mode.PULL
    downlink = Downlink(
        message.id,
        n,
        b"" if notice else message.payload,
        remaining_s,
        message.group or "",
        message.content_type or "",
        message.correlation,
        list(message.properties.items()),
        len(message.payload) if notice else -1,
        message.mode == Mode.BOTH,
        message.pull_after_ms,
    )
    return Hint(item.key, session.number, message.product, downlink)
