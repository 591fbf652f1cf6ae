"""NATS serves, its JetStream does not: processes start with their configuration from disk, and are whole when the KV is back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import pytest_asyncio
import worker_process
from core import eventually

from infra.bus import Bus
from infra.documents import Policy, Product
from infra.local.nats_server import NatsServer
from infra.local.ports import HOST
from infra.rooms import Rooms
from infra.settings import Settings

PROCESSES = {
    "gateway-r1": "gateway.main:main",
    "saver": "workers.main:saver",
    "delivery": "workers.main:delivery",
    "broadcast": "workers.main:broadcast",
    "coordinator": "workers.main:coordinator",
    "center": "workers.center.main:main",
}


class Bare(NatsServer):
    """A server whose JetStream is switched on later."""

    jetstream = False

    async def prepare(self) -> list[str]:
        command = await super().prepare()
        if not self.jetstream:
            (self.folder / "nats.conf").write_text(f"server_name: bare\nlisten: {HOST}:{self.port}\n")
        return command

    async def answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        await reader.readline()
        writer.write(b'CONNECT {"verbose":false}\r\nPING\r\n')
        return (await reader.readline()).startswith(b"PONG")


@pytest_asyncio.fixture
async def nats(tmp_path: Path) -> AsyncIterator[Bare]:
    server = Bare(tmp_path)
    await server.start()
    yield server
    await server.stop()
    server.close()


def last_known_good(folder: Path) -> None:
    folder.mkdir(parents=True)
    documents = {"policy": Policy(lease_interval=1.0), "products.demo": Product(name="demo")}
    text = {key: json.loads(document.model_dump_json()) for key, document in documents.items()}
    (folder / "keeper.json").write_text(json.dumps(text))


@pytest.mark.timeout(300)  # six processes, side by side
async def test_given_no_jetstream_when_every_process_starts_then_it_runs_and_the_room_is_listed_when_the_kv_is_back(
    nats: Bare, settings: Settings, tmp_path: Path
) -> None:
    here = settings.model_copy(update={"nats": settings.nats.model_copy(update={"url": nats.endpoint})})
    async with AsyncExitStack() as stack:
        starting = []
        for name, main in PROCESSES.items():
            folder = tmp_path / "processes" / name
            last_known_good(folder / name)
            process = worker_process.running(main, here, folder, LONGWIRE_ROOM__ID="r1", LONGWIRE_CENTER__API_KEY="k" * 32)
            starting.append(stack.enter_async_context(process))
        await asyncio.gather(*starting)
        nats.jetstream = True
        await nats.stop()
        await nats.start()
        bus = Bus(here.nats, name="test", version="0.0.1")
        await bus.start()
        rooms = Rooms(bus, dead_after=lambda: 5.0)
        await rooms.start()
        await eventually(lambda: [view.entry.room for view in rooms.live()] == ["r1"], within=60, what="the room's entry")
        await rooms.stop()
        await bus.stop()
