"""A room that is near its memory: clients are refused, then the listener rests, and those who are here are served meanwhile."""

from __future__ import annotations

import asyncio

import mqtt5
from live_room import connect, live, served


async def test_given_a_room_without_memory_then_who_connects_waits_in_the_kernel_and_others_are_served() -> None:
    async with live() as room, served(room):
        room.world.memory = 0.86
        await room.until(lambda: room.world.room.gate.short_of_memory)
        refused = await room.client(connect("c1"))
        answer = await refused.packet()
        assert isinstance(answer, mqtt5.ConnAckPacket)
        assert int(answer.reason_code) == 0x97
        await refused.closed()
        room.world.memory = 0.95
        await room.until(lambda: room.world.room.gate.shut)
        await asyncio.sleep(0.05)  # a tick
        waiting = await room.client(connect("c2"))
        await asyncio.sleep(0.1)
        assert len(list(room.world.room.sessions)) == 1
        room.world.memory = 0.5
        answer = await waiting.packet()
        assert isinstance(answer, mqtt5.ConnAckPacket)
        assert int(answer.reason_code) == 0


async def test_given_a_listener_that_rests_when_it_stops_then_who_waited_is_reset() -> None:
    async with live() as room:
        room.world.memory = 0.95
        await room.until(lambda: room.world.room.gate.shut)
        await asyncio.sleep(0.05)
        waiting = await room.client(connect("c1"))
    assert await waiting.closed() == b""
