"""How the messages of list jobs were settled: `push.receipts` counted by state, for all list jobs of this process together.

One consumer without a group reads all partitions, and only while somebody is followed. Of each record only its beginning is
compared (the id of a list job's messages is the job's), so what belongs to nobody here is never decoded. Each job remembers up to
where it has counted, with its counts: who goes on from both counts nothing twice and leaves nothing out, whatever others need.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError
from prometheus_client import Counter, Gauge

from infra.journal import JournalDown
from infra.lifecycle import Loops
from infra.scratch import close, scratch_consumer
from infra.settings import KafkaSettings
from schemas import codec, names
from schemas.codes import State
from schemas.records import Receipt

STEP: Final = 2_000
"""Records looked at before others get a turn."""
WAIT_MS: Final = 500
PAUSE: Final = 1.0
"""Seconds until a failed read is tried again."""
MARGIN_MS: Final = 60_000
"""Receipts are looked for from so long before a job's start: its time is by another clock."""

_STATES: Final = frozenset(state.value for state in State)

log = structlog.get_logger("receiptcount")
counted = Counter("longwire_broadcast_receipts_total", "Receipts of list jobs", ["state"])
failed = Counter("longwire_broadcast_receipt_reads_failed_total", "Reads of push.receipts that are to be tried again")
behind = Gauge("longwire_broadcast_receipts_behind", "Records of push.receipts that are not looked at yet, for list jobs")


@dataclass(slots=True)
class Followed:
    """One job's counts by state, and partition → the offset up to which they are counted. Both change together.

    `next` may be empty: then it is counted from `since_ms`. `current`: nearly everything that was there at the last look is
    counted. `begins` is how its receipts begin; `joined`: the reader has gone to where this one begins.
    """

    job: str
    product: str
    since_ms: int
    counts: dict[str, int] = field(default_factory=dict)
    next: dict[int, int] = field(default_factory=dict)
    current: bool = False
    joined: bool = False
    begins: bytes = b""

    def __post_init__(self) -> None:
        self.begins = codec.beginning(Receipt, self.job)


class ReceiptCounts:
    """A part of the process (infra.lifecycle.Part); a loop of its own while it follows anybody."""

    def __init__(
        self, settings: KafkaSettings, partitions: Callable[[str], Awaitable[int]], *, fail: Callable[[str], None]
    ) -> None:
        """`partitions`: how many a topic has (infra.journal.Journal.partitions)."""
        self._settings = settings
        self._partitions = partitions
        self._followed: dict[tuple[str, str], Followed] = {}
        self._wanted = asyncio.Event()
        self._moved = False
        self._loops = Loops(fail)

    async def start(self) -> None:
        """Begin; nothing is read before somebody is followed."""
        self._loops.start("receipt counts", self._run())

    async def stop(self) -> None:
        """Stop counting."""
        await self._loops.stop()

    def follow(self, followed: Followed) -> None:
        """Count for this job from now on, into `followed` itself; from `followed.next` where it is given, else from its start."""
        self._followed[followed.job, followed.product] = followed
        self._moved = True
        self._wanted.set()

    def leave(self, followed: Followed) -> None:
        """Count for it no longer."""
        if self._followed.get((followed.job, followed.product)) is followed:
            del self._followed[followed.job, followed.product]

    async def _run(self) -> None:
        while True:
            if not self._followed:
                self._wanted.clear()
                await self._wanted.wait()
            try:
                await self._read()
            except (KafkaError, JournalDown, OSError) as error:  # TimeoutError is an OSError
                failed.inc()
                for followed in self._followed.values():
                    followed.current = False
                log.warning("receipts not read, again in a moment", error=f"{type(error).__name__}: {error}"[:200])
                await asyncio.sleep(PAUSE)

    async def _read(self) -> None:
        """Read until nobody is followed; raises KafkaError, JournalDown or OSError."""
        consumer = scratch_consumer(self._settings, name="broadcast-receipts")
        try:
            async with asyncio.timeout(self._settings.request_timeout):
                await consumer.start()
            where = [TopicPartition(names.RECEIPTS, number) for number in range(await self._partitions(names.RECEIPTS))]
            consumer.assign(where)
            self._moved = True
            while self._followed:
                if self._moved:
                    self._moved = False
                    await self._seek(consumer, where)
                found = await consumer.getmany(timeout_ms=WAIT_MS, max_records=STEP)
                for item, records in found.items():
                    self.count(item.partition, records)
                await self._look_ahead(consumer, where, exactly=not found)
        finally:
            behind.set(0)
            await close(consumer)

    async def _seek(self, consumer: AIOKafkaConsumer, where: Sequence[TopicPartition]) -> None:
        """Go to where the first of those who are followed needs it."""
        everyone = list(self._followed.values())
        for followed in [each for each in everyone if not each.next]:
            since = max(0, followed.since_ms - MARGIN_MS)
            found = await consumer.offsets_for_times(dict.fromkeys(where, since))
            ends = await consumer.end_offsets(where)
            followed.next = {item.partition: found[item].offset if found[item] else ends[item] for item in where}
        begins = await consumer.beginning_offsets(where)
        for item in where:
            needed = min((each.next.get(item.partition, 0) for each in everyone), default=0)
            consumer.seek(item, max(needed, begins[item]))  # what is older is kept no longer
        for followed in everyone:
            followed.joined = True

    def count(self, partition: int, records: Iterable[ConsumerRecord]) -> None:
        """Take consecutive records of a partition into the counts of whoever they belong to."""
        joined = [each for each in self._followed.values() if each.joined]  # the others need what lies before, too
        starts, last = tuple(each.begins for each in joined), -1
        for record in records:
            last = record.offset
            if record.value is not None and record.value.startswith(starts):
                self._take(partition, record)
        for followed in joined:
            followed.next[partition] = max(followed.next.get(partition, 0), last + 1)

    def _take(self, partition: int, record: ConsumerRecord) -> None:
        try:
            receipt = codec.decode_as(Receipt, record.value)
        except codec.Undecodable as error:
            log.error("receipt not readable", partition=partition, offset=record.offset, error=str(error)[:200])
            return
        followed = self._followed.get((receipt.id, receipt.product))
        if followed is None or not followed.joined or receipt.state not in _STATES:
            return
        if record.offset >= followed.next.get(partition, 0):
            followed.counts[receipt.state] = followed.counts.get(receipt.state, 0) + 1
            counted.labels(receipt.state).inc()

    async def _look_ahead(self, consumer: AIOKafkaConsumer, where: Sequence[TopicPartition], *, exactly: bool) -> None:
        """How much is not looked at yet: by what the last fetch told, or (where it brought nothing) by asking."""
        if exactly:  # a fetch brings nothing while Kafka is away, too
            ends = await consumer.end_offsets(where)
        else:
            ends = {item: consumer.highwater(item) or 0 for item in where}
        left = sum([max(0, ends[item] - await consumer.position(item)) for item in where])
        behind.set(left)
        for followed in self._followed.values():
            followed.current = followed.joined and left < STEP


def settled(counts: Mapping[str, int]) -> int:
    """How many have their end."""
    return sum(counts.get(state, 0) for state in ENDS)


ENDS: Final = tuple(
    state.value
    for state in (State.ACKED, State.WRITTEN, State.REJECTED, State.EXPIRED, State.REPLACED, State.EVICTED, State.DEAD)
)
"""The states of receipts that end a message for its client."""
