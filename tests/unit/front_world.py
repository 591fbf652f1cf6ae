"""A room's ports, live on loopback: any transport, with real sockets and a real TLS client."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import mqtt5
from gateway_world import World, claims, sign
from live_room import ticking
from ws import frame, parsed, request

from gateway.edge.certificates import Certificates
from gateway.edge.front import Front
from gateway.edge.stages import failures
from infra.settings import RoomSettings

PING = mqtt5.PingReqPacket().write()
WITHIN_S = 30
"""A busy machine is no failure."""


def connect(client: str = "c1") -> bytes:
    return mqtt5.ConnectPacket(client, password=sign(claims(client))).write()


def trusting(authority: Path, **more: Any) -> ssl.SSLContext:
    """A client's context; `certificate`: one of its own."""
    context = ssl.create_default_context(cafile=authority)
    if "certificate" in more:
        context.load_cert_chain(more["certificate"].certificate, more["certificate"].key)
    return context


@contextmanager
def counted(stage: str, reason: str) -> Iterator[None]:
    """What happens inside is counted once for this stage and reason."""
    before = failures.labels(stage, reason)._value.get()
    yield
    assert failures.labels(stage, reason)._value.get() == before + 1, (stage, reason)


class Peer:
    """Any client of a port: bytes of MQTT in and out, in WebSocket frames where `websocket`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, websocket: bool) -> None:
        self.reader = reader
        self.writer = writer
        self.websocket = websocket
        self._rest = b""

    async def upgrade(self, data: bytes = b"") -> bytes:
        """Send the request; returns the answer's head."""
        self.writer.write(data or request())
        async with asyncio.timeout(WITHIN_S):
            return await self.reader.readuntil(b"\r\n\r\n")

    def send(self, data: bytes) -> None:
        self.writer.write(frame(data) if self.websocket else data)

    async def packet(self) -> mqtt5.Packet:
        async with asyncio.timeout(WITHIN_S):
            while True:
                try:
                    packet, size = mqtt5.read(memoryview(self._rest))
                except IndexError:
                    data = await self.reader.read(65_536)
                    assert data, "closed"
                    self._rest += b"".join(payload for _, payload in parsed(data)) if self.websocket else data
                else:
                    self._rest = self._rest[size:]
                    return packet

    async def closed(self) -> bytes:
        """All bytes until the end, as they come through TLS."""
        data = b""
        async with asyncio.timeout(WITHIN_S):
            try:
                while more := await self.reader.read(65_536):
                    data += more
            except (ConnectionError, ssl.SSLError):
                pass
        return data


class Live:
    """A room with ports, whose clock runs."""

    def __init__(self, world: World, front: Front, certificates: Certificates | None) -> None:
        self.world = world
        self.front = front
        self.certificates = certificates
        self.peers: list[Peer] = []

    async def peer(self, at: int = 0, tls: ssl.SSLContext | None = None, *, name: str = "room.test", **more: Any) -> Peer:
        """Connect to the port of this number; with TLS as if the room were called `name`."""
        host = more.pop("host", "127.0.0.1")
        port = self.front.ports[at]
        reader, writer = await asyncio.open_connection(
            host, port, ssl=tls, server_hostname=name if tls else None, **({"ssl_shutdown_timeout": 0.2} if tls else {})
        )
        made = Peer(reader, writer, websocket=more.pop("websocket", False))
        self.peers.append(made)
        if made.websocket:
            assert (await made.upgrade()).startswith(b"HTTP/1.1 101 ")
        return made

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(WITHIN_S):
            while not condition():  # noqa: ASYNC110 - of a world without events
                await asyncio.sleep(0.01)


@asynccontextmanager
async def live(**settings: Any) -> AsyncIterator[Live]:
    world = World(settings=RoomSettings.model_validate(settings))
    tls = world.room.settings.tls
    certificates = Certificates(tls, fail=lambda reason: None) if tls.certificates else None
    if certificates is not None:
        certificates.load()
    front = Front(world.room, certificates)
    front.start()

    task = asyncio.ensure_future(ticking(world, front.rest))
    made = Live(world, front, certificates)
    try:
        yield made
    finally:
        for peer in made.peers:
            peer.writer.transport.abort()
        front.listen_no_more()
        await made.until(lambda: not list(world.room.sessions))
        task.cancel()
        front.stop()


def has_ipv6() -> bool:
    """Can this machine listen on ::1?"""
    try:
        with socket.socket(socket.AF_INET6) as tried:
            tried.bind(("::1", 0))
    except OSError:
        return False
    return True
