"""The last records of a topic, read by a consumer without a group: nothing is committed, nobody is disturbed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from infra.journal import JournalDown
from infra.scratch import close, scratch_consumer
from infra.settings import KafkaSettings

DEADLINE: Final = 15.0
BATCH: Final = 500
"""Records between two turns of the loop: a reader must not hold up the API."""

Take = Callable[[bytes | None, bytes | None], None]


@dataclass(frozen=True, slots=True)
class Covered:
    """How many offsets were read, of how many there are. What compaction removed counts in both."""

    read: int
    total: int

    @property
    def whole(self) -> bool:
        """Was everything read?"""
        return self.read >= self.total


async def read_tail(settings: KafkaSettings, topic: str, partitions: Iterable[int], *, most: int, take: Take) -> Covered:
    """Call `take(key, value)` with the last records of each partition, in their order, `most` in all at most, up to where each
    ended at the start; raises JournalDown."""
    places = [TopicPartition(topic, partition) for partition in partitions]
    consumer = scratch_consumer(settings, name="center-tail")
    try:
        async with asyncio.timeout(DEADLINE):
            await consumer.start()
            consumer.assign(places)
            consumer.pause(*places)  # a fetch would hold up the questions
            first, ends = await consumer.beginning_offsets(places), await consumer.end_offsets(places)
            begins = {place: max(first[place], ends[place] - most // len(places)) for place in places}
            for place, offset in begins.items():
                consumer.seek(place, offset)
            consumer.resume(*places)
            await _read(consumer, ends, take)
    except (KafkaError, OSError, TimeoutError) as error:
        raise JournalDown(f"{topic} not read: {type(error).__name__}: {error}") from error
    finally:
        await close(consumer)
    return Covered(sum(ends[place] - begins[place] for place in places), sum(ends[place] - first[place] for place in places))


async def read_back(
    settings: KafkaSettings,
    topic: str,
    partition: int,
    *,
    before: int | None,
    most: int,
    take: Callable[[int, bytes | None, bytes | None], None],
) -> tuple[int, int]:
    """Call `take(offset, key, value)` with the `most` records of a partition before an offset (None: its end), in their order.

    Returns the offset at which it began, and the first one that there is; raises JournalDown.
    """
    place = TopicPartition(topic, partition)
    consumer = scratch_consumer(settings, name="center-back")
    try:
        async with asyncio.timeout(DEADLINE):
            await consumer.start()
            consumer.assign([place])
            consumer.pause(place)  # a fetch would hold up the questions
            first, end = (await consumer.beginning_offsets([place]))[place], (await consumer.end_offsets([place]))[place]
            end = end if before is None else max(first, min(before, end))
            begin = max(first, end - most)
            consumer.seek(place, begin)
            consumer.resume(place)
            while begin < end and await consumer.position(place) < end:
                for record in (await consumer.getmany(timeout_ms=200, max_records=BATCH)).get(place, ()):
                    if record.offset < end:
                        take(record.offset, record.key, record.value)
                await asyncio.sleep(0)
    except (KafkaError, OSError, TimeoutError) as error:
        raise JournalDown(f"{topic} not read: {type(error).__name__}: {error}") from error
    finally:
        await close(consumer)
    return begin, first


async def _read(consumer: AIOKafkaConsumer, ends: dict[TopicPartition, int], take: Take) -> None:
    while [place for place, end in ends.items() if await consumer.position(place) < end]:
        for place, records in (await consumer.getmany(timeout_ms=200, max_records=BATCH)).items():
            for record in records:
                if record.offset < ends[place]:
                    take(record.key, record.value)
        await asyncio.sleep(0)
