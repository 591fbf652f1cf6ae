"""Flash disconnect and the way out of a room that ends, on the real system and with the SDK."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from system import PRODUCT, Stand, eventually, unique

from infra.keeper import Policy
from infra.ops.tokens import make_token
from infra.ops.up import RunningSystem
from infra.settings import load
from pushclient import ConnectionState, PushClient

pytestmark = [pytest.mark.xdist_group("demo"), pytest.mark.timeout(120)]


class _Flash:
    """A device that asks for its session to be kept, and what it saw."""

    def __init__(self, stand: Stand) -> None:
        self.client = unique("flash")
        self.got: list[str] = []
        self.states: list[ConnectionState] = []
        room = stand.room
        self.push = PushClient(
            client_id=self.client,
            token=stand.token(self.client),
            servers=[(room.host, room.port)],
            session_expiry=30,
            on_message=lambda message: self.got.append(str(message.id)),
            on_state=self.states.append,
        )

    async def blink(self) -> None:
        """Lose the socket, and wait until it is back."""
        before = len(self.states)
        self.push.reconnect()

        async def back() -> bool:
            return any(state.connected for state in self.states[before:])

        await eventually(back, what="the connection")


async def _saver_calls(stand: Stand) -> dict[str, float]:
    names = ("connect", "bind", "disconnect")
    return {name: await stand.metric("saver", "longwire_responder_items_total", endpoint=name) for name in names}


async def test_given_a_blink_when_the_device_is_back_then_its_session_is_present_and_nobody_was_asked(system: Stand) -> None:
    device = _Flash(system)
    async with device.push:
        await device.push.bind(PRODUCT)
        first = await system.send(device.client, "before")
        await system.settled(device.client, first)
        before = await _saver_calls(system)
        await device.blink()
        assert device.states[-1].session_present
        second = await system.send(device.client, "after")
        await system.settled(device.client, second)
        assert device.got == [first, second]
        assert await _saver_calls(system) == before


@pytest_asyncio.fixture
async def two_rooms(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningSystem]:
    """A system of its own, since a room of it is going to end."""
    policy = Policy(sync_interval=3.0, lease_interval=1.0)
    system = RunningSystem(load(data=tmp_path_factory.mktemp("drain")), rooms=2, policy=policy)
    try:
        yield system
    finally:
        await system.stop()


async def test_given_a_room_that_is_told_to_end_then_its_devices_are_sent_to_the_other_one_and_stay_reachable(
    two_rooms: RunningSystem,
) -> None:
    system = await two_rooms.start()
    first, second = system.rooms
    seen: list[tuple[str, int]] = []
    texts: list[str] = []

    def state(now: ConnectionState) -> None:
        if now.connected and now.address is not None:
            seen.append(now.address)
        else:
            texts.append(now.text)

    devices = []
    for number in range(10):
        client = f"mover-{number}"
        token = make_token(Path(system.data), client=client, product=PRODUCT)
        device = PushClient(client_id=client, token=token, servers=[(first.host, first.port)], on_state=state)
        await device.start()
        await device.bind(PRODUCT)
        devices.append(device)
    pid = two_rooms.agent.processes["r1"].child.pid
    assert pid is not None
    os.kill(pid, signal.SIGTERM)

    async def moved() -> bool:
        return seen.count((second.host, second.port)) == len(devices)

    await eventually(moved, what="all devices in the other room", within=40)
    assert len(seen) == 2 * len(devices)  # nobody tried anything else in between
    await asyncio.gather(*(device.close() for device in devices))
