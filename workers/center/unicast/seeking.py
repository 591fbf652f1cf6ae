"""A few records of Kafka, sought by their time: from then on, record by record, up to a bound that is told when it is hit.

A consumer without a group, for one question: nothing is committed, nobody is disturbed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from enum import Enum, auto
from typing import Final

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError

from infra.journal import JournalDown
from infra.scratch import close, scratch_consumer
from infra.settings import KafkaSettings

DEADLINE: Final = 10.0
"""Seconds for everything that one question reads."""
BATCH: Final = 500
"""Records between two turns of the loop: a reader must not hold up the API."""

Ranges = dict[TopicPartition, tuple[int, int]]
"""Offsets: the first, and the one behind the last."""
Take = Callable[[ConsumerRecord], bool]
"""What is done with a record; True: no more are needed."""


@asynccontextmanager
async def seeking(settings: KafkaSettings, *, most: int) -> AsyncIterator[Seeker]:
    """A seeker that looks at `most` records in all; raises JournalDown, also where the time is over."""
    consumer = scratch_consumer(
        settings, name="center-seek", fetch_max_wait_ms=50, max_partition_fetch_bytes=256 * 1024, metadata_max_age_ms=60_000
    )
    try:
        async with asyncio.timeout(DEADLINE):
            await consumer.start()
            yield Seeker(consumer, most)
    except (KafkaError, OSError, TimeoutError) as error:
        raise JournalDown(f"not read: {type(error).__name__}: {error}") from error
    finally:
        await close(consumer)


class End(Enum):
    """Why a read ended: enough was found, everything was looked at, or the bound was hit before."""

    FOUND = auto()
    READ = auto()
    BOUND = auto()


class Seeker:
    """One question's reads, one after the other. `left`: records that it may still look at."""

    def __init__(self, consumer: AIOKafkaConsumer, most: int) -> None:
        self._consumer = consumer
        self.left = most

    async def read(self, since: Mapping[TopicPartition, int], take: Take, *, until_ms: int | None = None) -> End:
        """Take the records of each partition from a time (ms, broker's clock) on, up to another or to the end as it is now."""
        return await self._read(await self._ranges(since, until_ms), take)

    async def read_last(self, places: list[TopicPartition], take: Take) -> End:
        """Take the last records of these partitions, up to the bound."""
        self._assign(places)
        begins, ends = await self._consumer.beginning_offsets(places), await self._consumer.end_offsets(places)
        each = self.left // len(places)
        ranges = {place: (max(begins[place], ends[place] - each), ends[place]) for place in places}
        end = await self._read(ranges, take)
        whole = all(ranges[place][0] == begins[place] for place in places)
        return End.BOUND if end is End.READ and not whole else end

    def _assign(self, places: list[TopicPartition]) -> None:
        self._consumer.assign(places)
        self._consumer.pause(*places)  # a fetch would hold up the questions

    async def _ranges(self, since: Mapping[TopicPartition, int], until_ms: int | None) -> Ranges:
        places = list(since)
        self._assign(places)
        ends = await self._consumer.end_offsets(places)
        first = await self._consumer.offsets_for_times({place: max(0, at) for place, at in since.items()})
        if until_ms is not None:
            later = await self._consumer.offsets_for_times(dict.fromkeys(places, max(0, until_ms)))
            ends |= {place: where.offset for place, where in later.items() if where is not None}
        return {place: (where.offset if (where := first[place]) is not None else ends[place], ends[place]) for place in places}

    async def _read(self, ranges: Ranges, take: Take) -> End:
        unread = {place for place, (begin, end) in ranges.items() if begin < end}
        for place in unread:
            self._consumer.seek(place, ranges[place][0])
            self._consumer.resume(place)
        while unread:
            if self.left <= 0:
                return End.BOUND
            found = await self._consumer.getmany(*unread, timeout_ms=200, max_records=min(BATCH, self.left))
            records = [record for place, some in found.items() for record in some if record.offset < ranges[place][1]]
            self.left -= len(records)
            if any(take(record) for record in records):
                return End.FOUND
            for place in found or tuple(unread):
                if await self._consumer.position(place) >= ranges[place][1]:
                    self._consumer.pause(place)
                    unread.discard(place)
            await asyncio.sleep(0)
        return End.READ
