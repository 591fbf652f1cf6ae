"""What a runner's polls bring, on a real Kafka."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from core import eventually, unique

from infra.journal import Journal
from infra.settings import Settings
from workers import runner
from workers.runner import Dead, Incoming, Runner


class Batches:
    """A handler that keeps the values of each batch."""

    def __init__(self) -> None:
        self.seen: list[list[bytes]] = []

    async def assigned(self, partitions: frozenset[int]) -> None:
        """Nothing to do."""

    async def revoked(self, partitions: frozenset[int]) -> None:
        """Nothing to do."""

    async def handle(self, partition: int, records: Sequence[Incoming]) -> list[Dead]:
        self.seen.append([record.value or b"" for record in records])
        return []


@asynccontextmanager
async def reading(settings: Settings, handler: Batches) -> AsyncIterator[AIOKafkaProducer]:
    """A producer for a topic of one partition that a runner reads, whose name is its `topic`."""
    topic, where = unique("polls"), settings.kafka.bootstrap
    admin, producer = AIOKafkaAdminClient(bootstrap_servers=where), AIOKafkaProducer(bootstrap_servers=where)
    await admin.start()
    await producer.start()
    await admin.create_topics([NewTopic(topic, num_partitions=1, replication_factor=1)])
    await producer.partitions_for(topic)  # it is known to all by then
    journal = Journal(settings.kafka, name="polls")
    member = Runner(settings.kafka, journal, topic=topic, group=topic, handler=handler, name="polls", fail=lambda reason: None)
    await member.start()
    await eventually(member.owned, what="the assignment")
    producer.topic = topic
    try:
        yield producer
    finally:
        await member.stop()
        await producer.stop()
        await admin.delete_topics([topic])
        await admin.close()


async def test_given_records_that_come_between_two_polls_then_the_next_poll_has_all_of_them(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "LINGER", 1.0)
    handler = Batches()
    async with reading(settings, handler) as producer:
        await producer.send_and_wait(producer.topic, b"0", partition=0)
        await eventually(lambda: handler.seen, what="the first record")
        for value in (b"1", b"2", b"3"):
            await producer.send_and_wait(producer.topic, value, partition=0)
            await asyncio.sleep(0.05)
        await eventually(lambda: len(handler.seen) > 1, what="the others")
        assert handler.seen == [[b"0"], [b"1", b"2", b"3"]]


async def test_given_polls_that_pause_between_them_then_no_record_stays_unread(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "LINGER", 0.002)
    handler, count = Batches(), 500
    async with reading(settings, handler) as producer:
        for number in range(count):
            await producer.send_and_wait(producer.topic, b"%d" % number, partition=0)
        await eventually(lambda: sum(map(len, handler.seen)) == count, what="all records")
        assert [value for batch in handler.seen for value in batch] == [b"%d" % number for number in range(count)]
