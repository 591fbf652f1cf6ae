"""Records to their partitions, each call's in its order, with as few futures as may be.

aiokafka takes a record at a time, each with a future of its own and some five calls: 13 µs, of which a batch that we fill
needs 2 to 5. But such a batch waits until the one before it has left, where a record joins that one; so only who has `BULK`
records for one partition fills a batch. It is as idempotent as any: the producer numbers its records when it leaves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec
from aiokafka import AIOKafkaProducer
from aiokafka.errors import MessageSizeTooLargeError

BULK: Final = 8


class Position(msgspec.Struct, frozen=True):
    """Where a record lies: partition, offset, and the broker's append time (ms)."""

    partition: int
    offset: int
    timestamp_ms: int


class Item(NamedTuple):
    """One record, encoded."""

    topic: str
    partition: int
    key: bytes
    value: bytes | None


Placed = tuple[int, Position]
"""Whose position it is, by its place among the items."""


async def send(producer: AIOKafkaProducer, items: Sequence[Item]) -> list[Position]:
    """Send all and return where each lies, when all are acknowledged. Raises KafkaError: then any of them may be there or not."""
    groups: dict[tuple[str, int], list[int]] = {}
    for place, item in enumerate(items):
        groups.setdefault((item.topic, item.partition), []).append(place)
    few = [place for places in groups.values() if len(places) < BULK for place in places]
    many = [places for places in groups.values() if len(places) >= BULK]
    futures = [
        await producer.send(items[place].topic, key=items[place].key, value=items[place].value, partition=items[place].partition)
        for place in few
    ]
    bulks: list[list[Placed]]
    bulks, singles = await asyncio.gather(
        asyncio.gather(*[_bulk(producer, items, places) for places in many]), asyncio.gather(*futures)
    )
    placed = [each for bulk in bulks for each in bulk]
    placed += [
        (place, Position(found.partition, found.offset, found.timestamp)) for place, found in zip(few, singles, strict=True)
    ]
    return [position for _, position in sorted(placed, key=_place)]


def _place(placed: Placed) -> int:
    return placed[0]


async def _bulk(producer: AIOKafkaProducer, items: Sequence[Item], places: list[int]) -> list[Placed]:
    """Records of one partition, in batches of their own."""
    topic, partition, *_ = items[places[0]]
    sent = []
    while places:
        batch, times = producer.create_batch(), []
        for place in places:
            written = batch.append(timestamp=None, key=items[place].key, value=items[place].value)
            if written is None:
                break
            times.append(written.timestamp)
        if not times:
            raise MessageSizeTooLargeError(f"{topic}: a record of {len(items[places[0]].value or b'')} bytes fits no batch")
        sent.append((await producer.send_batch(batch, topic, partition=partition), places[: len(times)], times))
        places = places[len(times) :]
    results = await asyncio.gather(*[future for future, _, _ in sent])
    return [
        (place, Position(partition, first.offset + i, time if first.timestamp == -1 else first.timestamp))
        for first, (_, batch_places, times) in zip(results, sent, strict=True)
        for i, (place, time) in enumerate(zip(batch_places, times, strict=True))
    ]
