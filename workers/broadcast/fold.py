"""`push.jobs` read back: which broadcasts there are, who owned them last, and how far they came.

Every owner writes under keys of its own: first a claim (`<job>/new-…`, whose offset is the term), then its cursor
(`<job>/<term>`). So a late write of a former owner can't replace what its successor wrote, however compaction falls. The highest
term wins; its owner removes the keys of lower ones.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from msgspec import structs

from infra.scratch import close, scratch_consumer
from infra.settings import KafkaSettings
from infra.wire import JobNumber
from schemas import codec, names
from schemas.broadcasts import Broadcast, JobRecord
from workers.runner import Retryable

READ_DEADLINE: Final = 30.0
UNNUMBERED: Final[JobNumber] = (-1, -1)
"""The number in a job's first claim, which can't know its own position."""

log = structlog.get_logger("jobfold")


@dataclass(frozen=True, slots=True)
class Read:
    """A record as it was read back."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None


@dataclass(frozen=True, slots=True)
class Folded:
    """A job by its highest term, where it was read; `keys` are all keys that still hold something of it."""

    partition: int
    record: JobRecord
    term: int
    keys: frozenset[str]


def number_of(record: JobRecord) -> JobNumber:
    """The job's number as the record has it."""
    return record.number_partition, record.number_offset


def fold(reads: Iterable[Read]) -> dict[str, Folded]:
    """Job id → its latest record of the highest term, numbered. Records that are none of ours are logged and left out."""
    latest: dict[str, tuple[Read, JobRecord]] = {}
    for item in reads:
        key = (item.key or b"").decode(errors="replace")
        if item.value is None:
            latest.pop(key, None)
            continue
        try:
            names.parse_job_key(key, item.offset)
            latest[key] = item, codec.decode_as(JobRecord, item.value)
        except (codec.Undecodable, names.BadName) as error:
            log.error("job record not readable", partition=item.partition, offset=item.offset, error=str(error)[:200])
    jobs: dict[str, Folded] = {}
    for key, (item, record) in latest.items():
        job, term = names.parse_job_key(key, item.offset)
        known = jobs.get(job)
        keys = (known.keys if known else frozenset()) | {key}
        if known is None or term > known.term:
            jobs[job] = Folded(item.partition, _numbered(record, item), term, keys)
        else:
            jobs[job] = replace(known, keys=keys)
    return jobs


def _numbered(record: JobRecord, item: Read) -> JobRecord:
    if number_of(record) != UNNUMBERED:
        return record
    return structs.replace(record, number_partition=item.partition, number_offset=item.offset)


async def read_jobs(settings: KafkaSettings, partitions: Iterable[int]) -> list[Read]:
    """Everything in these partitions of `push.jobs`, to where they ended at the start; raises Retryable."""
    where = [TopicPartition(names.JOBS, partition) for partition in partitions]
    consumer = scratch_consumer(settings, name="broadcast-fold")
    reads: list[Read] = []
    try:
        async with asyncio.timeout(READ_DEADLINE):
            await consumer.start()
            consumer.assign(where)
            ends = await consumer.end_offsets(where)
            await consumer.seek_to_beginning(*where)
            while [item for item in where if await consumer.position(item) < ends[item]]:
                for item, records in (await consumer.getmany(timeout_ms=200)).items():
                    reads += [Read(item.partition, record.offset, record.key, record.value) for record in records]
    except (KafkaError, OSError, TimeoutError) as error:
        raise Retryable(f"{names.JOBS} not read: {type(error).__name__}: {error}") from error
    finally:
        await close(consumer)
    return reads


async def read_broadcasts(settings: KafkaSettings, positions: Iterable[JobNumber]) -> dict[JobNumber, Broadcast]:
    """The contents at these (partition, offset) of `push.broadcasts`; one that is gone is missing. Raises Retryable."""
    wanted = sorted(set(positions))
    found: dict[JobNumber, Broadcast] = {}
    if not wanted:
        return found
    consumer = scratch_consumer(settings, name="broadcast-fold")
    try:
        async with asyncio.timeout(READ_DEADLINE):
            await consumer.start()
            for partition, offset in wanted:
                content = await _one(consumer, TopicPartition(names.BROADCASTS, partition), offset)
                if content is not None:
                    found[partition, offset] = content
    except (KafkaError, OSError, TimeoutError) as error:
        raise Retryable(f"{names.BROADCASTS} not read: {type(error).__name__}: {error}") from error
    finally:
        await close(consumer)
    return found


async def _one(consumer: AIOKafkaConsumer, where: TopicPartition, offset: int) -> Broadcast | None:
    consumer.assign([where])
    first, end = (await consumer.beginning_offsets([where]))[where], (await consumer.end_offsets([where]))[where]
    if not first <= offset < end:
        return None
    consumer.seek(where, offset)
    record = await consumer.getone(where)
    if record.offset != offset or record.value is None:
        return None
    try:
        return codec.decode_as(Broadcast, record.value)
    except codec.Undecodable:
        return None
