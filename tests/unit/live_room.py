"""A room behind a listening socket of its own, with clients that speak bytes. The shell is real, the saver is scripted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import mqtt5
from prometheus_client import REGISTRY

from gateway.edge.entrance import Entrance
from gateway.edge.listener import Listener
from gateway.edge.sockets import Sockets
from gateway.wheel import RESOLUTION
from infra.documents import Access, Policy
from infra.settings import RoomSettings
from tests.unit.gateway_world import World, claims, sign

PING = mqtt5.PingReqPacket().write()
SUBSCRIBE = mqtt5.SubscribePacket(1, [mqtt5.TopicFilter("push/demo", max_qos=mqtt5.QoS(1))]).write()
SERVED_WITHIN = 0.5
"""Seconds in which everybody else has an answer, whatever one client does. On a machine of its own it is some milliseconds."""


def connect(client: str, **fields: object) -> bytes:
    """A CONNECT with a good token."""
    return mqtt5.ConnectPacket(client, password=sign(claims(client)), **fields).write()  # type: ignore[arg-type]


def counted(name: str, **labels: str) -> float:
    """What a counter shows now."""
    return REGISTRY.get_sample_value(f"longwire_gateway_{name}_total", labels) or 0.0


class Client:
    """A raw MQTT peer."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self._rest = b""

    async def packet(self) -> mqtt5.Packet:
        async with asyncio.timeout(5):
            while True:
                try:
                    packet, size = mqtt5.read(memoryview(self._rest))
                except IndexError:
                    data = await self.reader.read(65_536)
                    assert data, "closed"
                    self._rest += data
                else:
                    self._rest = self._rest[size:]
                    return packet

    async def closed(self) -> bytes:
        """Everything until the end."""
        data = self._rest
        async with asyncio.timeout(5):
            try:
                while more := await self.reader.read(65_536):
                    data += more
            except ConnectionError:
                pass
        return data


class Live:
    """A world whose clock runs, behind a listening socket."""

    def __init__(self, world: World, port: int) -> None:
        self.world = world
        self.port = port
        self.clients: list[Client] = []

    async def client(self, *data: bytes, source: str = "127.0.0.1") -> Client:
        """A peer that comes from `source`, and has sent `data`."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=4096, local_addr=(source, 0))
        writer.write(b"".join(data))
        made = Client(reader, writer)
        self.clients.append(made)
        return made

    async def until(self, condition: Callable[[], bool], *, seconds: float = 5) -> None:
        async with asyncio.timeout(seconds):
            while not condition():  # noqa: ASYNC110 - of a world without events
                await asyncio.sleep(0.01)


async def ticking(world: World, rest: Callable[[bool], None]) -> None:
    """The world's clock is the true one; `rest(shut)` is told whether anybody may be accepted."""
    begun = time.monotonic()
    while True:
        await asyncio.sleep(RESOLUTION / 10)
        world.now = time.monotonic() - begun
        world.room.tick(world.now)
        rest(world.room.gate.shut)
        world.flush()


@asynccontextmanager
async def live(*, policy: Policy | None = None, access: Access | None = None, **settings: float) -> AsyncIterator[Live]:
    world = World(policy=policy, settings=RoomSettings.model_validate(settings))
    world.room.load(access or Access())
    sockets = Sockets(asyncio.get_running_loop())
    listener = Listener(Entrance(world.room, sockets, world.room.settings, None, set()).accepted)
    port = listener.start("127.0.0.1", 0)

    task = asyncio.ensure_future(ticking(world, listener.rest))
    made = Live(world, port)
    try:
        yield made
    finally:
        for client in made.clients:
            client.writer.transport.abort()
        listener.stop()
        await made.until(lambda: not list(world.room.sessions))
        task.cancel()
        sockets.stop()


@asynccontextmanager
async def served(room: Live) -> AsyncIterator[None]:
    """Somebody else is connected meanwhile, and has an answer to each ping in time."""
    other = await room.client(connect("bystander"), SUBSCRIBE)
    assert isinstance(await other.packet(), mqtt5.ConnAckPacket)
    assert isinstance(await other.packet(), mqtt5.SubAckPacket)
    waits: list[float] = []

    async def ping() -> None:
        while True:
            begun = time.monotonic()
            other.writer.write(PING)
            assert isinstance(await other.packet(), mqtt5.PingRespPacket)
            waits.append(time.monotonic() - begun)
            await asyncio.sleep(0.005)

    task = asyncio.ensure_future(ping())
    try:
        yield
        await room.until(lambda: len(waits) > 3 or task.done())
    finally:
        task.cancel()
        await asyncio.wait([task])
    assert task.cancelled(), task.exception()
    assert max(waits) < SERVED_WITHIN
