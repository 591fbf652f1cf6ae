"""PITFALLS, The edge, in a word: everything bounded. Floods of small packets, of filters and of properties hold up nobody."""

from __future__ import annotations

import asyncio

import mqtt5
import pytest
from live_room import PING, Client, connect, counted, live, served

from gateway.mqtt.strict import MAX_FILTERS
from infra.documents import Policy


async def opened(client: Client) -> Client:
    assert isinstance(await client.packet(), mqtt5.ConnAckPacket)
    return client


async def test_given_a_hundred_thousand_pings_at_once_then_each_is_answered_and_others_are_served() -> None:
    async with live() as room, served(room):
        client = await opened(await room.client(connect("c1")))
        client.writer.write(PING * 100_000)
        async with asyncio.timeout(60):
            await client.reader.readexactly(200_000)


def subscribe(filters: int) -> bytes:
    return mqtt5.SubscribePacket(1, [mqtt5.TopicFilter(f"push/p{index}") for index in range(filters)]).write()


def unsubscribe(filters: int) -> bytes:
    return mqtt5.UnsubscribePacket(1, [f"push/p{index}" for index in range(filters)]).write()


@pytest.mark.parametrize("build", [subscribe, unsubscribe])
async def test_given_more_filters_than_a_packet_may_have_then_disconnect_0x97_and_others_are_served(build: object) -> None:
    async with live() as room, served(room):
        client = await opened(await room.client(connect("c1")))
        client.writer.write(build(MAX_FILTERS))  # type: ignore[operator]
        answer = await client.packet()
        assert isinstance(answer, mqtt5.SubAckPacket | mqtt5.UnsubAckPacket)
        assert len(answer.reason_codes) == MAX_FILTERS
        client.writer.write(build(MAX_FILTERS + 1))  # type: ignore[operator]
        end = await client.packet()
        assert isinstance(end, mqtt5.DisconnectPacket)
        assert int(end.reason_code) == 0x97


PROPERTIES = {
    "17": [(f"k{index}", "") for index in range(17)],
    "names and values of 4,097 bytes": [("k", "x" * 4_096)],
    "a thousand of Longwire's own names": [("id", "m1")] * 1_000,
}


@pytest.mark.parametrize("properties", PROPERTIES.values(), ids=PROPERTIES.keys())
async def test_given_too_many_user_properties_then_puback_0x97_and_others_are_served(properties: list[tuple[str, str]]) -> None:
    async with live() as room, served(room):
        client = await opened(await room.client(connect("c1")))
        client.writer.write(
            mqtt5.PublishPacket("up/demo/note", b"x", qos=mqtt5.QoS(1), packet_id=1, user_properties=properties).write()
        )
        answer = await client.packet()
        assert isinstance(answer, mqtt5.PubAckPacket)
        assert int(answer.reason_code) == 0x97
        assert not room.world.coordinator.waiting


async def test_given_a_client_that_publishes_without_end_then_it_is_slowed_down_then_closed_and_others_are_served() -> None:
    policy = Policy(publish_rate=100, publish_burst=20, publish_patience=0.5)
    async with live(policy=policy) as room, served(room):
        before = counted("closed", reason="publish_rate")
        client = await opened(await room.client(connect("c1")))
        client.writer.write(mqtt5.PublishPacket("nowhere", b"x").write() * 2_000)
        end = await client.packet()
        assert isinstance(end, mqtt5.DisconnectPacket)
        assert int(end.reason_code) == 0x96
        await client.closed()
        assert counted("closed", reason="publish_rate") == before + 1
