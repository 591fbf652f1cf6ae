"""Delivery consumes `push.messages` and the large products' own queues: decode, move, expand, store, commit, hint.

One record's way: bytes → PushMessage (or a dead letter) → one in the shared topic whose product has an own queue is produced
there again → a user's message, or one that another partitioner put in the wrong partition, is produced again under its client's
key → a stored message gets its number n and its client's place in one script → what the script ended is receipted → the offset
may be committed → the room gets a hint. Delivery never waits for a room, and a stored message never waits for one that is not
(QoS 0).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec
import structlog
from msgspec.structs import replace
from prometheus_client import Counter

from infra.documents import Product
from infra.journal import Entry, Journal
from infra.keeper import Keeper
from infra.register import Register, RegisterDown, SessionView, StoreItem, StoreOutcome
from infra.wire import Downlink, Hint
from schemas import names
from schemas.codec import Undecodable, decode_as
from schemas.codes import EventType, Mode, State
from schemas.partition import partition_of
from schemas.records import PushMessage, Receipt
from workers.delivery.hints import HintSender
from workers.owed import pay
from workers.runner import Dead, Incoming, Retryable
from workers.stored import to_store

EXPANSION: Final = 500
"""Records produced in one go when a user's message is expanded."""
NAMED: Final = 100
"""Clients that the receipt of an expansion names: who asks for the state of a user's message looks at those."""

PASSING: Final = 2_000
"""Fire-and-forget messages whose clients are being looked up, at most."""
LOOK_UP_WITHIN: Final = 0.25
"""Seconds for the clients of a user, where the message is not stored."""

log = structlog.get_logger("delivery")
outcomes = Counter("longwire_delivery_messages_total", "Messages by what delivery did", ["outcome"])


class Accepted(msgspec.Struct, frozen=True):
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


@dataclass(slots=True)
class _Sorted:
    """One batch by what is to be done: stored or passed on here, produced again, moved to the product's own queue, given up."""

    here: list[Accepted] = field(default_factory=list)
    elsewhere: list[Accepted] = field(default_factory=list)
    moved: list[Accepted] = field(default_factory=list)
    letters: list[Dead] = field(default_factory=list)


