"""PITFALLS, The edge: Slowloris. Deadlines are absolute: bytes that keep dribbling in do not move them."""

from __future__ import annotations

import asyncio
import contextlib

import mqtt5
import pytest
from live_room import PING, Client, connect, counted, live, served

UPLINK = mqtt5.PublishPacket("up/demo/note", b"x" * 90, qos=mqtt5.QoS(1), packet_id=1).write()


async def dribble(client: Client, data: bytes) -> None:
    """A byte each 20 ms, for as long as the socket takes them."""
    with contextlib.suppress(ConnectionError):
        for byte in data:
            client.writer.write(bytes((byte,)))
            await client.writer.drain()
            await asyncio.sleep(0.02)


async def test_given_a_connect_byte_by_byte_when_its_time_is_up_then_the_socket_is_closed_and_others_are_served() -> None:
    async with live(connect_timeout=0.3) as room, served(room):
        before = counted("closed", reason="connect_timeout")
        clients = [await room.client() for _ in range(50)]
        dribbles = [asyncio.ensure_future(dribble(client, connect(f"c{index}"))) for index, client in enumerate(clients)]
        assert [await client.closed() for client in clients] == [b""] * 50
        assert counted("closed", reason="connect_timeout") == before + 50
        assert len(list(room.world.room.sessions)) == 1
        await asyncio.wait(dribbles)


async def test_given_sockets_that_say_nothing_when_their_time_is_up_then_they_are_closed_and_others_are_served() -> None:
    async with live(connect_timeout=0.3) as room, served(room):
        clients = [await room.client() for _ in range(100)]
        assert [await client.closed() for client in clients] == [b""] * 100


async def test_given_a_packet_byte_by_byte_when_its_time_is_up_then_the_reason_is_said_and_others_are_served() -> None:
    async with live(packet_timeout=0.3) as room, served(room):
        before = counted("closed", reason="packet_timeout")
        client = await room.client(connect("c1"))
        assert isinstance(await client.packet(), mqtt5.ConnAckPacket)
        task = asyncio.ensure_future(dribble(client, UPLINK))
        end = await client.packet()
        assert isinstance(end, mqtt5.DisconnectPacket)
        assert (int(end.reason_code), end.reason_str) == (0x82, "a packet took too long")
        await client.closed()
        assert counted("closed", reason="packet_timeout") == before + 1
        await asyncio.wait([task])


@pytest.mark.parametrize("cut", [1, 50])
async def test_given_whole_packets_that_always_end_within_a_read_then_an_honest_client_is_not_closed(cut: int) -> None:
    async with live(packet_timeout=0.3) as room:
        client = await room.client(connect("c1"), UPLINK[:cut])
        assert isinstance(await client.packet(), mqtt5.ConnAckPacket)
        for _ in range(40):
            await asyncio.sleep(0.02)
            client.writer.write(UPLINK[cut:] + UPLINK[:cut])
            await room.until(lambda: bool(room.world.coordinator.waiting))
            room.world.coordinator.answer()
            assert isinstance(await client.packet(), mqtt5.PubAckPacket)
        client.writer.write(UPLINK[cut:] + PING)
        assert isinstance(await client.packet(), mqtt5.PingRespPacket)
