"""PITFALLS, The edge: acks of foreign or future ids, and a million of them. They settle nothing, and nobody waits for them."""

from __future__ import annotations

import asyncio

import mqtt5
import pytest
from live_room import PING, SUBSCRIBE, Client, Live, connect, counted, live, served

from gateway.client import FIRST_BROADCAST_ID
from infra.wire import Downlink

MILLION = 1_000_000


async def bound(room: Live, name: str) -> Client:
    client = await room.client(connect(name), SUBSCRIBE)
    assert isinstance(await client.packet(), mqtt5.ConnAckPacket)
    assert isinstance(await client.packet(), mqtt5.SubAckPacket)
    return client


async def pushed(room: Live, client: Client, name: str, message: str) -> int:
    """A message on its way to a client: its packet id."""
    stored: Downlink = room.world.register.store(message, key=f"main:{name}")
    session = room.world.room._clients[f"main:{name}"]
    assert session.client is not None
    assert room.world.push(stored, key=f"main:{name}", number=session.client.number) == "written"
    packet = await client.packet()
    assert isinstance(packet, mqtt5.PublishPacket)
    assert packet.packet_id
    return packet.packet_id


@pytest.mark.parametrize("packet_id", [2, 77, FIRST_BROADCAST_ID - 1], ids=["the next", "a future one", "the last"])
async def test_given_an_ack_of_an_id_that_was_not_sent_then_it_is_counted_settles_nothing_and_others_are_served(
    packet_id: int,
) -> None:
    async with live() as room, served(room):
        before = counted("unknown_acks")
        client = await bound(room, "c1")
        mine = await pushed(room, client, "c1", "m1")
        assert mine != packet_id
        client.writer.write(mqtt5.PubAckPacket(packet_id).write() + PING)
        assert isinstance(await client.packet(), mqtt5.PingRespPacket)
        assert counted("unknown_acks") == before + 1
        assert room.world.register.settled == []
        await pushed(room, client, "c1", "m2")
        client.writer.write(mqtt5.PubAckPacket(mine).write())
        await room.until(lambda: room.world.register.settled == [("m1", "acked")])


async def test_given_acks_of_what_another_client_has_then_only_the_senders_own_messages_are_settled() -> None:
    async with live() as room, served(room):
        attacker, victim = await bound(room, "c1"), await bound(room, "c2")
        theirs = [await pushed(room, victim, "c2", f"v{index}") for index in range(3)]
        attacker.writer.write(b"".join(mqtt5.PubAckPacket(packet_id).write() for packet_id in theirs) + PING)
        assert isinstance(await attacker.packet(), mqtt5.PingRespPacket)
        session = room.world.room._clients["main:c2"]
        assert session.client is not None
        assert sorted(session.client.inflight or ()) == theirs
        assert room.world.register.settled == []


async def test_given_a_million_acks_then_they_hold_up_nobody_and_leave_nothing_behind() -> None:
    async with live() as room:
        client = await bound(room, "c1")
        async with served(room):
            before = counted("unknown_acks")
            task = asyncio.ensure_future(flood(client))
            await room.until(lambda: counted("unknown_acks") > before + 100_000, seconds=60)
        await room.until(lambda: counted("unknown_acks") == before + MILLION, seconds=60)
        await task
        session = room.world.room._clients["main:c1"]
        assert session.client is not None
        assert not session.client.inflight
        assert not session.client.acks
        assert room.world.register.settled == []


async def flood(client: Client) -> None:
    block = mqtt5.PubAckPacket(77).write() * 10_000
    for _ in range(MILLION // 10_000):
        client.writer.write(block)
        await client.writer.drain()
