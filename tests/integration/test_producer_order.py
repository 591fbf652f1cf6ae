"""Records of a partition lie in Kafka in the order in which they were given, whoever gave them: also where batches are full, and
the broker is slow or was restarted."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from infra.journal import Entry, Journal, JournalDown, apply_topics, create_queues
from infra.local.brokers import LocalBrokers
from infra.producer import Placed, Producer, over
from infra.settings import KafkaSettings
from schemas import names
from schemas.codes import State
from schemas.records import Receipt

WHERE = [TopicPartition(names.RECEIPTS, number) for number in range(3)]
BATCH = 4_000
"""Bytes of a batch: so small that most calls meet one that is full."""


@pytest_asyncio.fixture(scope="module")
async def brokers(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalBrokers]:
    local = LocalBrokers(Path(tmp_path_factory.mktemp("order")), wanted=frozenset({"kafka"}))
    try:
        await local.start()
        await apply_topics(KafkaSettings(bootstrap=local.endpoints.kafka))
        yield local
    finally:
        await local.stop()


@pytest_asyncio.fixture
async def producer(brokers: LocalBrokers) -> AsyncIterator[Producer]:
    found = Producer(
        bootstrap_servers=brokers.endpoints.kafka, acks="all", enable_idempotence=True, linger_ms=1, max_batch_size=BATCH
    )
    await found.start()
    await found.follow(names.RECEIPTS)
    yield found
    async with asyncio.timeout(20):
        await found.stop()


class Given:
    """What was given, by partition, in the order of the calls."""

    def __init__(self, producer: Producer) -> None:
        self._producer = producer
        self.placed: dict[tuple[int, int], Placed] = {}
        self._next = dict.fromkeys(WHERE, 0)

    async def call(self, records: int, seed: int) -> None:
        """One call of many: records of several partitions, one after the other, and then the acknowledgement of all."""
        chance, mine = random.Random(seed), []
        for _ in range(records):
            where = chance.choice(WHERE)
            number = self._next[where]
            self._next[where] += 1
            key, value = b"%d" % number, b"x" * chance.randrange(10, 900)
            placed = self._producer.place_now(where, key, value) or await self._producer.place(where, key, value)
            self.placed[where.partition, number] = placed
            mine.append(placed)
            if chance.random() < 0.1:
                await asyncio.sleep(0)
        await over(mine)

    def by_number(self, where: TopicPartition) -> list[tuple[int, int]]:
        """(offset, number) in the order in which they were given; whose call was given up while it waited has no offset."""
        numbers = [number for number in range(self._next[where]) if (where.partition, number) in self.placed]
        return [(self.placed[where.partition, number].found()[1], number) for number in numbers]


async def lie_as_given(brokers: LocalBrokers, given: Given, begun: dict[TopicPartition, int]) -> None:
    """Each where it is said to be, none twice, none overtaken."""
    consumer = AIOKafkaConsumer(bootstrap_servers=brokers.endpoints.kafka, enable_auto_commit=False)
    await consumer.start()
    try:
        for where in WHERE:
            said = given.by_number(where)
            consumer.assign([where])
            consumer.seek(where, begun[where])
            async with asyncio.timeout(20):
                found = [await consumer.getone() for _ in said]
            assert [(each.offset, int(each.key)) for each in found] == said
            assert await consumer.end_offsets([where]) == {where: found[-1].offset + 1}
    finally:
        await consumer.stop()


async def ends(brokers: LocalBrokers) -> dict[TopicPartition, int]:
    consumer = AIOKafkaConsumer(bootstrap_servers=brokers.endpoints.kafka, enable_auto_commit=False)
    await consumer.start()
    try:
        return dict(await consumer.end_offsets(WHERE))
    finally:
        await consumer.stop()


@pytest.mark.parametrize("fault", ["none", "slow", "restarted"])
async def test_given_many_calls_at_once_then_no_record_overtakes_another(
    brokers: LocalBrokers, producer: Producer, fault: str
) -> None:
    begun, given = await ends(brokers), Given(producer)
    calls = [asyncio.create_task(given.call(60, seed)) for seed in range(40)]
    await asyncio.sleep(0.02)
    if fault == "slow":
        for _ in range(5):
            brokers.kafka.pause()
            await asyncio.sleep(0.2)
            brokers.kafka.resume()
            await asyncio.sleep(0.02)
    elif fault == "restarted":
        await brokers.kafka.kill()
        calls += [asyncio.create_task(given.call(60, seed)) for seed in range(40, 50)]
        await brokers.kafka.start()
    async with asyncio.timeout(60):
        await asyncio.gather(*calls)
    await lie_as_given(brokers, given, begun)


async def test_given_a_call_that_is_given_up_then_the_others_go_on_and_nothing_is_out_of_order(
    brokers: LocalBrokers, producer: Producer
) -> None:
    begun, given = await ends(brokers), Given(producer)
    brokers.kafka.pause()
    try:
        calls = [asyncio.create_task(given.call(1, seed)) for seed in range(60)]
        await asyncio.sleep(0.05)
        for call in calls[::3]:
            call.cancel()
    finally:
        brokers.kafka.resume()
    async with asyncio.timeout(20):
        ended = await asyncio.gather(*calls, return_exceptions=True)
    assert len(given.placed) < len(calls)  # some were given up while they waited
    assert [each for each in ended if each is not None and not isinstance(each, asyncio.CancelledError)] == []
    await lie_as_given(brokers, given, begun)


async def test_given_a_producer_that_is_closed_then_it_takes_nothing_more(brokers: LocalBrokers) -> None:
    producer = Producer(bootstrap_servers=brokers.endpoints.kafka, acks="all", enable_idempotence=True, linger_ms=50)
    await producer.start()
    await producer.follow(names.RECEIPTS)
    placed = producer.place_now(WHERE[0], b"k", b"v")
    assert placed is not None
    await producer.stop()
    assert placed.found()[0] == 0  # it was sent
    assert producer.place_now(WHERE[0], b"k", b"v") is None
    with pytest.raises(KafkaError):
        await producer.place(WHERE[0], b"k", b"v")


async def test_given_a_record_that_no_request_takes_then_it_is_refused(producer: Producer) -> None:
    large = b"x" * (2 << 20)
    assert producer.place_now(WHERE[0], b"k", large) is None
    with pytest.raises(KafkaError):
        await producer.place(WHERE[0], b"k", large)


async def test_given_a_topic_that_came_later_then_those_before_it_still_have_their_leaders(brokers: LocalBrokers) -> None:
    settings = KafkaSettings(bootstrap=brokers.endpoints.kafka)
    journal = Journal(settings, name="later")
    await journal.start()
    entry = Entry(names.RECEIPTS, "c", receipt())
    try:
        assert await journal.partitions(names.RECEIPTS) == settings.partitions  # known from the start
        await create_queues(settings, ["later"])
        await journal.partitions(names.queue_topic("later"))
        await journal.ping()
        await journal.produce([entry], timeout=5)
        await journal.ping()
        await journal.produce([entry], timeout=5)
    finally:
        await journal.stop()


def receipt() -> Receipt:
    return Receipt(id="r", product="demo", realm="main", client="c", state=State.ACKED, at_ms=1)


async def test_given_a_broker_that_is_away_then_the_outcome_is_unknown(brokers: LocalBrokers) -> None:
    journal = Journal(KafkaSettings(bootstrap=brokers.endpoints.kafka), name="order")
    await journal.start()
    entries = [Entry(names.RECEIPTS, "c", receipt())] * 20
    first = await journal.produce(entries)
    assert [each.offset - first[0].offset for each in first] == list(range(20))
    brokers.kafka.pause()
    try:
        with pytest.raises(JournalDown):
            await journal.produce(entries, timeout=0.3)
    finally:
        brokers.kafka.resume()
        await journal.stop()
