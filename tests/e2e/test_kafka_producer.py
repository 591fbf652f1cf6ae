"""A producer that has only Kafka and the published schema: aiokafka, fastavro and `PushMessage.v1.avsc`, none of our code."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import fastavro
import pytest
import pytest_asyncio
from aiokafka import AIOKafkaProducer
from aiokafka.partitioner import murmur2
from fastavro.schema import fingerprint, to_parsing_canonical_form
from system import PRODUCT, Device, Stand, eventually, unique

pytestmark = [pytest.mark.xdist_group("system"), pytest.mark.timeout(120)]

SCHEMA: Final = json.loads((Path(__file__).parents[2] / "schemas" / "avro" / "PushMessage.v1.avsc").read_text())
TOPIC: Final = "push.messages"


def encoded(**fields: Any) -> bytes:
    """Avro single-object encoding (Avro 1.12): marker, CRC-64-AVRO fingerprint of the schema, the datum."""
    buffer = BytesIO()
    buffer.write(b"\xc3\x01" + bytes.fromhex(fingerprint(to_parsing_canonical_form(SCHEMA), "CRC-64-AVRO")))
    fastavro.schemaless_writer(buffer, fastavro.parse_schema(SCHEMA), {"product": PRODUCT, "payload": b"from kafka", **fields})
    return buffer.getvalue()


def wrong_partition(client: str, partitions: int) -> int:
    """The one after the partition that Kafka's own partitioner gives to the client."""
    right: int = (murmur2(client.encode()) & 0x7FFFFFFF) % partitions
    return (right + 1) % partitions


@pytest_asyncio.fixture(scope="module")
async def producer(system: Stand) -> AsyncIterator[AIOKafkaProducer]:
    """A producer as any program has one."""
    found = AIOKafkaProducer(bootstrap_servers=system.address.kafka, acks="all", enable_idempotence=True)
    await found.start()
    yield found
    await found.stop()


async def exactly_once(system: Stand, device: Device, message: str) -> None:
    """The device gets it once, also after a later message of the same way in has arrived, and its receipt is in Kafka."""
    await device.receives(message)
    await system.settled(device.client, message)
    await device.receives(await system.send(device.client, "the one after"))
    assert device.count(message) == 1
    assert device.push.stats.duplicates == 0


async def test_given_a_record_keyed_by_client_then_the_device_gets_it_exactly_once(
    system: Stand, producer: AIOKafkaProducer
) -> None:
    client, message = unique("k"), unique("m")
    async with Device(system, client) as device:
        await producer.send_and_wait(TOPIC, encoded(id=message, client=client), key=client.encode())
        await exactly_once(system, device, message)
        assert device.got[0].payload == b"from kafka"


async def test_given_a_record_with_all_fields_then_the_device_sees_them(system: Stand, producer: AIOKafkaProducer) -> None:
    client, message = unique("k"), unique("m")
    record = encoded(
        id=message,
        client=client,
        ttl_s=90,
        priority=0,
        content_type="text/plain",
        correlation=b"\0\1",
        properties={"colour": "red"},
    )
    async with Device(system, client) as device:
        await producer.send_and_wait(TOPIC, record, key=client.encode())
        await exactly_once(system, device, message)
        first = device.got[0]
        assert (first.content_type, first.correlation_data, first.properties) == ("text/plain", b"\0\1", {"colour": "red"})
        assert first.expires_in is not None
        assert 60 < first.expires_in <= 90


async def test_given_a_record_keyed_by_user_then_each_of_the_users_clients_gets_it_exactly_once(
    system: Stand, producer: AIOKafkaProducer
) -> None:
    user, message = unique("u"), unique("m")
    phone, tablet = (
        Device(system, unique(kind), room=room, user=user)
        for kind, room in zip(("phone", "tablet"), system.address.rooms, strict=True)
    )
    async with phone, tablet:
        await producer.send_and_wait(TOPIC, encoded(id=message, user=user), key=user.encode())
        await exactly_once(system, phone, message)
        await exactly_once(system, tablet, message)


async def test_given_an_explicit_wrong_partition_then_the_device_gets_it_exactly_once(
    system: Stand, producer: AIOKafkaProducer
) -> None:
    client, message = unique("k"), unique("m")
    async with Device(system, client) as device:
        partition = wrong_partition(client, system.partitions)
        await producer.send_and_wait(TOPIC, encoded(id=message, client=client), key=client.encode(), partition=partition)

        async def moved_and_acked() -> bool:
            return sorted(str(item.state) for item in system.receipts(client, message)) == ["acked", "expanded"]

        await eventually(moved_and_acked, what=f"the receipts that {message} was moved to its own partition, and acked there")
        await device.receives(message)
        await device.receives(await system.send(client, "the one after"))
        assert device.count(message) == 1
        assert device.push.stats.duplicates == 0


async def test_given_a_producer_with_a_partitioner_of_its_own_then_no_message_is_lost_or_doubled(system: Stand) -> None:
    def by_last_byte(key: bytes, every: list[int], available: list[int]) -> int:
        return every[key[-1] % len(every)]

    clients = [unique("k") for _ in range(8)]
    stranger = AIOKafkaProducer(bootstrap_servers=system.address.kafka, acks="all", partitioner=by_last_byte)
    await stranger.start()
    try:
        sent = {client: unique("m") for client in clients}
        for client, message in sent.items():
            await stranger.send_and_wait(TOPIC, encoded(id=message, client=client), key=client.encode())
    finally:
        await stranger.stop()
    for client, message in sent.items():
        async with Device(system, client) as device:
            await device.receives(message)
            await device.receives(await system.send(client, "the one after"))
            assert device.count(message) == 1
            assert device.push.stats.duplicates == 0


async def test_given_the_same_record_twice_then_the_device_gets_it_once(system: Stand, producer: AIOKafkaProducer) -> None:
    client, message = unique("k"), unique("m")
    record = encoded(id=message, client=client)
    async with Device(system, client) as device:
        for _ in range(2):
            await producer.send_and_wait(TOPIC, record, key=client.encode())
        await exactly_once(system, device, message)
