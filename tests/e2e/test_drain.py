"""The way out of a room that ends (SIGTERM), on the real system and with the SDK."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from system import PRODUCT, Stand, eventually, unique

from infra.documents import Policy
from infra.ops.http import CenterClient
from infra.ops.tokens import make_token
from infra.ops.up import RunningSystem
from infra.settings import load
from pushclient import ConnectionState, PushClient

pytestmark = [pytest.mark.xdist_group("demo"), pytest.mark.timeout(120)]

DEVICES = 20
USE_ANOTHER_SERVER = 0x9C


class _Mover:
    """A device of the room that is going to end, and what it saw: when it was told to go, and where it went."""

    def __init__(self, data: Path, number: int, server: tuple[str, int], *, name: str = "mover") -> None:
        self.client = f"{name}-{number}"
        self.got: list[str] = []
        self.seen: list[tuple[str, int]] = []
        self.told: list[tuple[int | None, float]] = []
        token = make_token(data, client=self.client, product=PRODUCT)
        self.push = PushClient(
            client_id=self.client,
            token=token,
            servers=[server],
            on_state=self._state,
            on_message=lambda message: self.got.append(str(message.id)),
        )

    def _state(self, now: ConnectionState) -> None:
        if now.connected and now.address is not None:
            self.seen.append((now.address.host, now.address.port))
        else:
            self.told.append((now.code, time.monotonic()))


@pytest_asyncio.fixture
async def two_rooms(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningSystem]:
    """A system of its own, since a room of it is going to end."""
    policy = Policy(sync_interval=60.0, lease_interval=1.0)
    system = RunningSystem(load(data=tmp_path_factory.mktemp("drain")), rooms=2, policy=policy)
    try:
        yield system
    finally:
        await system.stop()


async def test_given_a_room_that_is_told_to_end_then_its_devices_are_sent_to_the_other_one_and_nothing_is_lost(
    two_rooms: RunningSystem,
) -> None:
    system = await two_rooms.start()
    first, second = system.rooms
    movers = [_Mover(Path(system.data), number, (first.host, first.port)) for number in range(DEVICES)]
    for mover in movers:
        await mover.push.start()
        await mover.push.bind(PRODUCT)
    pid = two_rooms.agent.processes["r1"].child.pid
    assert pid is not None
    os.kill(pid, signal.SIGTERM)

    async def moved() -> bool:
        return all(mover.seen[-1] == (second.host, second.port) for mover in movers)

    await eventually(moved, what="all devices in the other room", within=40)
    told = [mover.told for mover in movers]
    assert [[code for code, _ in each] for each in told] == [[USE_ANOTHER_SERVER]] * DEVICES  # and nothing else was tried
    times = sorted(at for [(_, at)] in told)
    assert times[-1] - times[0] > 5  # of 10 s: spread, not all at once

    async with CenterClient(system) as center:
        for mover in movers:
            await center.post("/v1/messages", {"product": PRODUCT, "client": mover.client, "payload": "x", "ttl": 600})

    async def reached() -> bool:
        return all(len(mover.got) == 1 for mover in movers)

    await eventually(reached, what="a message for each device")
    await asyncio.gather(*(mover.push.close() for mover in movers))


async def test_given_a_room_that_an_operator_drains_then_its_devices_leave_at_the_rate_and_it_can_be_opened_again(
    system: Stand,
) -> None:
    first, second = system.address.rooms
    movers = [_Mover(system.data, number, (first.host, first.port), name=unique("drained")) for number in range(10)]
    for mover in movers:
        await mover.push.start()
        await mover.push.bind(PRODUCT)
    here = f"/v1/rooms/{first.id}"
    try:
        await system.center.post(f"{here}/drain", {"conn_evict_rate": 5, "redirect_to": [f"{second.host}:{second.port}"]})

        async def moved() -> bool:
            return all(mover.seen[-1] == (second.host, second.port) for mover in movers)

        await eventually(moved, what="all devices in the other room", within=30)
        assert {code for mover in movers for code, _ in mover.told} == {USE_ANOTHER_SERVER}
        times = sorted(mover.told[0][1] for mover in movers)
        assert 1.0 < times[-1] - times[0] < 10, "10 at 5 a second"

        async def empty() -> bool:
            return await system.center.get(f"{here}/drain") == {"room": first.id, "state": "draining", "connections": 0}

        await eventually(empty, what="a drained room")
        dispatched = (await system.http.get("/v1/dispatch", params={"client": "c"})).json()["addresses"]
        assert {each["room"] for each in dispatched} == {second.id}
    finally:
        await system.center.post(f"{here}/drain/stop", {"reason": "the test is over"})

    async def opened() -> bool:
        return bool((await system.center.get(here))["state"] == "open")

    await eventually(opened, what="an open room")
    back = _Mover(system.data, 0, (first.host, first.port), name=unique("back"))
    await back.push.start()
    assert back.seen == [(first.host, first.port)]
    await asyncio.gather(*(mover.push.close() for mover in (*movers, back)))
