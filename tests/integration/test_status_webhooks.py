"""Status events at a real HTTP receiver, from a coordinator that is a process of its own and is killed in between."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import worker_process
from callbacks_world import endpoint, leave
from core import Core, Device, eventually, unique
from recovery_world import running_core

from infra.local.brokers import LocalBrokers
from schemas.partition import partition_of

WINDOW = 2.0


class Receiver:
    """A product's endpoint: takes each request, and keeps its events; an event with a known id is a repeat."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.repeats = 0
        self.url = ""

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Receiver]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/events"
        yield self
        server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        size = int(head.partition("content-length: ")[2].partition("\r\n")[0])
        for event in json.loads(await reader.readexactly(size))["events"]:
            if any(each["id"] == event["id"] for each in self.events):
                self.repeats += 1
            else:
                self.events.append(event)
        writer.write(b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    def of(self, client: str) -> list[str]:
        return [each["type"] for each in self.events if each["data"].get("client") == client]


@pytest_asyncio.fixture(scope="module")
async def core(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Core]:
    brokers = LocalBrokers(tmp_path_factory.mktemp("status-webhooks"))
    await brokers.start()
    async with running_core(brokers, tmp_path_factory.mktemp("data")) as running:
        yield running
    await brokers.stop()


@asynccontextmanager
async def coordinator(core: Core, folder: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """A coordinator; killed at the end."""
    private = {"LONGWIRE_OUTSIDE__PRIVATE": '["127.0.0.0/8"]'}
    process = await worker_process.start(
        "workers.main:coordinator", folder, worker_process.environment(core.settings, folder, **private)
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def connected(core: Core, product: str, count: int) -> list[Device]:
    """Clients that are bound, each of a user of its own."""
    room = await core.room()
    devices = [await room.connect(unique("c")) for _ in range(count)]
    for device in devices:
        await device.bind(product, user=f"u-{device.client}")
    return devices


async def test_given_a_coordinator_that_is_killed_again_and_again_then_each_client_comes_and_goes_in_order(
    core: Core, tmp_path: Path
) -> None:
    async with Receiver().open() as receiver:
        hook = endpoint("client.connected", "client.disconnected", "user.online", "user.offline", url=receiver.url)
        product = await core.product(webhooks=(hook.model_copy(update={"private": True}),), debounce=WINDOW)
        stays, goes, returns = (
            await connected(core, product, 6),
            await connected(core, product, 6),
            await connected(core, product, 6),
        )
        clients = [device.client for device in (*stays, *goes, *returns)]
        assert len({partition_of(client, core.settings.kafka.partitions) for client in clients}) > 1
        async with coordinator(core, tmp_path / "first"):
            await eventually(lambda: all(receiver.of(client) for client in clients), within=60, what="all connected")
        for device in (*goes, *returns):
            await leave(device)
        async with coordinator(core, tmp_path / "second"):
            await asyncio.sleep(4)  # it joins when the first one's session is over, and dies with ends in its hands
            for device in returns:
                again = await device.room.connect(device.client)
                await again.bind(product, user=f"u-{device.client}")
        async with coordinator(core, tmp_path / "third"):
            gone = [device.client for device in goes]
            await eventually(lambda: all("user.offline" in receiver.of(client) for client in gone), within=60, what="the ends")
            for device in stays:
                await leave(device)
            left = [device.client for device in stays]
            await eventually(
                lambda: all("user.offline" in receiver.of(client) for client in left), within=30, what="the others' ends"
            )
    ended = [*(device.client for device in goes), *(device.client for device in stays)]
    for client in ended:
        clients_own = [each for each in receiver.of(client) if each.startswith("client.")]
        users = [each for each in receiver.of(client) if each.startswith("user.")]
        assert (clients_own, users) == (["client.connected", "client.disconnected"], ["user.online", "user.offline"])
    for device in returns:
        await _ends_in_the_truth(receiver, device)


async def _ends_in_the_truth(receiver: Receiver, device: Device) -> None:
    """It was away for longer than the window, or not, as its records have it; it is there now."""
    told = [each for each in receiver.of(device.client) if each.startswith("client.")]
    assert told in (["client.connected"], ["client.connected", "client.disconnected", "client.connected"])
