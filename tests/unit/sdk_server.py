"""A scripted MQTT 5 server, and a scripted dispatcher: the tests say what they answer, packet by packet."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any, Self, TypeVar

import mqtt5

from pushclient import Backoff, PushClient

P = TypeVar("P", bound=mqtt5.Packet)

DEADLINE_S = 5.0
QUIET_S = 0.05
QUICK = Backoff(base_s=0.01, cap_s=0.02)


class Peer:
    """The server's end of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self._reader = reader
        self._rest = b""
        self.hello: mqtt5.ConnectPacket

    async def receive(self, kind: type[P]) -> P:
        """The next packet, which has to be of this kind."""
        async with asyncio.timeout(DEADLINE_S):
            packet = await self._next()
        assert isinstance(packet, kind), packet
        return packet

    async def says_nothing(self) -> bool:
        """For a moment: what goes in one write is here at once."""
        try:
            async with asyncio.timeout(QUIET_S):
                self._rest += await self._reader.read(65_536)
        except TimeoutError:
            return not self._rest
        return False

    async def gone(self) -> None:
        """Wait until the client closed, whatever it says before."""
        async with asyncio.timeout(DEADLINE_S):
            with contextlib.suppress(ConnectionError):
                while await self._reader.read(1_000):
                    pass

    def send(self, *packets: mqtt5.Packet) -> None:
        self.writer.write(b"".join(packet.write() for packet in packets))

    def accept(self, **fields: Any) -> None:
        self.send(mqtt5.ConnAckPacket(**fields))

    def refuse(self, code: int, **fields: Any) -> None:
        self.send(mqtt5.ConnAckPacket(reason_code=mqtt5.ConnAckReasonCode(code), **fields))

    def disconnect(self, code: int, **fields: Any) -> None:
        self.send(mqtt5.DisconnectPacket(reason_code=mqtt5.DisconnectReasonCode(code), **fields))
        self.writer.close()

    def cut(self) -> None:
        self.writer.transport.abort()

    def push(self, message_id: str, packet_id: int | None = None, payload: bytes = b"x", **fields: Any) -> None:
        """A downlink on push/demo: at QoS 1 with a packet id, else at QoS 0."""
        properties = [("id", message_id), *fields.pop("properties", {}).items()]
        qos = mqtt5.QoS.AT_MOST_ONCE if packet_id is None else mqtt5.QoS.AT_LEAST_ONCE
        fields = {"qos": qos, "packet_id": packet_id, "user_properties": properties, **fields}
        self.send(mqtt5.PublishPacket(fields.pop("topic", "push/demo"), payload, **fields))

    async def grant(self, *codes: int) -> mqtt5.SubscribePacket:
        """Read a SUBSCRIBE and answer it, by default with QoS 1 for all."""
        asked = await self.receive(mqtt5.SubscribePacket)
        answers = [mqtt5.SubAckReasonCode(code) for code in codes or [1] * len(asked.topic_filters)]
        self.send(mqtt5.SubAckPacket(asked.packet_id, answers))
        return asked

    async def _next(self) -> mqtt5.Packet:
        while True:
            try:
                packet, size = mqtt5.read(memoryview(self._rest))
            except IndexError:
                data = await self._reader.read(65_536)
                assert data, "the client closed"
                self._rest += data
            else:
                self._rest = self._rest[size:]
                return packet


class Server:
    """Listens on a free port; each connection waits for the test to take it."""

    def __init__(self) -> None:
        self._peers: asyncio.Queue[Peer] = asyncio.Queue()
        self._all: list[Peer] = []

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.address: tuple[str, int] = self._server.sockets[0].getsockname()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._server.close()
        for peer in self._all:
            peer.cut()
        await self._server.wait_closed()

    async def refuse_connections(self) -> None:
        """Until `listen_again`."""
        self._server.close()

    async def listen_again(self) -> None:
        self._server = await asyncio.start_server(self._connected, *self.address)

    async def peer(self, **accept: Any) -> Peer:
        """The next connection, after its CONNECT was read and answered."""
        peer = await self.raw()
        peer.accept(**accept)
        return peer

    async def raw(self) -> Peer:
        """The next connection, after its CONNECT was read."""
        async with asyncio.timeout(DEADLINE_S):
            peer = await self._peers.get()
        peer.hello = await peer.receive(mqtt5.ConnectPacket)
        return peer

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(reader, writer)
        self._all.append(peer)
        self._peers.put_nowait(peer)


class HttpServer:
    """Answers each GET with the next of `answers` (the last one again and again) and notes the targets."""

    def __init__(self, *answers: bytes) -> None:
        self.answers = list(answers)
        self.targets: list[str] = []
        self.silent = False
        self._held: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._server.close()
        for writer in self._held:
            writer.transport.abort()
        await self._server.wait_closed()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.targets.append(head.split(b" ")[1].decode())
        writer.write(self.answers.pop(0) if len(self.answers) > 1 else self.answers[0])
        if self.silent:
            self._held.append(writer)
        else:
            writer.close()


def make_client(server: Server, **options: Any) -> PushClient:
    """A client whose session ends with its connection, unless the test says otherwise."""
    defaults = {"client_id": "c1", "token": "secret", "servers": [server.address], "backoff": QUICK, "session_expiry": 0}
    return PushClient(**{**defaults, **options})


@contextlib.asynccontextmanager
async def connected(
    server: Server, accept: dict[str, Any] | None = None, **options: Any
) -> AsyncIterator[tuple[PushClient, Peer]]:
    """A client whose first connection was accepted, and the server's end of it."""
    client = make_client(server, **options)
    starting = asyncio.ensure_future(client.start())
    try:
        peer = await server.peer(**(accept or {}))
        await starting
        yield client, peer
    finally:
        starting.cancel()
        await client.close()


@contextlib.asynccontextmanager
async def bound(server: Server, accept: dict[str, Any] | None = None, **options: Any) -> AsyncIterator[tuple[PushClient, Peer]]:
    """The same, bound to the product demo."""
    async with connected(server, accept, **options) as (client, peer):
        binding = asyncio.ensure_future(client.bind("demo"))
        await peer.grant()
        assert await binding == 1
        yield client, peer


async def until(condition: Callable[[], object]) -> None:
    """Wait for a condition, with a deadline."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 - any condition, and not all of them can set an event
            await asyncio.sleep(0.001)
