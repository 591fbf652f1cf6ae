"""The fault proxy carries, delays, stalls, resets, half-closes and slices as it is told."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from infra.local.ports import HOST
from tests.chaos.proxy import Proxy


@pytest_asyncio.fixture
async def proxy() -> AsyncIterator[Proxy]:
    """A proxy before an echo server that says goodbye when nothing more comes."""

    handlers: set[asyncio.Task[None] | None] = set()

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handlers.add(asyncio.current_task())
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(4096):
                writer.write(data)
            writer.write(b"bye")
        writer.close()

    server = await asyncio.start_server(echo, HOST, 0)
    found = Proxy(server.sockets[0].getsockname()[1])
    await found.start()
    yield found
    await found.stop()
    server.close()
    await asyncio.gather(*(task for task in handlers if task is not None))


async def connect(proxy: Proxy) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection(HOST, proxy.port)
    writer.write(b"hello")
    assert await reader.readexactly(5) == b"hello"
    return reader, writer


async def nothing(reader: asyncio.StreamReader) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await reader.read(1)


@pytest.mark.parametrize("way", ["up", "down"])
async def test_given_one_way_stalled_then_nothing_comes_back_until_it_is_released(proxy: Proxy, way: str) -> None:
    reader, writer = await connect(proxy)
    proxy.stall(way)
    writer.write(b"later")
    await nothing(reader)
    proxy.release()
    assert await reader.readexactly(5) == b"later"
    writer.close()


async def test_given_a_delay_then_each_way_takes_that_long(proxy: Proxy) -> None:
    reader, writer = await connect(proxy)
    proxy.delay = 0.1
    began = time.monotonic()
    writer.write(b"x")
    await reader.readexactly(1)
    assert time.monotonic() - began >= 0.2
    writer.close()


async def test_given_a_reset_then_the_connection_ends_at_once(proxy: Proxy) -> None:
    reader, writer = await connect(proxy)
    proxy.reset()
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await reader.readexactly(1)
    writer.close()
    async with asyncio.timeout(5):
        while proxy.connections:  # noqa: ASYNC110 - the proxy's own task ends a moment later
            await asyncio.sleep(0.01)


async def test_given_a_half_close_then_the_server_sees_the_end_and_its_last_words_arrive(proxy: Proxy) -> None:
    reader, writer = await connect(proxy)
    proxy.half_close()
    assert await reader.read() == b"bye"
    writer.close()


async def test_given_small_pieces_and_little_bandwidth_then_all_arrives_in_that_time(proxy: Proxy) -> None:
    reader, writer = await connect(proxy)
    proxy.piece, proxy.bandwidth = 10, 1000
    began = time.monotonic()
    writer.write(b"x" * 200)
    assert await reader.readexactly(200) == b"x" * 200
    assert time.monotonic() - began >= 0.2
    writer.close()


async def test_given_a_proxy_that_refuses_then_no_connection_comes_through(proxy: Proxy) -> None:
    proxy.refusing = True
    reader, writer = await asyncio.open_connection(HOST, proxy.port)
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await reader.readexactly(1)
    writer.close()
