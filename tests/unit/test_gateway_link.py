"""The shell on real sockets: bytes, flow control, slow and hostile peers."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable

import mqtt5
import pytest
from gateway_world import WALL, claims, sign
from live_room import PING, SUBSCRIBE, connect, live

from infra.wire import ConnectItem, Downlink

CONNECT = connect("c1")
OTHER = connect("c2")


async def test_given_pipelined_packets_when_the_saver_is_slow_then_none_is_handled_before_connack() -> None:
    async with live() as room:
        room.world.register.held = True
        client = await room.client(CONNECT, SUBSCRIBE, PING)
        await room.until(lambda: bool(room.world.register.waiting))
        client.writer.write(PING)
        await asyncio.sleep(0.05)
        assert len(room.world.register.items) == 1
        room.world.register.held = False
        room.world.register.answer()
        kinds = [type(await client.packet()) for _ in range(4)]
        assert kinds == [mqtt5.ConnAckPacket, mqtt5.SubAckPacket, mqtt5.PingRespPacket, mqtt5.PingRespPacket]


@pytest.mark.parametrize("abort", [False, True])
async def test_given_a_room_that_was_stopped_when_a_peer_has_left_meanwhile_then_it_gets_no_session(abort: bool) -> None:
    async with live() as room:
        with socket.create_connection(("127.0.0.1", room.port)) as peer:  # the loop stands still: all of it waits in the kernel
            peer.sendall(CONNECT)
            if abort:
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client = await room.client(OTHER)
        await client.packet()
        assert [item.key for item in room.world.register.of(ConnectItem)] == ["main:c2"]


async def test_given_bytes_one_by_one_when_read_then_it_works_the_same() -> None:
    async with live() as room:
        client = await room.client()
        for byte in CONNECT + SUBSCRIBE:
            client.writer.write(bytes((byte,)))
            await client.writer.drain()
        assert isinstance(await client.packet(), mqtt5.ConnAckPacket)
        assert isinstance(await client.packet(), mqtt5.SubAckPacket)


@pytest.mark.parametrize(
    ("data", "answer"),
    [
        (b"\x10\x0e\x00\x04MQTT\x03\x02\x00\x3c\x00\x02c1", b"\x20\x02\x00\x01"),
        (b"\x10\xff\xff\xff\x7f", b""),
        (b"GET / HTTP/1.1\r\n\r\n", b""),
        (b"\x10" + b"\xff" * 8, b""),
        (PING, b""),
    ],
)
async def test_given_no_connect_of_ours_when_it_comes_then_the_socket_closes(data: bytes, answer: bytes) -> None:
    async with live() as room:
        client = await room.client(data)
        assert await client.closed() == answer


async def test_given_half_a_connect_when_time_is_up_then_the_socket_closes() -> None:
    async with live(connect_timeout=0.2) as room:
        client = await room.client(CONNECT[:-1])
        assert await client.closed() == b""


async def test_given_half_a_packet_when_time_is_up_then_the_socket_closes_but_silence_is_allowed() -> None:
    async with live(packet_timeout=0.2) as room:
        silent, half = await room.client(CONNECT), await room.client(OTHER, PING[:1])
        assert isinstance(await half.packet(), mqtt5.ConnAckPacket)
        assert (await half.closed())[0] == 0xE0
        assert isinstance(await silent.packet(), mqtt5.ConnAckPacket)


async def test_given_a_peer_that_does_not_read_when_the_cap_is_reached_then_it_is_cut() -> None:
    async with live(max_write_buffer=65_536) as room:
        client = await room.client(CONNECT, SUBSCRIBE)
        assert isinstance(await client.packet(), mqtt5.ConnAckPacket)
        assert isinstance(await client.packet(), mqtt5.SubAckPacket)
        (session,) = room.world.room.sessions
        assert session.client is not None
        write: Callable[[bytes], None] = session.client.shell.write
        for _ in range(4_000):
            if not room.world.room.connections:
                break
            write(b"\x30\x04\x00\x01a\x00" * 1_000)
            await asyncio.sleep(0)
        assert room.world.room.connections == 0
        assert room.world.register.disconnects[0].reason == "slow"


async def test_given_fire_and_forget_for_a_peer_that_does_not_read_when_half_the_cap_waits_then_it_is_dropped() -> None:
    async with live(max_write_buffer=65_536) as room:
        client = await room.client(CONNECT, SUBSCRIBE)
        assert isinstance(await client.packet(), mqtt5.ConnAckPacket)
        assert isinstance(await client.packet(), mqtt5.SubAckPacket)
        outcomes: list[str] = []
        while "dropped" not in outcomes:
            assert len(outcomes) < 20_000
            outcomes.append(room.world.push(Downlink("f", 0, b"x" * 8_000)))
            await asyncio.sleep(0)
        assert room.world.room.connections == 1


async def test_given_a_token_that_expired_when_it_connects_then_the_reason_is_said() -> None:
    async with live() as room:
        client = await room.client(mqtt5.ConnectPacket("c1", password=sign(claims(exp=int(WALL) - 1))).write())
        ack = await client.packet()
        assert isinstance(ack, mqtt5.ConnAckPacket)
        assert ack.reason_str == "the token has expired"
        await client.closed()
