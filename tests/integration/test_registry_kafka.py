"""Producers with a schema registry: devices get their records, and their readers what Longwire writes. Real Kafka and HTTP."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import fastavro
import pytest
import pytest_asyncio
import redis.asyncio
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from core import eventually, unique
from joserfc import jwt
from joserfc.jwk import OctKey
from own_brokers import own_brokers
from worker_process import running

from infra.bus import Bus
from infra.documents import Issuer, Product, SigningKey, issuer_key, product_key
from infra.journal import Journal, JournalDown
from infra.keeper import Keeper
from infra.register import Register, RegisterDown
from infra.scratch import close, scratch_consumer
from infra.settings import Settings
from pushclient import PushClient
from pushclient import PushMessage as Received
from schemas import codec, names
from schemas.partition import partition_of
from schemas.records import Uplink
from tests.integration.registry_server import RegistryServer, serving

pytestmark = pytest.mark.xdist_group("registry")

PRODUCT = "registry-shop"
SECRET = "integration-secret-integration-secret"
SCHEMA = codec.load_schema("PushMessage.v3")
PARSED = fastavro.parse_schema(codec.load_schema("PushMessage.v3"))


def token(client: str) -> str:
    claims = {"iss": PRODUCT, "aud": "longwire", "sub": client, "exp": int(time.time()) + 600, "products": {PRODUCT: {}}}
    return jwt.encode({"alg": "HS256"}, claims, OctKey.import_key(SECRET))


@dataclass
class Shop:
    """A saver, delivery and a room that know the registry, and a producer that knows nothing of Longwire but the `.avsc` file."""

    settings: Settings
    registry: RegistryServer
    producer: AIOKafkaProducer
    room: tuple[str, int] = ("", 0)
    got: Counter[tuple[str, bytes]] = field(default_factory=Counter)

    @asynccontextmanager
    async def device(self, client: str) -> AsyncIterator[PushClient]:
        def take(message: Received) -> None:
            self.got[client, message.payload] += 1

        made = PushClient(client_id=client, token=lambda: token(client), servers=[self.room], on_message=take)
        await made.start()
        try:
            await made.bind(PRODUCT)
            yield made
        finally:
            await made.close()

    async def send(self, schema: int, client: str, payload: bytes) -> None:
        """What a producer with Confluent's serializer puts into Kafka, made by hand."""
        body = BytesIO(b"\x00" + schema.to_bytes(4, "big"))
        body.seek(5)
        datum = {"id": unique("m"), "product": PRODUCT, "client": client, "payload": payload}
        fastavro.schemaless_writer(body, PARSED, datum)
        partition = partition_of(client, self.settings.kafka.partitions)
        await self.producer.send_and_wait(names.MESSAGES, body.getvalue(), key=client.encode(), partition=partition)

    async def raw(self, topic: str) -> list[ConsumerRecord]:
        """Everything in a topic, as it lies there."""
        consumer = AIOKafkaConsumer(bootstrap_servers=self.settings.kafka.bootstrap, auto_offset_reset="earliest")
        await consumer.start()
        try:
            places = [TopicPartition(topic, number) for number in range(self.settings.kafka.partitions)]
            consumer.assign(places)
            ends, found = await consumer.end_offsets(places), list[ConsumerRecord]()
            while any([await consumer.position(place) < ends[place] for place in places]):
                for batch in (await consumer.getmany(timeout_ms=200)).values():
                    found += batch
            return found
        finally:
            await consumer.stop()

    async def decoded(self, topic: str) -> list[Any]:
        """The records of a topic as a consumer with Confluent's deserializer reads them: by the registry's schema alone."""
        found = []
        for record in await self.raw(topic):
            assert record.value[:1] == b"\0", record
            schema = json.loads(self.registry.schemas[int.from_bytes(record.value[1:5], "big")])
            found.append(fastavro.schemaless_reader(BytesIO(record.value[5:]), fastavro.parse_schema(schema), None))
        return found


@pytest_asyncio.fixture(scope="module")
async def shop(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shop]:
    folder = tmp_path_factory.mktemp("registry")
    async with AsyncExitStack() as stack:
        settings = await stack.enter_async_context(own_brokers(folder))
        registry = stack.enter_context(serving())
        bus = Bus(settings.nats, name="test-registry", version="0.0.0")
        await bus.start()
        keeper = Keeper(bus, disk=folder / "keeper")
        key = SigningKey(secret=SECRET)  # type: ignore[arg-type]
        await keeper.put(product_key(PRODUCT), Product(name=PRODUCT))
        await keeper.put(issuer_key(PRODUCT), Issuer(iss=PRODUCT, keys=(key,), products=(PRODUCT,)))
        await bus.stop()
        known = {"LONGWIRE_KAFKA__REGISTRY_URL": registry.url}
        for worker in ("delivery", "saver", "coordinator"):
            await stack.enter_async_context(running(f"workers.main:{worker}", settings, folder / worker, **known))
        producer = AIOKafkaProducer(bootstrap_servers=settings.kafka.bootstrap, acks="all")
        await producer.start()
        stack.push_async_callback(producer.stop)
        report = await stack.enter_async_context(
            running("gateway.main:main", settings, folder / "room", LONGWIRE_ROOM__ID="reg-a", LONGWIRE_ROOM__DRAIN="0.2s")
        )
        kafka = settings.kafka.model_copy(update={"registry_url": registry.url})
        yield Shop(settings.model_copy(update={"kafka": kafka}), registry, producer, (report["host"], report["port"]))


