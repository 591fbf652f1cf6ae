"""What Kafka and Redis say: receipts, dead letters, uplinks, the log itself, what is committed and what is pending."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError
from redis.asyncio import Redis

from schemas import codec, names
from schemas.partition import partition_of
from schemas.records import DeadLetter, PushMessage, Receipt, StatusEvent, Uplink
from tests.chaos.checker import SETTLING, Key
from tests.chaos.fleet import PRODUCT, PRODUCTS, token_of
from tests.chaos.history import History

TOPICS = (names.MESSAGES, names.RECEIPTS, names.DEAD, names.UPLINK, names.STATUS)
QUEUE = names.queue_topic(PRODUCT)


class Records:
    """Notes the topics' records from when the row began. `settled`: those of receipts and dead letters, for who waits."""

    def __init__(self, bootstrap: str, partitions: int, history: History) -> None:
        self._bootstrap = bootstrap
        self._partitions = partitions
        self._history = history
        self._task: asyncio.Task[None] | None = None
        self._queued = False
        self.settled: set[Key] = set()

    async def start(self) -> None:
        """Begin at the topics' present ends."""
        self._consumer = AIOKafkaConsumer(bootstrap_servers=self._bootstrap, enable_auto_commit=False)
        await self._consumer.start()
        self._queued = QUEUE in await self._consumer.topics()  # where the product has a queue of its own
        topics = (*TOPICS, QUEUE) if self._queued else TOPICS
        self._consumer.assign([TopicPartition(topic, p) for topic in topics for p in range(self._partitions)])
        await self._consumer.seek_to_end()
        for where in self._consumer.assignment():
            await self._consumer.position(where)
        self._task = asyncio.create_task(self._read())

    async def stop(self) -> None:
        """End."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            await self._consumer.stop()

    async def _read(self) -> None:
        while True:
            try:
                found = await self._consumer.getmany(timeout_ms=200, max_records=2000)
            except KafkaError:
                await asyncio.sleep(0.5)
                continue
            for batch in found.values():
                for source in batch:
                    self._take(source, codec.decode(source.value))

    def _take(self, source: ConsumerRecord, record: object) -> None:
        note = self._history.note
        if isinstance(record, PushMessage):
            if record.client is not None and partition_of(record.client, self._partitions) == source.partition:
                token = token_of(record.payload)
                where = {"topic": source.topic, "partition": source.partition, "offset": source.offset}
                note("record", token=token, product=record.product, id=record.id, client=record.client, **where)
        elif isinstance(record, Receipt):
            if record.state in SETTLING:
                self.settled.add((record.product, record.id, record.client))
            clock = round(record.at_ms / 1000 - time.time())
            state = str(record.state)
            note("receipt", product=record.product, id=record.id, client=record.client, state=state, clock=clock)
        elif isinstance(record, DeadLetter) and record.topic != names.FALLBACK:  # there the message itself is not dead
            if record.product is not None and record.id is not None and record.client is not None:
                self.settled.add((record.product, record.id, record.client))
            note("dead", product=record.product, id=record.id, client=record.client, reason=record.reason)
        elif isinstance(record, Uplink):
            note("uplinked", id=record.id, client=record.client)
        elif isinstance(record, StatusEvent):
            event, session = str(record.event), record.session
            note("status", client=record.client, event=event, generation=record.generation, session=session)

    async def committed(self) -> None:
        """Note what the delivery groups have committed."""
        await self._committed(names.MESSAGES, names.DELIVERY_GROUP)
        if self._queued:
            await self._committed(QUEUE, names.queue_group(PRODUCT))

    async def _committed(self, topic: str, group: str) -> None:
        consumer = AIOKafkaConsumer(bootstrap_servers=self._bootstrap, group_id=group, enable_auto_commit=False)
        await consumer.start()
        try:
            for partition in range(self._partitions):
                offset = await consumer.committed(TopicPartition(topic, partition))
                self._history.note("committed", topic=topic, partition=partition, offset=offset or 0)
        finally:
            await consumer.stop()


class Index:
    """The register, read past its scripts."""

    def __init__(self, url: str) -> None:
        self._redis = Redis.from_url(url, decode_responses=True)

    async def stop(self) -> None:
        """Close the connections."""
        await self._redis.aclose()

    async def pending(self, clients: Iterable[str]) -> list[Key]:
        """Everything that is stored for these clients."""
        wanted = [(product, client) for client in clients for product in PRODUCTS]
        pipe = self._redis.pipeline(transaction=False)
        for product, client in wanted:
            pipe.hkeys(names.bodies_key(names.client_key("main", client), product))
        found = await pipe.execute()
        return [(product, message, client) for (product, client), ids in zip(wanted, found, strict=True) for message in ids]

    async def rooms(self, clients: Iterable[str]) -> dict[str, str]:
        """The room of each client's session, "" for none."""
        wanted = list(clients)
        pipe = self._redis.pipeline(transaction=False)
        for client in wanted:
            pipe.hget(names.session_key(names.client_key("main", client)), "room")
        return {client: room or "" for client, room in zip(wanted, await pipe.execute(), strict=True)}

    async def sessions(self, clients: Iterable[str]) -> dict[str, tuple[int, int]]:
        """Each client's session (generation, number), of those that have one. No connection is left: its server may end."""
        wanted = list(clients)
        pipe = self._redis.pipeline(transaction=False)
        for client in wanted:
            pipe.hmget(names.session_key(names.client_key("main", client)), "generation", "number")
        found = zip(wanted, await pipe.execute(), strict=True)
        await self._redis.connection_pool.disconnect()
        return {client: (int(generation), int(number)) for client, (generation, number) in found if number is not None}

    async def users(self, users: Iterable[str]) -> dict[str, set[str]]:
        """The clients of each user."""
        wanted = list(users)
        pipe = self._redis.pipeline(transaction=False)
        for user in wanted:
            pipe.smembers(names.user_key("main", PRODUCT, user))
        return dict(zip(wanted, map(set, await pipe.execute()), strict=True))
