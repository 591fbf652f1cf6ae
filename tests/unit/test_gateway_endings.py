"""How connections end: what was not sent is not `written`, who has left asks for no session; and a room's time."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import mqtt5
import pytest
from gateway_world import Device, World
from links import linked

from gateway.door import Door
from gateway.wheel import RESOLUTION
from infra.documents import Policy


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
    ticks: list[float] = []
    ticked = asyncio.Event()

    def tick(now: float) -> None:
        ticks.append(now)
        ticked.set()

    door: Any = Door.__new__(Door)
    door._room = SimpleNamespace(tick=tick, clock=lambda: 7.0)
    ticking = asyncio.create_task(door._tick())
    async with asyncio.timeout(10 * RESOLUTION):
        await ticked.wait()
    assert ticks[0] == 7.0
    ticking.cancel()
    await asyncio.gather(ticking, return_exceptions=True)


def held(world: World, seconds: float) -> Device:
    """A client whose reading was held for so long: nothing of it was judged meanwhile."""
    device = world.device("c1", "push/demo", keep_alive=60)
    world.push(world.register.store("m1"))
    world.coordinator.overloaded = True
    device.publish("up/demo/pos")
    world.pass_time(seconds, step=1.0)
    assert device.session.held
    assert not device.socket.closed
    world.coordinator.relieve()
    assert not device.session.held
    return device


def test_given_a_client_that_was_held_beyond_its_keep_alive_then_silence_counts_anew_from_the_release() -> None:
    world = World(policy=Policy(keep_alive_default=60, ack_timeout=1000, sync_interval=5000, connect_ramp_from=1.0))
    device = held(world, 120)
    world.pass_time(85, step=1.0)
    assert not device.socket.closed
    world.pass_time(10, step=1.0)
    assert device.socket.closed


@pytest.mark.parametrize("acknowledges", [True, False])
def test_given_a_client_that_was_held_beyond_its_ack_timeout_then_its_pubacks_are_read_before_it_is_judged(
    acknowledges: bool,
) -> None:
    world = World(policy=Policy(keep_alive_default=3600, ack_timeout=30, sync_interval=5000, connect_ramp_from=1.0))
    device = held(world, 80)
    world.push(world.register.store("m2"))
    world.pass_time(4)
    assert not device.socket.closed
    if acknowledges:
        for packet in device.socket.take():
            if isinstance(packet, mqtt5.PublishPacket):
                device.puback(packet.packet_id or 0)
    world.pass_time(2)
    assert device.socket.closed is not acknowledges
