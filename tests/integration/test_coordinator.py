"""The coordinator as a process on real brokers: an uplink goes into Kafka, to its service, and back as a message."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio
from aiokafka import AIOKafkaConsumer, TopicPartition
from worker_process import running, until

from infra.bus import Bus, BusError
from infra.documents import Product, product_key
from infra.keeper import Keeper
from infra.settings import Settings
from infra.wire import VERSION, Reply, Request, UplinkItem, UplinkResult, encoder
from schemas import codec, names
from schemas.records import DeadLetter, PushMessage, Record, Uplink

pytestmark = pytest.mark.xdist_group("local-brokers")

PRODUCT = "coordinator-shop"


@pytest_asyncio.fixture(scope="module")
async def bus(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Bus]:
    """A connection, with a coordinator running beside it that knows the product."""
    folder: Path = tmp_path_factory.mktemp("coordinator")
    part = Bus(settings.nats, name="test-coordinator", version="0.0.0")
    await part.start()
    product = Product(name=PRODUCT, services=("echo", "dead"), service_timeout=1.0)
    await Keeper(part, disk=folder / "keeper").put(product_key(PRODUCT), product)
    async with running("workers.main:coordinator", settings, folder / "run"):
        yield part
    await part.stop()


def item(uplink_id: str, kind: str, **changes: object) -> UplinkItem:
    fields = {"payload": b"hi", "qos": 1, "room": "r1", "wants_reply": True, "correlation": b"\x07", **changes}
    return UplinkItem(id=uplink_id, key="main:phone-9", user="ann", product=PRODUCT, type=kind, **fields)  # type: ignore[arg-type]


async def send(bus: Bus, *items: UplinkItem) -> list[UplinkResult]:
    request = encoder().encode(Request(VERSION, "r1:1", 1, list(items)))

    async def answered() -> bytes:
        try:
            return await bus.request(names.COORDINATOR_UPLINK, request)
        except BusError:
            return b""

    reply: Reply[UplinkResult] = msgspec.msgpack.decode(await until(answered), type=Reply[UplinkResult])
    assert reply.error == ""
    return reply.items


async def read(settings: Settings, topic: str, record: type[Record], wanted: int) -> list[Record]:
    """The first `wanted` records of our product in a topic."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=settings.kafka.bootstrap, auto_offset_reset="earliest", enable_auto_commit=False
    )
    await consumer.start()
    found: list[Record] = []
    try:
        consumer.assign([TopicPartition(topic, i) for i in range(settings.kafka.partitions)])
        async with asyncio.timeout(30):
            async for incoming in consumer:
                each = codec.decode_as(record, incoming.value)
                if getattr(each, "product", "") == PRODUCT:
                    found.append(each)
                if len(found) == wanted:
                    return found
    finally:
        await consumer.stop()
    raise AssertionError(found)


async def test_given_uplinks_then_the_live_services_reply_and_the_dead_ones_are_dead_letters(
    settings: Settings, bus: Bus
) -> None:
    async def echo(data: bytes) -> bytes:
        return base64.b64decode(json.loads(data)["payload_base64"]).upper()

    await bus.serve("echo", names.service_subject(PRODUCT, "echo"), echo)
    answers = await send(bus, item("u-1", "echo"), item("u-2", "dead"), item("u-3", "bad type"), item("u-4", "unserved"))
    assert [(answer.status, answer.code) for answer in answers] == [("ok", 0), ("ok", 0), ("refused", 0x90), ("ok", 0)]

    uplinks = await read(settings, names.UPLINK, Uplink, 3)
    assert [uplink.id for uplink in uplinks if isinstance(uplink, Uplink)] == ["u-1", "u-2", "u-4"]
    [reply] = await read(settings, names.MESSAGES, PushMessage, 1)
    assert isinstance(reply, PushMessage)
    assert (reply.client, reply.payload, reply.correlation, reply.qos) == ("phone-9", b"HI", b"\x07", 1)
    [letter] = await read(settings, names.DEAD, DeadLetter, 1)
    assert isinstance(letter, DeadLetter)
    assert (letter.id, letter.client, letter.topic) == ("u-2", "phone-9", names.UPLINK)
    assert "app.coordinator-shop.dead" in letter.reason
