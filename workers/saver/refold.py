"""One partition of Kafka into a shard of the register that lost something: binds, sessions, receipts, then messages.

Own queues are folded apart, each by whoever consumes it: receipts of its product, then its messages.

The order matters: a message is stored again only if no receipt settled it. Where the shard was emptied everything that can still
be pending is read, as is where the shard names no position of the partition; else messages from that position, and the rest from
a minute before its last beat (docs/adr/0007). Nothing here changes Kafka but receipts for what ends on the way.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Final, TypeVar
from zlib import crc32

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError
from prometheus_client import Counter

from infra.documents import MAX_PENDING, Product
from infra.journal import Journal, JournalDown
from infra.keeper import Keeper
from infra.register import LastSession, Register, Settlement, StoreItem, StoreMessage
from infra.register.fold import Fold
from infra.register.marker import part
from infra.scratch import close, scratch_consumer
from infra.settings import KafkaSettings
from infra.wire import Bind, SettledJob
from schemas import codec, names
from schemas.checks import MAX_TTL_S
from schemas.codes import State, Status
from schemas.partition import partition_of
from schemas.records import ClientRecord, PushMessage, Receipt, StatusEvent
from workers.owed import produce_receipts
from workers.saver.settled import Settled
from workers.stored import to_store

MARGIN_MS: Final = 60_000
"""How long before the last beat receipts and events are read again: what Redis had applied is older than its receipt by less."""
STEP: Final = 2_000
"""Records read and applied at a time."""
WINDOW: Final = 20_000
"""Binds, or sessions, whose last word is looked for before they are applied: about 30 MB. More come in several windows."""
SETTLED_AT_ONCE: Final = 8_000_000
"""Settled ids that are kept at a time: about 80 MB. Where there are more receipts the clients are folded in slices, one after the
other, each of which reads the receipts and messages again."""
STALL: Final = 15.0
"""Seconds without a record before the read counts as failed."""
ASK_AGAIN: Final = 1.0
"""Seconds between two looks for a product that is not known, while the KV was not read lately."""
SETTLING: Final = frozenset(
    {State.ACKED, State.WRITTEN, State.REJECTED, State.EXPIRED, State.REPLACED, State.EVICTED, State.DEAD}
)

log = structlog.get_logger("refold")
unknown_products = Counter(
    "longwire_register_fold_unknown_products_total", "Products without a document whose messages were folded"
)

T = TypeVar("T")
Handled = Callable[[], Awaitable[int]]
"""The offset below which every message of the partition was handled; raises JournalDown where the partition is another's now."""
Bounds = tuple[int, int]
"""Offsets: the first, and the one behind the last."""
Document = tuple[tuple[str, str], ClientRecord | None]
"""(client key, product) with its bind, None where the client left."""
Batch = Sequence[ConsumerRecord]