class Delivery:
    """The handler of `push.messages`, or of one product's own queue (workers.runner.Handler)."""

    def __init__(
        self,
        journal: Journal,
        register: Register,
        keeper: Keeper,
        hints: HintSender,
        *,
        queues: Container[str] = frozenset(),
        queue: str = "",
    ) -> None:
        """`queues`: products whose own queue is there, so that what comes for them by the shared topic can be moved; `queue`:
        the product whose own queue this is the handler of."""
        self._queues = queues
        self._queue = queue
        self._topic = names.queue_topic(queue) if queue else names.MESSAGES
        self._journal = journal
        self._register = register
        self._keeper = keeper
        self._hints = hints
        self._passing = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def assigned(self, partitions: frozenset[int]) -> None:
        """Nothing is kept between batches."""

    async def revoked(self, partitions: frozenset[int]) -> None:
        """Nothing is kept between batches."""

    async def handle(self, partition: int, records: Sequence[Incoming]) -> list[Dead]:
        """Store one partition's records in order; on return everything of them is in Redis or in Kafka again."""
        batch = await self._sort(partition, records)
        await self._store([item for item in batch.here if item.message.qos == 1])
        self._hints.flush()
        stored_in = self._register.incarnations()
        self._let_go([item for item in batch.here if item.message.qos == 0])
        found = [await self._clients_of(accepted) for accepted in batch.elsewhere]
        for accepted, clients in zip(batch.elsewhere, found, strict=True):  # after what Redis can fail: a retry would repeat it
            if clients:
                await self._produce_again(accepted, clients)
            elif clients is not None:
                batch.letters.append(_nobody(accepted))
        await self._move(batch.moved)
        await self._receipt_dead(batch.letters)
        if self._register.incarnations() != stored_in:
            raise Retryable("Redis lost something while the batch was handled")  # perhaps what was just stored
        return batch.letters

    # --- in ------------------------------------------------------------------------------------------------------------

    async def _sort(self, partition: int, records: Sequence[Incoming]) -> _Sorted:
        partitions = await self._journal.partitions(self._topic)
        batch = _Sorted()
        for record in records:
            accepted = self._accept(record)
            if isinstance(accepted, Dead):
                batch.letters.append(accepted)
            elif self._belongs_elsewhere(accepted.product):
                batch.moved.append(accepted)
            elif accepted.message.user is not None or partition_of(accepted.message.client or "", partitions) != partition:
                batch.elsewhere.append(accepted)
            else:
                batch.here.append(accepted)
        return batch

    def _belongs_elsewhere(self, product: Product) -> bool:
        """In the shared topic, and the product has an own queue. While its topic is missing nobody waits for it."""
        return not self._queue and product.queue is not None and product.name in self._queues

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
        elif self._queue and message.product != self._queue:
            reason = f"it is for product {message.product}, in the own queue of {self._queue}"
        else:
            reason = _beyond(message, product)
        if product is None or reason:
            outcomes.labels("refused").inc()
            return Dead(record, reason, message.id, message.client, message.product, message.realm)
        return Accepted(record, message, product)

    async def _clients_of(self, item: Accepted) -> list[str] | None:
        """Whose it is; raises RegisterDown where that can't be told now. None: it is not stored anyway, and dropped."""
        message = item.message
        if message.user is None:
            return [message.client or ""]
        within = LOOK_UP_WITHIN if message.qos == 0 else None
        try:
            async with asyncio.timeout(within):
                return await self._register.clients_of(message.realm, message.product, message.user)
        except (RegisterDown, TimeoutError):
            if within is None:
                raise
            outcomes.labels("dropped: register").inc()
            return None

    async def _produce_again(self, item: Accepted, clients: list[str]) -> None:
        """Under each client's own key, acknowledged before the source is committed. Source and copies share id and time."""
        message = item.message
        for start in range(0, len(clients), EXPANSION):
            await self._journal.produce(
                [
                    Entry(self._topic, client, replace(message, client=client, user=None, accepted_ms=item.accepted_ms))
                    for client in clients[start : start + EXPANSION]
                ]
            )
        detail = " ".join(["user", *clients[:NAMED]]) if message.user else f"partition {item.record.partition}"
        await self._journal.produce([_on_its_way(item, State.EXPANDED, len(clients), detail)])
        outcomes.labels("expanded").inc()

    async def _move(self, items: list[Accepted]) -> None:
        """To their products' own queues, under the same keys, acknowledged before the source is committed. A fold of the shared
        topic knows by the receipts that they are there, and leaves them to the own queues' pace."""
        await self._journal.produce(
            [
                Entry(names.queue_topic(item.product.name), _addressee(item), replace(item.message, accepted_ms=item.accepted_ms))
                for item in items
            ]
        )
        await self._journal.produce([_on_its_way(item, State.MOVED, 1, names.queue_topic(item.product.name)) for item in items])
        outcomes.labels("moved").inc(len(items))

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
        await self._tell_stored(list(zip(groups.values(), results, strict=True)))

    async def _tell_stored(self, stored: list[tuple[list[Accepted], StoreOutcome]]) -> None:
        """A receipt for what waits for a client that is not there, of products that ask for it (docs/adr/0023)."""
        waiting = [
            item
            for group, result in stored
            if group[0].product.listening(EventType.MESSAGE_STORED) and not self._there(result)
            for item, n in zip(group, result.numbers, strict=True)
            if n
        ]
        await self._journal.produce([_on_its_way(item, State.STORED, 1, "") for item in waiting])

    def _there(self, result: StoreOutcome) -> bool:
        """Was the client bound, in a session of a room that lives?"""
        session = result.session
        return session is not None and result.bind is not None and not self._hints.is_dead(session)

    def _hint(self, group: list[Accepted], result: StoreOutcome) -> None:
        session = result.session
        if session is None or result.bind is None:
            return
        for item, n in zip(group, result.numbers, strict=True):
            if n:
                remaining = max(1, -((result.now_ms - item.expires_ms) // 1000))
                self._hints.add(session, _hint(item, session, n, remaining))

    # --- fire and forget -----------------------------------------------------------------------------------------------

    def _let_go(self, items: list[Accepted]) -> None:
        """QoS 0 is never stored, and delays nothing that is: it goes its own way, and the batch does not wait for it."""
        taken = items[: PASSING - self._passing]
        if left := len(items) - len(taken):
            outcomes.labels("dropped: too many").inc(left)
        if taken:
            self._passing += len(taken)
            task = asyncio.ensure_future(self._pass_on(taken))
            self._tasks.add(task)
            task.add_done_callback(self._passed)

    def _passed(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("fire-and-forget messages not passed on", exc_info=error)

    async def _pass_on(self, items: list[Accepted]) -> None:
        """Written if the client is there now, else counted as dropped."""
        try:
            found = await self._register.locate([(item.key, item.message.product) for item in items])
        finally:
            self._passing -= len(items)
        for item, where in zip(items, found, strict=True):
            if where is None:
                outcomes.labels("dropped: register").inc()
                continue
            remaining = -((where.now_ms - item.expires_ms) // 1000)
            if where.session is None or where.bind is None or remaining <= 0:
                outcomes.labels("dropped").inc()
                continue
            outcomes.labels("passed on").inc()
            self._hints.add(where.session, _hint(item, where.session, 0, remaining))
        self._hints.flush()

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


def _addressee(item: Accepted) -> str:
    return item.message.client or item.message.user or ""


def _on_its_way(item: Accepted, state: State, count: int, detail: str) -> Entry:
    """A receipt that settles nothing: where the message goes on, or waits."""
    message, key = item.message, _addressee(item)
    receipt = Receipt(
        id=message.id,
        product=message.product,
        realm=message.realm,
        client=key,
        state=state,
        at_ms=_now_ms(),
        count=count,
        detail=detail or None,
    )
    return Entry(names.RECEIPTS, key, receipt)


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
