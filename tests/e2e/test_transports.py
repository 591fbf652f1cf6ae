"""Devices by TLS and by WebSocket, in a whole system: pushed to, broadcast to, heard."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
from contextlib import suppress
from pathlib import Path

import mqtt5
from system import PRODUCT, WITHIN, Stand, Wire, unique

from pushclient import PushClient, PushMessage


def ports(system: Stand) -> list[int]:
    """Of the first room: its own, TLS, WebSocket over TLS."""
    report = json.loads((system.data / "run" / f"{system.room.id}.json").read_text())
    found: list[int] = report["ports"]
    return found


def trust(folder: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=folder / "ca.pem")


class Web(Wire):
    """A WebSocket under the packets: whole, short frames, as a browser's library sends them."""

    @classmethod
    async def open(cls, port: int, context: ssl.SSLContext) -> Web:
        """Connect and upgrade."""
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=context, server_hostname="room.test", ssl_shutdown_timeout=0.2
        )
        key = base64.b64encode(bytes(16)).decode()
        writer.write(
            "GET /mqtt HTTP/1.1\r\nHost: room.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n".encode()
        )
        async with asyncio.timeout(WITHIN):
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        return cls(reader, writer)

    def write(self, data: bytes) -> None:
        """One frame, masked by zeros."""
        assert len(data) < 1 << 16
        length = bytes((0x80 | len(data),)) if len(data) < 126 else b"\xfe" + len(data).to_bytes(2)
        self._writer.write(b"\x82" + length + bytes(4) + data)

    async def packet(self) -> mqtt5.Packet:
        """The next packet: each comes in frames of its own."""
        async with asyncio.timeout(WITHIN):
            while not (found := self._whole()):
                first, size = await self._reader.readexactly(2)
                assert first == 0x82
                if size > 125:
                    size = int.from_bytes(await self._reader.readexactly(2 if size == 126 else 8))
                self._held += await self._reader.readexactly(size)
        return found

    def close(self) -> None:
        """Cut it."""
        self._writer.transport.abort()


async def published(web: Web) -> mqtt5.PublishPacket:
    packet = await web.packet()
    assert isinstance(packet, mqtt5.PublishPacket)
    web.write(mqtt5.PubAckPacket(packet.packet_id or 0).write())
    return packet


async def test_given_a_device_by_tls_and_one_by_websocket_then_they_get_what_is_pushed_and_acknowledge_it(
    system: Stand, authority: Path
) -> None:
    context = trust(authority)
    context.check_hostname = False  # the SDK connects to an address here
    secure, web_client = unique("tls"), unique("web")
    got: asyncio.Queue[PushMessage] = asyncio.Queue()
    _, tls_port, web_port = ports(system)
    push = PushClient(
        client_id=secure,
        token=system.token(secure),
        servers=[("127.0.0.1", tls_port)],
        tls=context,
        on_message=got.put_nowait,
    )
    web = await Web.open(web_port, trust(authority))
    try:
        async with asyncio.timeout(WITHIN):
            await push.start()
            await push.bind(PRODUCT)
        answer = await web.connect(mqtt5.ConnectPacket(web_client, password=system.token(web_client).encode()))
        assert int(answer.reason_code) == 0
        await web.subscribe(f"push/{PRODUCT}")

        mine, other = await system.send(secure, "by TLS"), await system.send(web_client, "y" * 16_000)
        async with asyncio.timeout(WITHIN):
            assert (await got.get()).id == mine
        packet = await published(web)
        assert (dict(packet.user_properties)["id"], packet.payload) == (other, b"y" * 16_000)
        await system.settled(secure, mine)
        await system.settled(web_client, other)

        await system.broadcast("to all")
        async with asyncio.timeout(WITHIN):
            assert (await got.get()).payload == b"to all"
        assert (await published(web)).payload == b"to all"
    finally:
        web.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(5):
                await push.close()


async def test_given_a_device_that_asks_for_tls_then_the_dispatcher_names_a_port_with_tls(system: Stand, authority: Path) -> None:
    client = unique("dispatched")
    own, tls_port, web_port = ports(system)
    named = {}
    for transport in ("mqtt", "mqtts", "wss"):
        answer = await system.http.get("/v1/dispatch", params={"client": client, "transport": transport})
        named[transport] = {item["port"] for item in answer.json()["addresses"] if item["room"] == system.room.id}
    assert named == {"mqtt": {own}, "mqtts": {tls_port}, "wss": {web_port}}
    context = trust(authority)
    context.check_hostname = False
    push = PushClient(client_id=client, token=system.token(client), dispatch=system.address.center, tls=context)
    async with asyncio.timeout(WITHIN):
        await push.start()
        assert push.connected
        await push.close()
