"""Back-pressure from a product's health URL, against a real HTTP server that is well, slow, wrong, redirecting or away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest

from infra.documents import Health, Product
from infra.settings import OutsideSettings
from workers.broadcast.health import HealthProbes
from workers.broadcast.pace import SLOWEST, Pressure
from workers.outside import Outside


class Server:
    """Answers every request with `status` after `delay` seconds, and counts them."""

    def __init__(self) -> None:
        self.status = "200 OK"
        self.delay = 0.0
        self.asked: list[str] = []
        self.url = ""

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            self.asked.append((await reader.readuntil(b"\r\n\r\n")).decode().partition("\r\n")[0])
            await asyncio.sleep(self.delay)
            location = f"Location: {self.url}/elsewhere\r\n"
            writer.write(f"HTTP/1.1 {self.status}\r\n{location}Content-Length: 0\r\nConnection: close\r\n\r\n".encode())
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the prober did not wait
        finally:
            writer.close()


@asynccontextmanager
async def a_server() -> AsyncIterator[Server]:
    made = Server()
    listener = await asyncio.start_server(made.answer, "127.0.0.1", 0)
    async with listener:
        host, port = listener.sockets[0].getsockname()
        made.url = f"http://{host}:{port}"
        yield made


@asynccontextmanager
async def watching(product: Product | None, pressure: Pressure, *, moving: bool = True) -> AsyncIterator[None]:
    keeper = SimpleNamespace(products={"news": product} if product is not None else {})
    outside = Outside(OutsideSettings.model_validate({"private": ["127.0.0.0/8"]}))
    probes = HealthProbes(keeper, outside)  # type: ignore[arg-type]
    task = asyncio.ensure_future(probes.watch("news", pressure, lambda: moving))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await outside.stop()


def product(url: str) -> Product:
    return Product(name="news", health=Health(url=url, interval=0.05, slow_after=0.5))


async def until(pressure: Pressure, factor: float) -> None:
    async with asyncio.timeout(10):
        while pressure.factor != factor:  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("status", "delay"), [("500 No", 0.0), ("404 No", 0.0), ("200 OK", 5.0)], ids=["fails", "is-missing", "is-slow"]
)
async def test_given_a_health_url_that_is_not_well_when_probed_then_the_rate_is_halved_and_comes_back(status: str, delay: float):
    async with a_server() as server:
        server.status, server.delay = status, delay
        pressure = Pressure()
        async with watching(product(server.url), pressure):
            await until(pressure, 0.5)
            await until(pressure, SLOWEST)
            server.status, server.delay = "200 OK", 0.0
            await until(pressure, 1.0)


async def test_given_nobody_at_the_url_when_probed_then_it_is_not_well():
    async with a_server() as server:
        url = server.url
    pressure = Pressure()
    async with watching(product(url), pressure):
        await until(pressure, SLOWEST)


async def test_given_a_redirect_when_probed_then_it_is_well_and_not_followed():
    async with a_server() as server:
        server.status = "302 Found"
        pressure = Pressure()
        pressure.factor = 0.5
        async with watching(product(server.url), pressure):
            await until(pressure, 1.0)
        assert all("elsewhere" not in line for line in server.asked)


async def test_given_nothing_that_moves_or_no_url_when_watched_then_nobody_is_asked():
    async with a_server() as server:
        pressure = Pressure()
        async with watching(product(server.url), pressure, moving=False):
            await asyncio.sleep(0.3)
        assert server.asked == []
    pressure.factor = 0.25
    async with watching(Product(name="news"), pressure):
        await until(pressure, 1.0)
