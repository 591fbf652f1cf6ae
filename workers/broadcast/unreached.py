"""A broadcast's fallback: whom of its persons it has not reached when that is due, into `push.fallback`.

A broadcast has no record per client, so the durable registry `push.clients` is walked: partition by partition, the last record
of each key, and the register is asked who of them has settled the job. What a room has not saved yet (it does with each sync, and
with the disconnect) counts as unsettled. Per (job, client) it is handed over once, and again only if a partition is begun anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Container, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final
from zlib import crc32

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError
from prometheus_client import Counter

from infra.journal import Entry, Journal, JournalDown
from infra.register import Register
from infra.scratch import close, scratch_consumer
from infra.settings import KafkaSettings
from infra.wire import JobNumber
from schemas import codec, names
from schemas.broadcasts import Broadcast
from schemas.records import ClientRecord, Fallback

CHUNK: Final = 100
"""Clients that are asked about, paced and produced in one go."""
HELD: Final = 500_000
"""Clients that are held at a time, about 100 MB: a partition with more records is read once for each share of its keys."""
STEP: Final = 2_000
STALL: Final = 15.0
"""Seconds without a record before the read counts as failed."""

handed_over = Counter("longwire_fallback_job_handed_total", "Clients whose broadcast was unsettled when its fallback was due")

Matches = Callable[[ClientRecord], bool]
Take = Callable[[int], Awaitable[None]]


@dataclass(slots=True)
class Reach:
    """How many clients of a partition the job was meant for, and how many of them were handed over."""

    eligible: int = 0
    handed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """A job whose fallback is due. `started_ms`: as its owner knows it; `matches`: is the job for this client?"""

    job: Broadcast
    number: JobNumber
    started_ms: int
    matches: Matches


class JobFallback:
    """Hands over jobs (a part of the process: infra.lifecycle.Part). `held`: clients held at a time.

    The register is opened by the first job that needs it: broadcasts go on without Redis.
    """

    def __init__(self, settings: KafkaSettings, journal: Journal, register: Register, *, held: int = HELD) -> None:
        self._settings = settings
        self._journal = journal
        self._register = register
        self._held = held

    async def start(self) -> None:
        """Nothing yet."""

    async def stop(self) -> None:
        """Close the register."""
        await self._register.stop()

    async def run(
        self, due: Due, *, take: Take, passed: Callable[[int, Reach], Awaitable[None]], skip: Container[int] = frozenset()
    ) -> None:
        """Hand over who is unsettled, partition by partition; `skip`: those that were done before.

        `take(n)` returns when n persons may be handed over. `passed(partition, reach)` is awaited when all of the partition is
        in Kafka, acknowledged. Raises JournalDown or RegisterDown: begin again with what had not passed.
        """
        if not self._register.shards.all:
            await self._register.start()
        for partition in range(await self._journal.partitions(names.CLIENTS)):
            if partition not in skip:
                await passed(partition, await self._partition(due, partition, take))

    async def _partition(self, due: Due, partition: int, take: Take) -> Reach:
        reach = Reach()
        async with self._consumer(partition) as (consumer, begin, end):
            shares = max(1, -(-(end - begin) // self._held))
            for share in range(shares):
                users = await self._eligible(consumer, due, begin, end, (share, shares))
                reach.eligible += len(users)
                keys = list(users)
                for start in range(0, len(keys), CHUNK):
                    reach.handed += await self._hand(due, {key: users[key] for key in keys[start : start + CHUNK]}, take)
        return reach

    async def _hand(self, due: Due, users: dict[str, str | None], take: Take) -> int:
        settled = await self._register.settled_job(list(users), due.job.product, due.number)
        missing = [key for key, done in zip(users, settled, strict=True) if not done]
        if missing:
            await take(len(missing))
            await self._journal.produce([_entry(due, key, users[key]) for key in missing])
            handed_over.inc(len(missing))
        return len(missing)

    # --- reading -------------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _consumer(self, partition: int) -> AsyncIterator[tuple[AIOKafkaConsumer, int, int]]:
        """A consumer of one partition of the registry, with its first and last offset (exclusive) of now."""
        consumer = scratch_consumer(self._settings, name="broadcast-fallback")
        where = TopicPartition(names.CLIENTS, partition)
        try:
            await consumer.start()
            consumer.assign([where])
            begin, end = await consumer.beginning_offsets([where]), await consumer.end_offsets([where])
            yield consumer, begin[where], end[where]
        except (KafkaError, OSError) as error:  # TimeoutError is an OSError
            raise JournalDown(f"{names.CLIENTS} partition {partition}: {type(error).__name__}: {error}") from error
        finally:
            await close(consumer)

    async def _eligible(
        self, consumer: AIOKafkaConsumer, due: Due, begin: int, end: int, share: tuple[int, int]
    ) -> dict[str, str | None]:
        """Client key → user, of this share of the keys: for whom the last record says that the job is theirs."""
        found: dict[str, str | None] = {}
        suffix = f" {due.job.product}".encode()
        async for batch in _batches(consumer, begin, end):
            for source in batch:
                if source.key.endswith(suffix) and crc32(source.key) % share[1] == share[0]:
                    _take(found, source, due)
        return found


def _take(found: dict[str, str | None], source: ConsumerRecord, due: Due) -> None:
    """One more record of a key: the last one counts, and a tombstone says that the client left the product."""
    key = source.key.decode(errors="replace").rpartition(" ")[0]
    found.pop(key, None)
    try:
        record = codec.decode(source.value) if source.value is not None else None
    except codec.Undecodable:
        return
    if isinstance(record, ClientRecord) and record.realm == due.job.realm and due.matches(record):
        found[key] = record.bind.user


async def _batches(consumer: AIOKafkaConsumer, begin: int, end: int) -> AsyncIterator[Sequence[ConsumerRecord]]:
    """The records of [begin, end); compaction leaves gaps, so the consumer's position decides."""
    [where] = consumer.assignment()
    consumer.seek(where, begin)
    while begin < end:
        async with asyncio.timeout(STALL):
            while not (found := (await consumer.getmany(where, timeout_ms=100, max_records=STEP)).get(where)):
                if await consumer.position(where) >= end:
                    return
        begin = found[-1].offset + 1
        yield [record for record in found if record.offset < end and record.key is not None]


def _entry(due: Due, key: str, user: str | None) -> Entry:
    realm, client = names.split_client_key(key)
    job = due.job
    record = Fallback(
        id=job.id,
        product=job.product,
        realm=realm,
        client=client,
        user=user,
        payload=job.payload,
        content_type=job.content_type,
        properties=job.properties,
        accepted_ms=due.started_ms,
        reason=f"not settled {job.fallback_after_s} s after the broadcast began",
    )
    return Entry(names.FALLBACK, client, record)
