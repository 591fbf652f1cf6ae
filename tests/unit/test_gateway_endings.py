"""How connections end: what was not sent is not `written`, who has left asks for no session; and a room's time."""

from __future__ import annotations

import asyncio
from typing import Any

from gateway_world import World
from links import linked

from gateway.door import Door
from gateway.wheel import RESOLUTION


def test_given_a_socket_that_was_reset_then_its_buffer_does_not_count_as_drained() -> None:
    with linked(World().room) as (link, peer):
        peer.close()
        link.abort()
        assert link.buffered() > 0


def test_given_a_client_that_leaves_before_its_session_is_there_then_the_session_is_not_asked_for_again() -> None:
    world = World()
    world.register.held = True
    device = world.accept()
    device.connect()
    [asked] = world.register.waiting
    device.lose()
    assert asked.cancelled
    world.register.lose()
    assert world.register.disconnects == []


def test_given_a_refused_connect_then_its_session_is_not_asked_for_again() -> None:
    world = World()
    world.register.held = True
    device = world.accept()
    device.connect()
    [asked] = world.register.waiting
    world.pass_time(5.5)
    assert asked.cancelled


async def test_given_a_door_when_time_passes_then_the_room_is_told_every_tick() -> None:
    world = World()
    ticks: list[float] = []
    ticked = asyncio.Event()

    def tick(now: float) -> None:
        ticks.append(now)
        ticked.set()

    world.room.tick = tick  # type: ignore[method-assign]
    world.now = 7.0
    door: Any = Door.__new__(Door)
    door._room = world.room
    ticking = asyncio.create_task(door._tick())
    async with asyncio.timeout(10 * RESOLUTION):
        await ticked.wait()
    assert ticks[0] == 7.0
    ticking.cancel()
    await asyncio.gather(ticking, return_exceptions=True)
