"""`pushctl run gateway --rooms N`, as a process of its own: rooms beside one another, started again, drained together."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from infra.local.brokers import Endpoints
from tests.unit.certs import Authority

pytestmark = pytest.mark.xdist_group("local-brokers")
WITHIN = 40.0


class Edge:
    """The supervisor, and what it said on stderr."""

    def __init__(self, process: asyncio.subprocess.Process, data: Path) -> None:
        self.process = process
        self.data = data
        self.said = ""

    async def says(self, text: str) -> None:
        assert self.process.stderr is not None
        async with asyncio.timeout(WITHIN):
            while text not in self.said:
                line = await self.process.stderr.readline()
                assert line, self.said
                self.said += line.decode()

    def report(self, room: str) -> dict[str, Any]:
        """What a room said of itself; nothing while it starts."""
        file = self.data / "run" / f"{room}.json"
        found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
        return found

    def log(self, room: str) -> str:
        return (self.data / "logs" / f"{room}.log").read_text()


@asynccontextmanager
async def edge(brokers: Endpoints, data: Path, rooms: int, **room: object) -> AsyncIterator[Edge]:
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith("LONGWIRE_")},
        "LONGWIRE_NATS__URL": brokers.nats,
        "LONGWIRE_DATA": str(data),
        "LONGWIRE_ROOM__ID": "edge",
        "LONGWIRE_ROOM__DRAIN": "1s",
        **{f"LONGWIRE_ROOM__{name.upper()}": str(value) for name, value in room.items()},
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cli", "run", "gateway", "--rooms", str(rooms)), env=env, stderr=asyncio.subprocess.PIPE
    )
    try:
        yield Edge(process, data)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def listens(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


async def test_given_rooms_when_one_dies_then_it_comes_back_on_its_ports_and_sigterm_drains_all(
    brokers: Endpoints, tmp_path: Path
) -> None:
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        shared = chosen.getsockname()[1]
    certificate = Authority(tmp_path).issue("room.test")
    listeners = json.dumps([{"transport": "mqtts"}, {"port": shared, "shared": True}])
    certificates = json.dumps([certificate.model_dump(mode="json")])
    async with edge(brokers, tmp_path / "data", 2, listeners=listeners, tls__certificates=certificates) as made:
        await made.says("2 rooms are ready")
        first, second = made.report("edge-1"), made.report("edge-2")
        assert (first["room"], second["room"]) == ("edge-1", "edge-2")
        assert not set(first["ports"][:2]) & set(second["ports"][:2])
        assert first["ports"][2] == second["ports"][2] == shared

        os.kill(first["pid"], signal.SIGKILL)
        await made.says("edge-1: was killed by SIGKILL; started again")
        async with asyncio.timeout(WITHIN):
            while (again := made.report("edge-1")).get("pid", first["pid"]) == first["pid"]:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        assert again["ports"] == first["ports"]
        assert made.report("edge-2") == second

        made.process.send_signal(signal.SIGHUP)
        async with asyncio.timeout(WITHIN):
            while not all("certificates read" in made.log(room) for room in ("edge-1", "edge-2")):  # noqa: ASYNC110
                await asyncio.sleep(0.1)

        began = time.monotonic()
        made.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(WITHIN):
            assert await made.process.wait() == 0
        assert time.monotonic() - began < 15
        assert not any(listens(port) for port in (*first["ports"], *second["ports"]))
        for room in ("edge-1", "edge-2"):
            assert '"ended"' in made.log(room)


async def test_given_rooms_that_cant_start_then_the_reason_is_told_and_none_stays(brokers: Endpoints, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        if port + 1 > 65_535:
            pytest.skip("the last port")
        async with edge(brokers, tmp_path / "data", 2, port=port) as made:
            assert made.process.stderr is not None
            async with asyncio.timeout(WITHIN):
                said = (await made.process.stderr.read()).decode()
                assert await made.process.wait() == 1
        assert "edge-1" in said
        assert "Address already in use" in said
        assert not listens(port + 1)
