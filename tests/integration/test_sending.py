"""Records sent by themselves and as batches of our own: all there, where they are said to be, in order, once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from aiokafka import AIOKafkaConsumer, TopicPartition
from core import TopicReader, eventually, unique

from infra.journal import Entry, Journal, JournalDown
from infra.sending import BULK
from infra.settings import Settings
from schemas import codec, names
from schemas.codes import State
from schemas.records import Receipt


@pytest_asyncio.fixture(scope="module")
async def journal(settings: Settings) -> AsyncIterator[Journal]:
    journal = Journal(settings.kafka, name="test-sending")
    await journal.start()
    yield journal
    await journal.stop()


def receipts(client: str, count: int, *, detail: str = "") -> list[Entry]:
    return [
        Entry(
            names.RECEIPTS,
            client,
            Receipt(id=f"{client}-{n}", product="demo", realm="main", client=client, state=State.ACKED, at_ms=n, detail=detail),
        )
        for n in range(count)
    ]


async def test_given_few_and_many_of_a_partition_then_each_lies_where_it_is_said_to_and_in_order(
    journal: Journal, settings: Settings
) -> None:
    run = unique("c")
    calls = [
        [entry for n in range(clients) for entry in receipts(f"{run}-{count}-{n}", count)]
        for clients, count in ((1, 1), (1, BULK - 1), (1, BULK), (3, BULK + 1), (40, 5), (1, 300))
    ]
    reader = TopicReader(settings, names.RECEIPTS)
    async with reader.open():
        positions = await asyncio.gather(*(journal.produce(call) for call in calls))
        wanted = sum(len(call) for call in calls)
        mine = await eventually(lambda: _of(reader, run, wanted), what="all records")
    assert len(mine) == wanted  # none of them twice
    for call, found in zip(calls, positions, strict=True):
        for entry, position in zip(call, found, strict=True):
            assert mine[position.partition, position.offset] == (entry.record, position.timestamp_ms)
        for client in {entry.key for entry in call}:
            offsets = [position.offset for entry, position in zip(call, found, strict=True) if entry.key == client]
            assert offsets == sorted(offsets)


def _of(reader: TopicReader, run: str, wanted: int) -> dict[tuple[int, int], tuple[Receipt, int]] | None:
    mine = [item for item in reader.raw if item.key.decode().startswith(run)]
    found = {(item.partition, item.offset): (codec.decode_as(Receipt, item.value), item.timestamp) for item in mine}
    return found if len(mine) >= wanted else None


async def test_given_more_than_a_batch_takes_then_the_rest_is_the_next_one(journal: Journal, settings: Settings) -> None:
    client = unique("c")
    positions = await journal.produce(receipts(client, 20, detail="d" * 60_000))
    assert [each.offset - positions[0].offset for each in positions] == list(range(20))
    consumer = AIOKafkaConsumer(bootstrap_servers=settings.kafka.bootstrap, enable_auto_commit=False)
    await consumer.start()
    try:
        place = TopicPartition(names.RECEIPTS, positions[0].partition)
        consumer.assign([place])
        consumer.seek(place, positions[0].offset)
        for n in range(20):
            record = codec.decode((await consumer.getone()).value)
            assert isinstance(record, Receipt)
            assert record.id == f"{client}-{n}"
    finally:
        await consumer.stop()


async def test_given_a_broker_that_is_away_then_the_outcome_is_unknown(settings: Settings) -> None:
    journal = Journal(settings.kafka, name="test-sending-away")
    await journal.start()
    await journal.produce(receipts("c", 1))
    try:
        with pytest.raises(JournalDown):
            await journal.produce(receipts("c", 3 * BULK), timeout=0.000_001)
    finally:
        await journal.stop()
