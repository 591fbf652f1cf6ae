"""aiokafka's producer, which takes many records for what one costs, in the order in which they are given (docs/adr/0032).

`send()` makes a future for each record and walks through some ten calls; a batch has a future of its own. So records are put
straight into the batch that `send()` would put them into, the last that waits for its partition. There is one queue of batches
for each partition, whoever fills them, and nothing can overtake in it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.structs import RecordMetadata

LARGE: Final = 512 * 1024
"""Bytes beyond which a record is left to `send()`, which knows how large a request may be."""

UNSAID: Final = -1
"""A broker's time, where it keeps that of the record."""


class Placed(NamedTuple):
    """A record in a batch: the future of the batch, the record's place in it, and when it was put there (ms)."""

    batch: asyncio.Future[RecordMetadata]
    place: int
    at_ms: int

    def found(self) -> tuple[int, int, int]:
        """Once the batch is done: partition, offset, and the broker's append time (ms). Raises KafkaError."""
        first = self.batch.result()
        return first.partition, first.offset + self.place, self.at_ms if first.timestamp == UNSAID else first.timestamp


class Producer(AIOKafkaProducer):  # type: ignore[misc]
    """Records of one partition lie in the order in which they were given, over all calls, also where one had to wait."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._behind: Counter[TopicPartition] = Counter()
        """How many wait for the next batch of a partition: whoever comes then waits behind them."""
        self._turns: dict[TopicPartition, asyncio.Lock] = {}

    def place_now(self, where: TopicPartition, key: bytes, value: bytes | None) -> Placed | None:
        """Put a record into a batch; None if it has to wait, as `place` does: for room, or for a leader of the partition."""
        batches = self._message_accumulator
        if where in self._behind or (value is not None and len(value) > LARGE):
            return None
        if waiting := batches._batches.get(where):
            batch = waiting[-1]
        elif batches._closed or batches._exception is not None or self._metadata.leader_for_partition(where) is None:
            return None
        else:
            batch = batches._append_batch(self.create_batch(), where)
            batch.future.add_done_callback(_seen)
        written = batch._builder.append(timestamp=None, key=key, value=value)
        return None if written is None else Placed(batch.future, written.offset, written.timestamp)

    async def follow(self, topic: str) -> int:
        """How many partitions a topic has; from now on brokers are asked for it with every refresh. Else what was there at the
        start is forgotten with the first topic that was not, and its batches wait for a leader for ever. Raises KafkaError."""
        await self.client.add_topic(topic)
        return len(await self.partitions_for(topic))

    async def place(self, where: TopicPartition, key: bytes, value: bytes | None) -> Placed:
        """The same, once there is room for it. Raises KafkaError."""
        self._behind[where] += 1
        try:
            async with self._turns.setdefault(where, asyncio.Lock()):
                return Placed(await self.send(where.topic, key=key, value=value, partition=where.partition), 0, 0)
        finally:
            self._behind[where] -= 1
            if not self._behind[where]:
                del self._behind[where]


async def over(placed: Sequence[Placed]) -> None:
    """Return when nothing is under way any more. Given up, the batches go on: they have records of others, too."""
    await asyncio.wait({each.batch for each in placed})


def _seen(batch: asyncio.Future[RecordMetadata]) -> None:
    """Whoever asked may have given up."""
    if not batch.cancelled():
        batch.exception()
