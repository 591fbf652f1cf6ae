"""`push.retries` as it is read: all of it is followed into the index of what waits, and records are fetched by their places."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError
from prometheus_client import Counter

from infra.journal import JournalDown
from infra.lifecycle import Loops
from infra.scratch import close, scratch_consumer
from infra.settings import KafkaSettings
from schemas import codec, names
from schemas.records import Retry
from workers.webhooks.heads import Item
from workers.webhooks.waiting import Waiting

PAUSE: Final = 1.0
"""Seconds until a failed read is tried again."""
READ_WITHIN: Final = 10.0
FAR: Final = 1_000
"""Offsets between two records for which a seek is cheaper than to read on."""

log = structlog.get_logger("webhooks")
unreadable = Counter("longwire_webhooks_unreadable_total", "Records of push.retries that do not parse")


class Shelf:
    """A part of the process (infra.lifecycle.Part)."""

    def __init__(
        self,
        settings: KafkaSettings,
        partitions: Callable[[str], Awaitable[int]],
        waiting: Waiting,
        *,
        fail: Callable[[str], None] = lambda reason: None,
    ) -> None:
        """`partitions`: how many a topic has (infra.journal.Journal.partitions)."""
        self._settings = settings
        self._partitions = partitions
        self._waiting = waiting
        self._next: dict[int, int] = {}
        self._moved = asyncio.Event()
        self._loops = Loops(fail)
        self._reading = asyncio.Lock()
        self._reader: AIOKafkaConsumer | None = None

    async def start(self) -> None:
        """Follow the topic; returns when what was there has been read, however long it takes. Raises JournalDown."""
        self._loops.start("webhooks: what waits", self._follow())
        await self.caught_up()

    async def stop(self) -> None:
        """Stop."""
        await self._loops.stop()
        await self._drop()

    async def caught_up(self) -> None:
        """Return when all is read that was there when it was called; raises JournalDown when it does not get on."""
        patience, now = self._settings.request_timeout * 3, asyncio.get_running_loop().time
        try:
            async with asyncio.timeout(patience) as limit:
                ends = await self._ends()
                least = left = self._left(ends)
                while left:
                    self._moved.clear()
                    await self._moved.wait()
                    left = self._left(ends)
                    if left < least:
                        least = left
                        limit.reschedule(now() + patience)
        except (KafkaError, OSError) as error:  # TimeoutError is an OSError
            raise JournalDown(f"{names.RETRIES}: {type(error).__name__}: {error}") from error

    def _left(self, ends: Mapping[int, int]) -> int:
        """How many offsets are not read yet."""
        return sum(max(0, end - self._next.get(number, 0)) for number, end in ends.items())

    async def _ends(self) -> dict[int, int]:
        consumer = scratch_consumer(self._settings, name="webhooks-ends")
        try:
            await consumer.start()
            found = await consumer.end_offsets(await self._where())
            return {item.partition: end for item, end in found.items()}
        finally:
            await close(consumer)

    async def _where(self) -> list[TopicPartition]:
        return [TopicPartition(names.RETRIES, number) for number in range(await self._partitions(names.RETRIES))]

    async def _follow(self) -> None:
        while True:
            try:
                await self._read_on()
            except (KafkaError, JournalDown, OSError) as error:
                log.warning("retries not read, again in a moment", error=f"{type(error).__name__}: {error}"[:200])
                await asyncio.sleep(PAUSE)

    async def _read_on(self) -> None:
        consumer = scratch_consumer(self._settings, name="webhooks-waiting", fetch_max_wait_ms=200)
        try:
            async with asyncio.timeout(self._settings.request_timeout):
                await consumer.start()
            where = await self._where()
            consumer.assign(where)
            begins = await consumer.beginning_offsets(where)
            for item in where:
                consumer.seek(item, max(self._next.get(item.partition, 0), begins[item]))
            while True:
                found = await consumer.getmany(timeout_ms=200, max_records=2_000)
                for records in found.values():
                    for record in records:
                        self.take(record)
                for item in where:  # compaction leaves gaps: the position says more than the last record
                    self._next[item.partition] = await consumer.position(item)
                    self._waiting.read_to(item.partition, self._next[item.partition])
                self._moved.set()
        finally:
            await close(consumer)

    def take(self, record: ConsumerRecord) -> None:
        """One record of the topic, in its order: an event begins to wait, or waits no longer."""
        self._waiting.read_to(record.partition, record.offset + 1)
        try:
            product, endpoint, event = names.parse_retry_key((record.key or b"").decode())
            if record.value is None:
                self._waiting.remove((product, endpoint), event)
                return
            retry = codec.decode_as(Retry, record.value)
        except ValueError as error:  # UnicodeDecodeError, BadName, Undecodable
            unreadable.inc()
            log.error("retry not readable", partition=record.partition, offset=record.offset, error=str(error)[:200])
            return
        item = Item(event, retry.key, record.partition, record.offset, retry.since_ms, seen=True)
        self._waiting.add((product, endpoint), item)

    async def read(self, items: Sequence[Item]) -> dict[str, Retry]:
        """The records of these, by the events' ids; what is not there any more is left out. Raises JournalDown."""
        found: dict[str, Retry] = {}
        async with self._reading:
            try:
                async with asyncio.timeout(READ_WITHIN):
                    for partition in sorted({item.partition for item in items}):
                        await self._read(partition, [item for item in items if item.partition == partition], found)
            except (KafkaError, OSError) as error:
                await self._drop()
                raise JournalDown(f"{names.RETRIES}: {type(error).__name__}: {error}") from error
        return found

    async def _read(self, partition: int, items: Sequence[Item], found: dict[str, Retry]) -> None:
        consumer, where = await self._opened(), TopicPartition(names.RETRIES, partition)
        if consumer.assignment() != {where}:
            consumer.assign([where])
        end = (await consumer.end_offsets([where]))[where]
        wanted = {item.offset: item for item in items if item.offset < end}
        at = -FAR
        while wanted:
            first = min(wanted)
            if not at <= first < at + FAR:
                consumer.seek(where, first)
            for record in (await consumer.getmany(where, timeout_ms=1_000, max_records=500)).get(where, ()):
                item = wanted.pop(record.offset, None)
                if item is not None and record.value is not None:
                    found[item.id] = codec.decode_as(Retry, record.value)
            at = await consumer.position(where)
            for offset in [offset for offset in wanted if offset < at]:
                del wanted[offset]  # compacted away: it is settled

    async def _opened(self) -> AIOKafkaConsumer:
        if self._reader is None:
            consumer = scratch_consumer(self._settings, name="webhooks-retries", fetch_max_wait_ms=100)
            await consumer.start()
            self._reader = consumer
        return self._reader

    async def _drop(self) -> None:
        if self._reader is not None:
            consumer, self._reader = self._reader, None
            await close(consumer)
