"""What is taken away comes back: a local broker or a process that is killed is started again, and what was accepted arrives."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio
from system import PRODUCT, eventually, unique

from infra.documents import Policy
from infra.ops.http import Answered, CenterClient
from infra.ops.tokens import make_token
from infra.ops.up import RunningSystem
from infra.settings import load
from infra.system import System
from pushclient import PushClient

pytestmark = [pytest.mark.xdist_group("demo"), pytest.mark.timeout(120)]


@pytest_asyncio.fixture(scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[RunningSystem, System]]:
    """A system of its own, since it is going to be hurt."""
    system = RunningSystem(load(data=tmp_path_factory.mktemp("hurt")), rooms=1, policy=Policy(sync_interval=3.0))
    try:
        yield system, await system.start()
    finally:
        await system.stop()


async def _send(system: System, client: str) -> str:
    """Send, and repeat under the same key while center answers that it can't."""
    async with CenterClient(system) as center:
        key = unique("key")
        body = {"product": PRODUCT, "client": client, "payload": "x", "ttl": 600}
        deadline = time.monotonic() + 80
        while time.monotonic() < deadline:
            try:
                return str((await center.post("/v1/messages", body, idempotency_key=key))["id"])
            except Answered:
                await asyncio.sleep(0.5)
    raise AssertionError("center accepted nothing for 80 s")


@asynccontextmanager
async def _bound(system: System) -> AsyncIterator[tuple[str, list[str]]]:
    """A device that is bound, and the ids of what it gets."""
    client, got = unique("c"), list[str]()
    token = make_token(Path(system.data), client=client, product=PRODUCT)
    device = PushClient(client_id=client, token=token, dispatch=system.center, on_message=lambda m: got.append(str(m.id)))
    async with asyncio.timeout(100), device:
        await device.bind(PRODUCT)
        yield client, got


async def _arrives(system: System, client: str, got: list[str]) -> None:
    message = await _send(system, client)

    async def came() -> bool:
        return message in got

    await eventually(came, what=f"{message} for {client}", within=60)


@pytest.mark.parametrize("broker", ["redis", "nats", "kafka"])
async def test_given_a_broker_is_killed_then_it_is_started_again_and_messages_arrive(
    running: tuple[RunningSystem, System], broker: str
) -> None:
    stack, system = running
    async with _bound(system) as (client, got):
        await _arrives(system, client, got)
        assert stack._brokers is not None
        pid = getattr(stack._brokers, broker).pid
        os.kill(pid, signal.SIGKILL)
        await _arrives(system, client, got)
    assert len(set(got)) >= 2


@pytest.mark.parametrize("process", ["saver", "delivery", "coordinator", "r1"])
async def test_given_a_process_is_killed_then_it_is_started_again_and_messages_arrive(
    running: tuple[RunningSystem, System], process: str
) -> None:
    stack, system = running
    async with _bound(system) as (client, got):
        os.kill(stack.agent.processes[process].child.pid or 0, signal.SIGKILL)
        await _arrives(system, client, got)
