"""How connections end: what was not sent is not `written`, who has left asks for no session, a stopped room syncs first."""

from __future__ import annotations

import asyncio
from typing import Any

from gateway_world import World

from gateway.connection import Connection
from gateway.door import Door
from gateway.wheel import RESOLUTION


class LostTransport:
    """A uvloop transport inside `connection_lost`: it says that nothing is buffered."""

    def is_closing(self) -> bool:
        return True

    def get_write_buffer_size(self) -> int:
        return 0


def test_given_a_socket_that_was_reset_then_its_buffer_does_not_count_as_drained() -> None:
    connection = Connection.__new__(Connection)
    connection._transport = LostTransport()  # type: ignore[assignment]
    assert connection.buffered() > 0


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


async def test_given_a_process_that_was_stopped_when_it_goes_on_then_all_are_synced_before_anything_is_written() -> None:
    clock = [0.0]
    order: list[str] = []
    resynced = asyncio.Event()

    class Policy:
        lease_dead_after = 10.0

    class Host:
        policy = Policy()

    class Wheel:
        def advance(self, now: float) -> None:
            order.append("advance")

    class Room:
        host = Host()
        wheel = Wheel()

        def clock(self) -> float:
            return clock[0]

        def resync(self) -> None:
            order.append("resync")
            resynced.set()

    door: Any = Door.__new__(Door)
    door._room = Room()
    ticking = asyncio.create_task(door._tick())
    await asyncio.sleep(RESOLUTION * 1.5)
    assert order == ["advance"]
    clock[0] = 30.0
    async with asyncio.timeout(10 * RESOLUTION):
        await resynced.wait()
    await asyncio.sleep(0)
    assert order[order.index("resync") + 1] == "advance"
    ticking.cancel()
    await asyncio.gather(ticking, return_exceptions=True)
