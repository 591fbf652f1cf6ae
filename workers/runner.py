"""The run loop of every worker that consumes a Kafka topic: poll, handle, dead-letter, commit.

The commit rule: a batch's offset is committed only after its handler returned, and a handler returns only when every effect of
the batch is durable; what it holds back for later is not committed before it lets go of it. So a record may be handled twice,
never skipped. Partitions are handled side by side, one batch in flight each; a completion that comes after its partition was
taken away is dropped, not committed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Protocol

import msgspec
import structlog
from aiokafka import ConsumerRebalanceListener, ConsumerRecord, OffsetAndMetadata, TopicPartition
from aiokafka.errors import KafkaError
from prometheus_client import Counter

from infra.bus import BusError
from infra.consumer import Consumer
from infra.journal import Entry, Journal, JournalDown
from infra.lifecycle import Loops
from infra.register import RegisterDown
from infra.settings import KafkaSettings
from schemas import names
from schemas.records import DeadLetter

DRAIN: Final = 5.0
"""How long a revoked or stopping partition may finish its batch, s."""
BACKOFF: Final = (0.1, 2.0)
ATTEMPTS_ON_BUG: Final = 3
LINGER: Final = 0.03
"""Seconds between two polls that found something, at least: more records a batch, so fewer requests for each of them."""
TOGETHER: Final = 0.1
"""Seconds for which a poll waits for the batches of the last one, at most: a partition that is not polled has to wait."""
COMMIT_EVERY: Final = 0.5
"""Seconds between two commits: a commit after each batch cost Kafka more than the batches (docs/benchmarks.md)."""

log = structlog.get_logger("runner")
handled = Counter("longwire_runner_records_total", "Records handled", ["topic"])
dead = Counter("longwire_runner_dead_total", "Records sent to the dead letters", ["topic"])
retried = Counter("longwire_runner_retries_total", "Batches handled again", ["topic", "reason"])


class Retryable(Exception):
    """The batch can't be handled now: it is handled again, from its start, after a backoff."""


RETRYABLE: Final = (Retryable, JournalDown, BusError, RegisterDown)
Batches = dict[TopicPartition, list[ConsumerRecord]]


class Incoming(msgspec.Struct, frozen=True):
    """One record as it was read. `timestamp_ms` is the broker's append time."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None


@dataclass(frozen=True, slots=True)
class Dead:
    """A poison record with the reason: it goes to `push.dead`, and the rest goes on."""

    record: Incoming
    reason: str
    id: str | None = None
    client: str | None = None
    product: str | None = None
    realm: str = names.DEFAULT_REALM


class Handler(Protocol):
    """What a worker does with records."""

    async def handle(self, partition: int, records: Sequence[Incoming]) -> list[Dead]:
        """Handle records of one partition, in order; on return all effects are durable. It must be idempotent."""

    async def assigned(self, partitions: frozenset[int]) -> None:
        """Called before the first batch of these partitions."""

    async def revoked(self, partitions: frozenset[int]) -> None:
        """Called when these partitions belong to somebody else; must return within a few seconds."""


Holds = Callable[[int], int | None]
"""Partition → the first offset that its handler holds back, and has to read again after a restart; None if there is none."""


@dataclass(slots=True)
class _Partition:
    """One assignment of a partition: dropped as a whole when it is revoked."""

    number: int
    task: asyncio.Task[None] | None = None
    done: int | None = None
    committed: int | None = None
    failed_at: float = 0.0


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    """aiokafka swallows what a listener raises, so it only records (PITFALLS)."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        await self._runner.partitions_lost()

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        self._runner.partitions_gained({item.partition for item in assigned})