async def test_given_a_message_in_confluents_format_then_the_device_gets_it_and_the_receipt_is_in_that_format(shop: Shop) -> None:
    schema = shop.registry.add(json.dumps(SCHEMA), "push.messages-value")
    async with shop.device("phone-1") as device:
        await shop.send(schema, "phone-1", b"hello")
        await eventually(lambda: shop.got["phone-1", b"hello"], what="the message")
        await device.uplink(PRODUCT, "order", b"thanks")

    async def receipted() -> bool:
        return any(each["client"] == "phone-1" and each["state"] == "acked" for each in await shop.decoded(names.RECEIPTS))

    await eventually(receipted, what="the receipt")
    assert [each["payload"] for each in await shop.decoded(names.UPLINK)] == [b"thanks"]


async def test_given_a_record_in_single_object_encoding_beside_it_then_both_are_read(shop: Shop) -> None:
    schema = shop.registry.add(json.dumps(SCHEMA), "push.messages-value")
    async with shop.device("phone-2"):
        await shop.send(schema, "phone-2", b"framed")
        body = BytesIO()
        datum = {"id": unique("m"), "product": PRODUCT, "client": "phone-2", "payload": b"single"}
        fastavro.schemaless_writer(body, PARSED, datum)
        header = codec.header_of(SCHEMA)
        assert header is not None
        where = partition_of("phone-2", shop.settings.kafka.partitions)
        await shop.producer.send_and_wait(names.MESSAGES, header + body.getvalue(), key=b"phone-2", partition=where)
        await eventually(lambda: shop.got["phone-2", b"framed"] and shop.got["phone-2", b"single"], what="both")


async def test_given_the_registry_down_then_what_is_known_goes_on_and_what_is_not_waits_and_is_no_dead_letter(shop: Shop) -> None:
    known = shop.registry.add(json.dumps(SCHEMA), "push.messages-value")
    other = shop.registry.add(json.dumps(SCHEMA, indent=1))
    async with shop.device("phone-3"), shop.device("phone-4"):
        await shop.send(known, "phone-3", b"before")
        await eventually(lambda: shop.got["phone-3", b"before"], what="the first")
        shop.registry.down = True
        try:
            await shop.send(known, "phone-3", b"meanwhile")
            await shop.send(other, "phone-4", b"waits")
            await eventually(lambda: shop.got["phone-3", b"meanwhile"], what="what is known")
            await asyncio.sleep(2)
            assert not shop.got["phone-4", b"waits"]
        finally:
            shop.registry.down = False
        await eventually(lambda: shop.got["phone-4", b"waits"], what="what waited")
    assert [letter for letter in await shop.decoded(names.DEAD) if letter["reason"].count("Confluent")] == []


async def test_given_an_id_that_the_registry_does_not_have_then_it_is_a_dead_letter_and_the_next_goes_on(shop: Shop) -> None:
    schema = shop.registry.add(json.dumps(SCHEMA), "push.messages-value")
    async with shop.device("phone-5"):
        await shop.send(999_999, "phone-5", b"poison")
        await shop.send(schema, "phone-5", b"after")
        await eventually(lambda: shop.got["phone-5", b"after"], what="the next")

    async def buried() -> list[Any]:
        return [each for each in await shop.decoded(names.DEAD) if "schema id 999999" in each["reason"]]

    [letter] = await eventually(buried, what="the dead letter")
    assert letter["value"][:5] == b"\x00" + (999_999).to_bytes(4, "big"), "the bytes as they came"


async def test_given_a_consumer_without_a_group_then_it_reads_records_one_by_one_and_in_batches(shop: Shop) -> None:
    async with shop.device("phone-6") as device:
        await device.uplink(PRODUCT, "order", b"once")
    for one_by_one in (True, False):
        consumer = scratch_consumer(shop.settings.kafka, name="test-registry")
        await consumer.start()
        places = [TopicPartition(names.UPLINK, number) for number in range(shop.settings.kafka.partitions)]
        consumer.assign(places)
        found: list[Uplink] = []
        async with asyncio.timeout(20):
            while not any(uplink.client == "phone-6" for uplink in found):
                batches = [[await consumer.getone()]] if one_by_one else (await consumer.getmany(timeout_ms=500)).values()
                found += [codec.decode_as(Uplink, record.value) for batch in batches for record in batch]
        await close(consumer)


async def test_given_redis_emptied_then_what_is_pending_is_folded_from_kafka_in_that_format_too(shop: Shop) -> None:
    schema = shop.registry.add(json.dumps(SCHEMA), "push.messages-value")
    async with shop.device("phone-7"):
        pass
    register = Register(shop.settings.redis)
    await register.start()

    async def pending() -> bool:
        try:
            view = await register.show(names.client_key(names.DEFAULT_REALM, "phone-7"), [PRODUCT])
        except RegisterDown:
            return False
        return view is not None and view.pending.get(PRODUCT) == 1

    try:
        await shop.send(schema, "phone-7", b"pending")
        await eventually(pending, what="the message in the register")
        async with redis.asyncio.from_url(shop.settings.redis.url) as server:
            await server.flushall()
        assert not await pending()
        await eventually(pending, within=60, what="the message, folded again")
    finally:
        await register.stop()
    async with shop.device("phone-7"):
        await eventually(lambda: shop.got["phone-7", b"pending"], what="the message")


async def test_given_a_registry_that_refuses_a_schema_then_a_process_does_not_start_and_says_why(shop: Shop) -> None:
    with serving() as registry:
        registry.frozen.add("push.receipts-value")
        journal = Journal(shop.settings.kafka.model_copy(update={"registry_url": registry.url}), name="test-refused")
        with pytest.raises(JournalDown, match=r"409 for Receipt\.v1 under push\.receipts-value"):
            await journal.start()
        registry.down = True
        journal = Journal(shop.settings.kafka.model_copy(update={"registry_url": registry.url}), name="test-refused")
        with pytest.raises(JournalDown, match="the schema registry answers 503"):
            await journal.start()
