"""When a runner's handler is told of its partitions: before their first records, whatever comes in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from aiokafka import ConsumerRecord, TopicPartition

from infra.journal import Journal
from infra.settings import KafkaSettings
from workers.runner import Batches, Dead, Incoming, Runner


def record(partition: int) -> ConsumerRecord:
    return ConsumerRecord("t", partition, 7, 0, 0, None, b"", 0, 0, 0, ())


class Told:
    """A handler that writes down what it is told; each of `between` happens while it is told of an assignment."""

    def __init__(self) -> None:
        self.said: list[tuple[str, list[int]]] = []
        self.between: list[Callable[[Runner], None]] = []
        self.runner: Runner | None = None

    async def assigned(self, partitions: frozenset[int]) -> None:
        await asyncio.sleep(0)
        if self.between and self.runner is not None:
            self.between.pop(0)(self.runner)
        self.said.append(("assigned", sorted(partitions)))

    async def revoked(self, partitions: frozenset[int]) -> None:
        self.said.append(("revoked", sorted(partitions)))

    async def handle(self, partition: int, records: Sequence[Incoming]) -> list[Dead]:
        self.said.append(("handle", [partition]))
        return []


class Rebalanced(Runner):
    """The group gives it partition 1 while it asks for records of partition 0, and the answer has some of both."""

    asked = 0
    over: asyncio.Event

    async def _fetch(self, idle: Sequence[TopicPartition]) -> Batches:
        await asyncio.sleep(0)
        self.asked += 1
        if self.asked == 3:
            self.over.set()
        if self.asked != 1:
            return {}
        await self.partitions_lost()
        self.partitions_gained({0, 1})
        return {TopicPartition("t", number): [record(number)] for number in (0, 1)}


@asynccontextmanager
async def polling(handler: Told) -> AsyncIterator[None]:
    settings = KafkaSettings()
    runner = Rebalanced(
        settings, Journal(settings, name="t"), topic="t", group="g", handler=handler, name="t", fail=lambda reason: None
    )
    handler.runner, runner.over = runner, asyncio.Event()
    runner.partitions_gained({0})
    task = asyncio.create_task(runner._poll())
    async with asyncio.timeout(5):
        await runner.over.wait()
    yield
    task.cancel()


async def test_given_records_of_a_new_assignment_then_the_handler_is_told_of_it_first() -> None:
    handler = Told()
    async with polling(handler):
        pass
    assert handler.said == [
        ("assigned", [0]),
        ("revoked", [0]),
        ("assigned", [0, 1]),
        ("handle", [0]),
        ("handle", [1]),
    ]


async def test_given_an_assignment_that_is_replaced_while_it_is_told_then_the_next_is_told_and_no_record_of_it_begun() -> None:
    handler = Told()
    handler.between = [lambda runner: None, lambda runner: runner.partitions_gained({1})]
    async with polling(handler):
        pass
    assert handler.said == [("assigned", [0]), ("revoked", [0]), ("assigned", [0, 1]), ("assigned", [1])]