class Runner:
    """Consumes one topic as one member of a consumer group."""

    def __init__(
        self,
        settings: KafkaSettings,
        journal: Journal,
        *,
        topic: str,
        group: str,
        handler: Handler,
        name: str,
        fail: Callable[[str], None],
        max_records: int = 500,
        holds: Holds = lambda partition: None,
    ) -> None:
        self._holds = holds
        self._settings = settings
        self._journal = journal
        self._topic = topic
        self._group = group
        self._handler = handler
        self._name = name
        self._fail = fail
        self._max_records = max_records
        self._loops = Loops(fail)
        self._consumer: Consumer | None = None
        self._partitions: dict[int, _Partition] = {}
        self._fresh: set[int] = set()
        self._joined = asyncio.Event()
        self._commit_due = 0.0

    @property
    def joined(self) -> bool:
        """Has the group given this member its partitions (perhaps none) at least once?"""
        return self._joined.is_set()

    async def start(self) -> None:
        """Join the group; raises JournalDown if Kafka can't be reached."""
        self._consumer = Consumer(
            self._settings,
            client_id=self._name,
            group_id=self._group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            session_timeout_ms=int(self._settings.session_timeout * 1000),
            heartbeat_interval_ms=int(self._settings.session_timeout * 1000 / 4),
            rebalance_timeout_ms=int(self._settings.session_timeout * 1000),
            request_timeout_ms=int(self._settings.request_timeout * 1000) + 5000,
            metadata_max_age_ms=30_000,
        )
        try:
            async with asyncio.timeout(20):
                await self._consumer.start()
        except (KafkaError, OSError, TimeoutError) as error:
            raise JournalDown(f"Kafka at {self._settings.bootstrap} can't be reached: {error}") from error
        self._consumer.subscribe([self._topic], listener=_Listener(self))
        self._loops.start(f"{self._name}-poll", self._poll())

    async def stop(self) -> None:
        """Finish the batches in flight within `DRAIN` seconds, commit, leave the group."""
        await self._loops.stop()
        await self.partitions_lost()
        if self._consumer is not None:
            consumer, self._consumer = self._consumer, None
            try:
                async with asyncio.timeout(5):
                    await consumer.stop()
            except (TimeoutError, KafkaError):
                log.warning("consumer not closed cleanly", consumer=self._name)

    # --- for who keeps what the handler stores ---------------------------------------------------------------------------

    def positions(self) -> dict[int, int]:
        """Partition → offset below which everything was handled under this assignment; only those where something was."""
        return {number: item.done for number, item in self._partitions.items() if item.done is not None}

    def owned(self) -> frozenset[int]:
        """The partitions that are this member's now."""
        return frozenset(self._partitions) - self._fresh

    async def position(self, partition: int) -> int:
        """Everything below was handled and won't come again; raises JournalDown, also where the partition is not ours."""
        item = self._partitions.get(partition)
        if item is None or self._consumer is None:
            raise JournalDown(f"partition {partition} of {self._topic} is not ours")
        if item.done is not None:
            return item.done
        try:
            async with asyncio.timeout(self._settings.request_timeout):
                return int(await self._consumer.committed(TopicPartition(self._topic, partition)) or 0)
        except (KafkaError, TimeoutError) as error:
            raise JournalDown(f"{self._topic}: {type(error).__name__}: {error}") from error

    def resting(self, partition: int, since: float) -> bool:
        """No batch is in flight, or the one that is has failed and begun anew after `since` (monotonic)."""
        item = self._partitions.get(partition)
        return item is None or item.task is None or item.failed_at > since

    def read_until(self, partition: int) -> int | None:
        """Up to which time (ms since the epoch, our clock) everything in the partition was handled; None while more is known to
        be there, or nothing was read under this assignment."""
        item, where = self._partitions.get(partition), TopicPartition(self._topic, partition)
        if item is None or item.done is None or self._consumer is None or where not in self._consumer.assignment():
            return None
        end = self._consumer.highwater(where)
        return None if end is None or item.done < end else self._consumer.last_poll_timestamp(where)

    # --- assignment ----------------------------------------------------------------------------------------------------

    def partitions_gained(self, partitions: set[int]) -> None:
        """Remember what was assigned; the poll loop tells the handler, so that its errors are seen."""
        self._partitions = {number: _Partition(number) for number in partitions}
        self._fresh = set(partitions)
        self._joined.set()

    async def partitions_lost(self) -> None:
        """Let batches in flight end within `DRAIN`, commit what is done, forget the assignment (eager rebalancing)."""
        lost, self._partitions = self._partitions, {}
        self._fresh.clear()
        if not lost:
            return
        tasks = [item.task for item in lost.values() if item.task is not None]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=DRAIN)
            for task in late:
                task.cancel()
        await self._commit(lost)
        try:
            async with asyncio.timeout(DRAIN):
                await self._handler.revoked(frozenset(lost))
        except Exception:
            log.exception("revoke failed", consumer=self._name)

    async def _tell_assigned(self) -> None:
        while fresh := self._fresh:
            told = frozenset(fresh)
            try:
                await self._handler.assigned(told)
            except RETRYABLE as error:
                retried.labels(self._topic, type(error).__name__).inc()
                log.warning("assignment retried", consumer=self._name, reason=str(error)[:200])
                await asyncio.sleep(1)
                continue
            fresh -= told  # of this assignment: it may have been replaced by now

    # --- the loop ------------------------------------------------------------------------------------------------------

    async def _poll(self) -> None:
        while True:
            await self._tell_assigned()
            if time.monotonic() >= self._commit_due:
                await self._commit(self._partitions)
                self._commit_due = time.monotonic() + COMMIT_EVERY
            idle = [TopicPartition(self._topic, item.number) for item in self._partitions.values() if item.task is None]
            if not idle:
                await asyncio.sleep(0.02)
                continue
            try:
                batches = await self._fetch(idle)
            except KafkaError as error:
                retried.labels(self._topic, type(error).__name__).inc()
                log.warning("poll failed", consumer=self._name, error=type(error).__name__)
                await asyncio.sleep(0.5)
                continue
            assigned = self._partitions
            await self._tell_assigned()  # the fetch may have brought a new assignment and its first records
            if assigned is not self._partitions:
                continue  # they were fetched for another one: whoever has the partitions now reads them again
            begun = [
                self._begin(partition, [_incoming(item) for item in records])
                for where, records in batches.items()
                if records and (partition := self._partitions.get(where.partition)) is not None
            ]
            if begun:
                with self._unfetched():
                    linger = asyncio.create_task(asyncio.sleep(LINGER))
                    await asyncio.wait(begun, timeout=TOGETHER)
                    await linger

    @contextmanager
    def _unfetched(self) -> Iterator[None]:
        """Fetch nothing meanwhile: what is fetched ahead would be taken by the next poll, and what comes after it by the one
        after that, so that each record waited for a poll too many."""
        consumer = self._consumer
        where = consumer.assignment() if consumer is not None else frozenset()
        if consumer is None or not where:
            yield
            return
        consumer.pause(*where)
        try:
            yield
        finally:
            consumer.resume(*(where & consumer.assignment()))

    async def _fetch(self, idle: Sequence[TopicPartition]) -> Batches:
        """The next records of partitions that have no batch in flight; raises KafkaError. A paced consumer takes fewer."""
        return await self._ask(idle, self._max_records, wait_ms=100)

    async def _ask(self, where: Sequence[TopicPartition], most: int, *, wait_ms: int) -> Batches:
        assert self._consumer is not None
        found: Batches = await self._consumer.getmany(*where, timeout_ms=wait_ms, max_records=min(most, self._max_records))
        return found

    def _begin(self, partition: _Partition, batch: list[Incoming]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(self._handle(partition, batch))
        partition.task = task
        task.add_done_callback(lambda done: self._handled(partition, done))
        return task

    def _handled(self, partition: _Partition, task: asyncio.Task[None]) -> None:
        partition.task = None
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("batch failed for good", consumer=self._name, partition=partition.number, exc_info=error)
            self._fail(f"{self._name}: partition {partition.number}: {type(error).__name__}: {error}")

    async def _handle(self, partition: _Partition, batch: list[Incoming]) -> None:
        """Handle one batch until it succeeds: what is retryable for ever, a bug of ours a few times."""
        bugs, delay = 0, BACKOFF[0]
        while True:
            try:
                letters = await self._handler.handle(partition.number, batch)
                await self._bury(letters)
            except RETRYABLE as error:
                reason: Exception = error
            except Exception as error:
                bugs += 1
                if bugs >= ATTEMPTS_ON_BUG:
                    raise
                reason = error
                log.exception("batch failed", consumer=self._name, partition=partition.number, offset=batch[0].offset)
            else:
                break
            partition.failed_at = time.monotonic()
            retried.labels(self._topic, type(reason).__name__).inc()
            log.warning("batch retried", consumer=self._name, partition=partition.number, reason=str(reason)[:200])
            await asyncio.sleep(delay)
            delay = min(delay * 2, BACKOFF[1])
        partition.done = batch[-1].offset + 1
        handled.labels(self._topic).inc(len(batch))

    async def _bury(self, letters: list[Dead]) -> None:
        if letters:
            now = int(time.time() * 1000)
            await self._journal.produce(
                [Entry(names.DEAD, item.product or item.record.topic, _letter(item, now)) for item in letters]
            )
            dead.labels(self._topic).inc(len(letters))
            for item in letters[:10]:
                log.warning("dead letter", partition=item.record.partition, offset=item.record.offset, reason=item.reason)

    async def _commit(self, partitions: dict[int, _Partition]) -> None:
        """Commit what is done. A failure is only more work later: the records are handled again."""
        offsets = {
            TopicPartition(self._topic, item.number): OffsetAndMetadata(offset, "")
            for item in partitions.values()
            if (offset := self._settled(item)) is not None and offset != item.committed
        }
        if not offsets or self._consumer is None:
            return
        try:
            async with asyncio.timeout(DRAIN):
                await self._consumer.commit(offsets)
        except (KafkaError, TimeoutError) as error:
            retried.labels(self._topic, "commit").inc()
            log.warning("commit failed", consumer=self._name, error=type(error).__name__)
            return
        for where, offset in offsets.items():
            partitions[where.partition].committed = offset.offset

    def _settled(self, item: _Partition) -> int | None:
        """Below this nothing has to come again."""
        held = self._holds(item.number)
        return item.done if held is None or item.done is None else min(item.done, held)


def _incoming(item: ConsumerRecord) -> Incoming:
    return Incoming(item.topic, item.partition, item.offset, item.timestamp, item.key, item.value)


def _letter(item: Dead, now_ms: int) -> DeadLetter:
    record = item.record
    return DeadLetter(
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        reason=item.reason[:500],
        at_ms=now_ms,
        key=record.key[:256] if record.key is not None else None,
        value=record.value[: 128 * 1024] if record.value is not None else None,
        id=item.id,
        client=item.client,
        product=item.product,
    )
