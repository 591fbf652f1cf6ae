"""Connections to center that never become a request."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio
from center_world import World, room
from prometheus_client import REGISTRY

from tests.unit.center_routes import application
from workers.center.web.intake import HEAD_BYTES, Intake
from workers.center.web.server import HttpServer


@pytest_asyncio.fixture
async def server() -> AsyncIterator[HttpServer]:
    world = World()
    world.rooms.views = [room("r1")]

    def fail(reason: str) -> None:
        raise AssertionError(reason)

    made = HttpServer(application(world.parts), host="127.0.0.1", port=0, fail=fail)
    await made.start()
    yield made
    await made.stop()


def counted(reason: str) -> float:
    return REGISTRY.get_sample_value("longwire_center_connections_refused_total", {"reason": reason}) or 0.0


async def talk(server: HttpServer, *parts: bytes, pause: float = 0.0) -> tuple[bytes, float]:
    """Send these, and read until the other side closes: what it said, and after how many seconds it closed."""
    url = httpx.URL(server.url)
    reader, writer = await asyncio.open_connection(url.host, url.port)
    began = time.monotonic()
    said = b""
    try:
        async with asyncio.timeout(10):
            for part in parts:
                writer.write(part)
                await asyncio.sleep(pause)
            said = await reader.read()
    except ConnectionError:
        pass
    finally:
        writer.transport.abort()
    return said, time.monotonic() - began


async def served(server: HttpServer) -> bool:
    async with httpx.AsyncClient(base_url=server.url, trust_env=False) as http:
        return (await http.get("/v1/dispatch", params={"client": "c"})).status_code == 200


REQUEST = b"GET /v1/dispatch?client=c HTTP/1.1\r\nHost: h\r\n\r\n"


@pytest.mark.parametrize(
    "parts",
    [
        pytest.param([], id="nothing"),
        pytest.param([b"G"], id="a byte"),
        pytest.param([REQUEST[:-2]], id="all but the end"),
        pytest.param([REQUEST, b"G"], id="a byte after a request"),
        pytest.param([REQUEST, b"\r\n"], id="an empty line after a request"),
        pytest.param([bytes([byte]) for byte in REQUEST[:-2]], id="a byte at a time"),
    ],
)
async def test_given_a_head_that_does_not_end_then_the_connection_is_closed(
    server: HttpServer, monkeypatch: pytest.MonkeyPatch, parts: list[bytes]
) -> None:
    monkeypatch.setattr(Intake, "head_timeout", 0.3)
    before = counted("slow_head")
    _, seconds = await talk(server, *parts, pause=0.01)
    assert 0.2 < seconds < 2.0
    assert counted("slow_head") == before + 1
    assert await served(server)


@pytest.mark.parametrize("start", [b"GET /v1/dispatch?client=", b"GET /v1/dispatch HTTP/1.1\r\nX: ", b"GET / HTTP/1.1\r\n", b""])
async def test_given_a_head_without_an_end_then_it_is_closed_before_it_takes_memory(server: HttpServer, start: bytes) -> None:
    before = counted("large_head")
    more = {b"": b"\r\n" * 512, b"GET / HTTP/1.1\r\n": b"X: y\r\n" * 170}.get(start, b"x" * 1024)
    said, _ = await talk(server, start, *[more] * (2 * HEAD_BYTES // len(more)))
    assert said == b""
    assert counted("large_head") == before + 1
    assert await served(server)


async def test_given_more_connections_than_there_may_be_then_further_ones_are_reset_and_the_others_served(
    server: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Intake, "max_connections", 1)
    before = counted("full")
    async with httpx.AsyncClient(base_url=server.url, trust_env=False) as http:
        assert (await http.get("/v1/dispatch", params={"client": "c"})).status_code == 200
        assert (await talk(server))[0] == b""
        assert counted("full") == before + 1
        assert (await http.get("/v1/dispatch", params={"client": "c"})).status_code == 200


async def test_given_a_kept_connection_then_each_of_its_requests_has_its_own_time(
    server: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Intake, "head_timeout", 0.3)
    async with httpx.AsyncClient(base_url=server.url, trust_env=False) as http:
        for _ in range(3):
            assert (await http.get("/v1/dispatch", params={"client": "c"})).status_code == 200
            await asyncio.sleep(0.4)