class Refold:
    """The fold of one partition of `push.messages`, or of a product's own queue, into one incarnation of one shard."""

    def __init__(
        self,
        settings: KafkaSettings,
        fold: Fold,
        partition: int,
        *,
        handled: Handled,
        journal: Journal,
        register: Register,
        keeper: Keeper,
        queue: str = "",
    ) -> None:
        """`handled()`: the offset up to which messages are folded, exclusive; `queue`: the product whose own queue it is."""
        self._queue = queue
        self._log = names.queue_topic(queue) if queue else names.MESSAGES
        self._topics = (names.RECEIPTS, self._log) if queue else (names.CLIENTS, names.STATUS, names.RECEIPTS, self._log)
        self._part = part(partition, queue)
        self._settings = settings
        self._handled = handled
        self._journal = journal
        self._register = register
        self._keeper = keeper
        self._fold = fold
        self._partition = partition
        self._ranges: dict[str, Bounds] = {}
        self._slices = 1
        self._slice = -1
        self._settled, self._handed = Settled(), Settled()
        self._unknown: dict[str, Product] = {}
        self._next = 0
        self._partitions = 0
        self._read = 0
        self._total = 0

    async def run(self) -> int:
        """Fold everything, messages up to the offset `handled()`; returns it. Raises JournalDown or RegisterDown: begin anew."""
        self._partitions = await self._journal.partitions(names.MESSAGES)
        async with self._consumer() as consumer:
            ranges = self._ranges = await self._bounds(consumer)
            sizes = {topic: max(0, end - start) for topic, (start, end) in ranges.items()}
            self._slices = max(1, -(-sizes[names.RECEIPTS] // SETTLED_AT_ONCE))
            again = (names.RECEIPTS, self._log)
            self._total = sum(sizes.values()) + (self._slices - 1) * sum(sizes[topic] for topic in again)
            if not self._queue:
                await self._documents(consumer, ranges[names.CLIENTS])
                await self._sessions(consumer, ranges[names.STATUS])
            self._next = ranges[self._log][0]
            await self._clients(consumer, await self._handled())
            return await self._messages(consumer)

    async def go_on(self) -> int:
        """Messages that were handled since `run`, up to `handled()`; returns it."""
        if await self._handled() <= self._next:
            return self._next
        async with self._consumer() as consumer:
            return await self._messages(consumer)

    # --- reading -------------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _consumer(self) -> AsyncIterator[AIOKafkaConsumer]:
        """A consumer of this partition of the topics, none of them read yet: a fetch would hold up the questions."""
        consumer = scratch_consumer(
            self._settings, name="register-fold", fetch_max_wait_ms=100, max_partition_fetch_bytes=4 * 1024 * 1024
        )
        try:
            await consumer.start()
            every = [TopicPartition(topic, self._partition) for topic in self._topics]
            consumer.assign(every)
            consumer.pause(*every)
            yield consumer
        except (KafkaError, OSError) as error:  # TimeoutError is an OSError
            raise JournalDown(f"fold of partition {self._partition}: {type(error).__name__}: {error}") from error
        finally:
            await close(consumer)

    async def _bounds(self, consumer: AIOKafkaConsumer) -> dict[str, Bounds]:
        """First and last offset (exclusive) to read. What ends while we read is settled by the open shard, or comes once more."""
        marker = self._fold.marker
        every = {topic: TopicPartition(topic, self._partition) for topic in self._topics}
        whole = not marker.since_ms or self._part not in marker.positions  # nothing of it is known to be there
        since = marker.began_ms - 1000 * MAX_TTL_S if whole else marker.since_ms - MARGIN_MS
        begins = await consumer.beginning_offsets(list(every.values()))
        ends = await consumer.end_offsets(list(every.values()))
        later = await consumer.offsets_for_times(dict.fromkeys(every.values(), max(0, since)))
        found = {}
        for topic, where in every.items():
            start = later[where].offset if later[where] is not None else ends[where]
            if topic == names.CLIENTS and whole:
                start = begins[where]  # compacted: what is there counts, however old
            if topic == self._log and not whole:
                start = max(begins[where], marker.positions[self._part])
            found[topic] = (start, ends[where])
        return found

    async def _batches(self, consumer: AIOKafkaConsumer, topic: str, start: int, end: int) -> AsyncIterator[Batch]:
        """The records of [start, end), some at a time; compaction leaves gaps, so the consumer's position decides."""
        where = TopicPartition(topic, self._partition)
        consumer.seek(where, start)
        consumer.resume(where)
        while start < end:
            async with asyncio.timeout(STALL):
                while not (found := (await consumer.getmany(where, timeout_ms=100, max_records=STEP)).get(where)):
                    if await consumer.position(where) >= end:
                        consumer.pause(where)
                        return
            start = found[-1].offset + 1
            yield [record for record in found if record.offset < end]
            self._read += len(found)
            await self._fold.progress(self._part, self._read, max(self._total, self._read))
        consumer.pause(where)

    async def _each(
        self,
        consumer: AIOKafkaConsumer,
        topic: str,
        bounds: Bounds,
        apply: Callable[[Batch], Awaitable[None]],
    ) -> None:
        async for batch in self._batches(consumer, topic, *bounds):
            await apply(batch)

    def _here(self, key: str) -> bool:
        return self._register.shards.of(names.session_key(key)) is self._fold.shard

    # --- binds, sessions -----------------------------------------------------------------------------------------------

    async def _documents(self, consumer: AIOKafkaConsumer, bounds: Bounds) -> None:
        """The last word of each bind: a document, or a tombstone where the client left the product."""
        latest: dict[tuple[str, str], ClientRecord | None] = {}
        async for batch in self._batches(consumer, names.CLIENTS, *bounds):
            for source in batch:
                key, _, product = (source.key or b"").decode(errors="replace").rpartition(" ")
                if source.value is None:
                    latest[key, product] = None
                for record in _decoded([source], ClientRecord):
                    latest[key, product] = record
            if len(latest) >= WINDOW:
                await self._apply_documents(latest)
                latest.clear()
        await self._apply_documents(latest)

    async def _apply_documents(self, latest: dict[tuple[str, str], ClientRecord | None]) -> None:
        for group in _steps(list(latest.items()), STEP):
            await self._apply(group)

    async def _apply(self, group: Sequence[Document]) -> None:
        documents, users, gone = [], [], []
        before = await self._register.users_of([pair for pair, record in group if record is not None and self._here(pair[0])])
        for (key, product), record in group:
            if record is None:
                gone.append((key, product))
                continue
            known = record.bind
            bind = Bind(product, known.qos, list(known.groups), known.user or "", dict(known.attrs))
            users.append((key, bind, before.get((key, product), "")))  # another shard's may be live already, and newer
            if self._here(key):
                documents.append((key, bind, known.first_bind_ms))
        await self._fold.documents(documents)
        await self._register.users(users)  # a user's set may lie in another shard
        await self._register.forgotten([(key, product) for key, product in gone if self._here(key)])

    async def _sessions(self, consumer: AIOKafkaConsumer, bounds: Bounds) -> None:
        latest: dict[str, LastSession] = {}
        async for batch in self._batches(consumer, names.STATUS, *bounds):
            for event in _decoded(batch, StatusEvent):
                key = names.client_key(event.realm, event.client)
                if self._here(key):
                    latest[key] = fold_session(latest.get(key), key, event)
            if len(latest) >= WINDOW:
                await self._restore(latest)
                latest.clear()
        await self._restore(latest)

    async def _restore(self, latest: dict[str, LastSession]) -> None:
        for group in _steps(list(latest.values()), STEP):
            await self._fold.restore(group)

    # --- receipts, messages --------------------------------------------------------------------------------------------

    async def _messages(self, consumer: AIOKafkaConsumer) -> int:
        """As long as some were handled meanwhile; returns up to where."""
        while (end := await self._handled()) > self._next:
            await self._clients(consumer, end)
        return self._next

    async def _clients(self, consumer: AIOKafkaConsumer, end: int) -> None:
        """Slice after slice of the clients: their receipts (unless they are those that are known), then their messages."""
        for number in range(self._slices):
            if number != self._slice:
                self._slice, self._settled, self._handed = number, Settled(), Settled()
                await self._each(consumer, names.RECEIPTS, self._ranges[names.RECEIPTS], self._receipts)
                self._settled.seal()
                self._handed.seal()
            await self._each(consumer, self._log, (self._next, end), self._store)
        self._next = max(self._next, end)

    def _in_slice(self, client: bytes) -> bool:
        return self._slices == 1 or crc32(client) % self._slices == self._slice

    async def _receipts(self, batch: Batch) -> None:
        groups: dict[tuple[str, str], list[Settlement]] = {}
        handed: dict[tuple[str, str], list[str]] = {}
        for source in batch:
            if not self._in_slice(source.key or b""):  # it is the client's id, and cheaper than to decode
                continue
            for receipt in _decoded([source], Receipt):
                key = names.client_key(receipt.realm, receipt.client)
                if self._queue not in ("", receipt.product) or not receipt.client or not self._here(key):
                    continue
                if receipt.state in SETTLING:
                    self._settled.add(key, receipt.product, receipt.id)
                    groups.setdefault((key, receipt.product), []).append(Settlement(receipt.id, source.timestamp, receipt.state))
                elif receipt.state == State.MOVED and not self._queue:
                    self._settled.add(key, receipt.product, receipt.id)  # here: its product's own queue has it
                elif receipt.state == State.FALLBACK:  # it stays pending, and another channel has it
                    self._handed.add(key, receipt.product, receipt.id)
                    handed.setdefault((key, receipt.product), []).append(receipt.id)
        await self._fold.settle([(key, product, settled) for (key, product), settled in groups.items()])
        await self._fold.handed([(key, product, ids) for (key, product), ids in handed.items()])

    async def _store(self, batch: Batch) -> None:
        groups: dict[tuple[str, str], list[StoreMessage]] = {}
        for source in batch:
            for message in _decoded([source], PushMessage):
                key = names.client_key(message.realm, message.client or "")
                if not self._is_stored(key, message):
                    continue
                product = await self._product(message.product)
                accepted = message.accepted_ms or source.timestamp
                expires = accepted + 1000 * (message.ttl_s or product.ttl_s)
                handed = self._handed.has(key, message.product, message.id)
                groups.setdefault((key, message.product), []).append(to_store(message, accepted, expires, handed=handed))
        owed = await self._fold.store(
            [
                StoreItem(key, product, (await self._product(product)).max_pending, group)
                for (key, product), group in groups.items()
            ]
        )
        if owed:
            await produce_receipts(self._journal, owed)
            await self._fold.paid(owed)

    def _is_stored(self, key: str, message: PushMessage) -> bool:
        """Is it one that delivery had stored in this shard, and that no receipt settled?"""
        if message.client is None or message.qos != 1 or self._queue not in ("", message.product):
            return False
        if not self._in_slice(message.client.encode()) or not self._here(key):
            return False
        if partition_of(message.client, self._partitions) != self._partition:
            return False  # delivery produced it again, under its client's key
        return not self._settled.has(key, message.product, message.id)

    async def _product(self, name: str) -> Product:
        """A product's limits. Its messages were accepted, so none is left out because its document is missing.

        As long as the bucket was not read lately it is waited for: it may be there. Then it was removed, and what was pending
        of it stays pending, under the widest limits, since a limit that it did not have would end a message.
        """
        while (found := self._keeper.products.get(name) or self._unknown.get(name)) is None:
            if self._keeper.current:
                unknown_products.inc()
                log.warning("product unknown, folded under the widest limits", product=name, partition=self._partition)
                self._unknown[name] = Product(name=name, ttl_s=MAX_TTL_S, max_pending=MAX_PENDING)
                continue
            log.warning(
                "product unknown, the keeper was not read lately: the fold waits", product=name, partition=self._partition
            )
            await asyncio.sleep(ASK_AGAIN)
            await self._handled()  # the partition may be another worker's by now
        return found


def fold_session(before: LastSession | None, key: str, event: StatusEvent) -> LastSession:
    """The last session after one more event. Events may come out of order: (generation, session) decides, an end is final."""
    jobs = [*(before.jobs if before else ()), *_jobs(event)]
    if event.event not in (Status.ONLINE, Status.OFFLINE) or (
        before is not None and (event.generation, event.session) < (before.generation, before.number)
    ):
        if before is None:
            return LastSession(key, False, -1, 0, "", 0, jobs)
        return LastSession(key, before.online, before.generation, before.number, before.room, before.epoch, jobs)
    same = before is not None and (event.generation, event.session) == (before.generation, before.number)
    online = event.event == Status.ONLINE and not (same and before is not None and not before.online)
    return LastSession(key, online, event.generation, event.session, event.room, event.epoch, jobs)


def _jobs(event: StatusEvent) -> list[SettledJob]:
    found = []
    for text in event.settled_jobs:
        product, partition, offset = text.rsplit(":", 2)
        found.append(SettledJob(product, int(partition), int(offset), MAX_TTL_S))
    return found


def _decoded(batch: Iterable[ConsumerRecord], kind: type[T]) -> list[T]:
    """The records that are of this kind: what is not was a dead letter the first time."""
    found: list[T] = []
    for source in batch:
        if source.value is None:
            continue
        try:
            record: object = codec.decode(source.value)
        except codec.Undecodable:
            continue
        if isinstance(record, kind):
            found.append(record)
    return found


def _steps(items: list[T], size: int) -> list[list[T]]:
    return [items[start : start + size] for start in range(0, len(items), size)]
