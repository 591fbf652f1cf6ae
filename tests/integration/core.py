"""The core in one process on real brokers: saver, delivery and register, with a test playing the room and the producer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition

from infra.bus import Bus
from infra.documents import Product, Queue, product_key
from infra.journal import Entry, Journal
from infra.keeper import Keeper
from infra.queues import OwnQueues
from infra.register import Register
from infra.settings import Settings
from infra.wire import ELSEWHERE, OK, Bind, BindItem, ConnectItem, Hint, HintResult, ProductWindow, Reply, Request, SyncItem
from schemas import codec, names
from schemas.records import PushMessage, Record
from workers.delivery.delivery import Delivery
from workers.delivery.hints import HintSender
from workers.delivery.paced import PacedRunner
from workers.delivery.queues import Queues
from workers.runner import Runner
from workers.saver.recovery import Recovery
from workers.saver.saver import Saver


async def eventually(check: Callable[[], Any], *, within: float = 15.0, what: str = "the condition") -> Any:
    """Wait until `check()` (or what it awaits) is truthy, and return it; fails with `what` after `within` seconds."""
    deadline = time.monotonic() + within
    while True:
        found = check()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return found
        assert time.monotonic() < deadline, f"{what} did not come within {within} s"
        await asyncio.sleep(0.02)


def unique(prefix: str) -> str:
    """A name that no other test uses."""
    return f"{prefix}-{uuid4().hex[:8]}"


class TopicReader:
    """Everything that is in a topic from when it was opened, decoded where it can be."""

    def __init__(self, settings: Settings, topic: str) -> None:
        self._settings = settings
        self._topic = topic
        self.records: list[Record] = []
        self.raw: list[Any] = []

    @asynccontextmanager
    async def open(self) -> AsyncIterator[TopicReader]:
        consumer = AIOKafkaConsumer(bootstrap_servers=self._settings.kafka.bootstrap, enable_auto_commit=False)
        await consumer.start()
        consumer.assign([TopicPartition(self._topic, p) for p in range(self._settings.kafka.partitions)])
        await consumer.seek_to_end()
        task = asyncio.create_task(self._read(consumer))
        try:
            yield self
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await consumer.stop()

    async def _read(self, consumer: AIOKafkaConsumer) -> None:
        async for item in consumer:
            self.raw.append(item)
            if item.value is not None:
                self.records.append(codec.decode(item.value))


@dataclass
class Room:
    """A room as the core sees one, played by the test: it answers every hint with `outcome` and keeps it."""

    core: Core
    id: str
    epoch: int
    hints: list[Hint]
    outcome: str = "written"
    connections: int = 0

    async def connect(self, client: str, *, realm: str = names.DEFAULT_REALM) -> Device:
        self.connections += 1
        item = ConnectItem(names.client_key(realm, client), self.id, self.epoch, self.connections)
        [result] = await self.core.saver.connect([item])
        if result.status == ELSEWHERE:
            item = msgspec.structs.replace(item, seen=(result.generation, result.number), until_ms=result.now_ms + 5000)
            [result] = await self.core.saver.connect([item])
        assert result.status == OK
        return Device(self, client, item.connection, result.generation, result.number, realm)


@dataclass
class Device:
    """One connection of a client in a room."""

    room: Room
    client: str
    connection: int
    generation: int
    number: int
    realm: str = names.DEFAULT_REALM

    @property
    def key(self) -> str:
        return names.client_key(self.realm, self.client)

    def where(self) -> tuple[Any, ...]:
        return (self.key, self.room.id, self.room.epoch, self.connection, self.generation, self.number)

    async def bind(
        self, product: str, *, user: str = "", window: tuple[str, ...] = (), limit: int = 32, whole: bool = False
    ) -> Any:
        item = BindItem(*self.where(), Bind(product, 1, [], user), list(window), limit, whole)
        return (await self.room.core.saver.bind([item]))[0]

    async def sync(
        self, product: str, *, acks: Any = (), window: Any = (), limit: int = 32, jobs: Any = (), whole: bool = False
    ) -> Any:
        windows = [ProductWindow(Bind(product, 1, []), list(window), limit)]
        item = SyncItem(*self.where(), windows, list(acks), list(jobs), whole=whole)
        return (await self.room.core.saver.sync([item]))[0]


class Core:
    """Saver, delivery and register on the test's brokers."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.bus = Bus(settings.nats, name="core", version="0.0.1")
        self.journal = Journal(settings.kafka, name="core")
        self.register = Register(settings.redis)
        self.keeper = Keeper(self.bus, disk=settings.data / unique("keeper"))
        self.dead_rooms: set[str] = set()
        self.hints = HintSender(self.bus, instance=unique("delivery"), dead=lambda room, epoch: room in self.dead_rooms)
        self.saver = Saver(self.bus, self.journal, self.register, self.keeper)
        self.failures: list[str] = []
        self._produced: dict[int, int] = {}
        self.own = OwnQueues(self.journal)
        self.queues = Queues(settings.kafka, self.keeper, self.own, self._consumer, fail=self.failures.append)
        self.runner = Runner(
            settings.kafka,
            self.journal,
            topic=names.MESSAGES,
            group=unique("delivery"),
            handler=Delivery(self.journal, self.register, self.keeper, self.hints, queues=self.own),
            name="core-delivery",
            fail=self.failures.append,
        )
        self.recovery = Recovery(
            settings.kafka,
            bus=self.bus,
            journal=self.journal,
            keeper=self.keeper,
            register=self.register,
            runner=self.runner,
            queues=self.queues.runners,
            name="core",
            fail=self.failures.append,
        )

    def _consumer(self, product: str) -> PacedRunner:
        return PacedRunner(
            self.settings.kafka,
            self.journal,
            topic=names.queue_topic(product),
            group=names.queue_group(product),
            handler=Delivery(self.journal, self.register, self.keeper, self.hints, queue=product),
            name=f"core-{product}",
            fail=self.failures.append,
            queue=lambda: self.keeper.queue_of(product),
        )

    async def start(self) -> None:
        for part in (self.bus, self.keeper, self.journal, self.register, self.saver, self.hints):
            await part.start()
        for part in (self.queues, self.runner, self.recovery):
            await part.start()
        await eventually(lambda: self.runner.joined, what="the consumer group")
        await eventually(lambda: self.recovery.open, within=60, what="the register")

    async def stop(self) -> None:
        for part in (self.recovery, self.runner, self.queues, self.hints, self.register, self.journal, self.keeper, self.bus):
            await part.stop()
        assert not self.failures

    async def product(self, **changes: Any) -> str:
        """A product of the test's own."""
        name = unique("p")
        await self.keeper.put(product_key(name), Product(name=name, **changes))
        await eventually(lambda: name in self.keeper.products, what="the product")
        return name

    async def queued(self, **queue: Any) -> str:
        """A product with a queue of its own, which is consumed."""
        name = await self.product(queue=Queue(**queue))
        await eventually(lambda: name in self.queues.runners and self.queues.runners[name].owned(), what="the own queue")
        return name

    async def queue(self, product: str, **queue: Any) -> None:
        """Change a product's own queue by its document; without arguments it has none any more."""
        found = Queue(**queue) if queue else None
        await self.keeper.put(product_key(product), self.keeper.products[product].model_copy(update={"queue": found}))
        await eventually(lambda: self.keeper.queue_of(product) == found, what="the product's document")

    async def room(self) -> Room:
        """A room of the test's own, which answers hints."""
        room = Room(self, unique("room"), int(time.time() * 1000), [])
        decoder, encoder = msgspec.msgpack.Decoder(Request[Hint]), msgspec.msgpack.Encoder()

        async def take(data: bytes) -> bytes:
            request = decoder.decode(data)
            room.hints += request.items
            return encoder.encode(Reply(request.seq, [HintResult(room.outcome) for _ in request.items]))

        await self.bus.serve(room.id, names.room_push(room.id), take)
        return room

    async def push_own(self, product: str, *messages: PushMessage) -> None:
        """Produce to a product's own queue, as center would."""
        topic = names.queue_topic(product)
        await self.journal.produce([Entry(topic, item.client or item.user or "", item) for item in messages])

    async def push(self, *messages: PushMessage) -> None:
        """Produce as center would."""
        entries = [Entry(names.MESSAGES, item.client or item.user or "", item) for item in messages]
        for where in await self.journal.produce(entries):
            self._produced[where.partition] = max(self._produced.get(where.partition, -1), where.offset)

    async def handled(self) -> None:
        """Wait until delivery is through with every record that was pushed: a number of pending messages may be right before."""

        def through() -> bool:
            positions = self.runner.positions()
            return all(positions.get(partition, 0) > offset for partition, offset in self._produced.items())

        await eventually(through, what="every pushed record handled")

    async def pending(self, client: str, product: str, *, realm: str = names.DEFAULT_REALM) -> int:
        view = await self.register.show(names.client_key(realm, client), [product])
        return view.pending.get(product, 0) if view else 0
