"""How long a device waits for a webhook's reply to its uplink: 200 a second, over a real local HTTPS server.

Real devices (the SDK's), a room, a coordinator, Kafka, delivery and back; devices and the webhook's server share this process.
"""

from __future__ import annotations

import asyncio
import json
import random
import ssl
import time
from pathlib import Path
from typing import Any, Final

from bench.center_world import Failed, World
from bench.tls import Certificate
from infra.documents import Product, product_key
from infra.documents.webhooks import new_secret
from infra.ops.tokens import make_token
from pushclient import PushClient

PRODUCT: Final = "replies"
KIND: Final = "order"
HOST: Final = "localhost"
DEVICES: Final = 100
RATE: Final = 200
"""Uplinks a second, of all devices together."""
WARM_UP_S: Final = 5.0
MEASURED_S: Final = 30.0
PATIENCE: Final = 10.0


def settings(certificate: Certificate) -> dict[str, str]:
    """Variables of the coordinator's: whose certificate it believes."""
    return {"LONGWIRE_OUTSIDE__CA": str(certificate.file)}


def certificate(folder: Path) -> Certificate:
    """The webhook's."""
    return Certificate(folder / "webhook", HOST)


class Webhook:
    """A product's server: answers every event of an uplink by its own payload."""

    def __init__(self, folder: Path) -> None:
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(folder / "webhook" / "room.crt", folder / "webhook" / "room.key")
        self.connections = 0

    async def start(self) -> int:
        """Its port."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        return int(self._server.sockets[0].getsockname()[1])

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                size = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
                events = json.loads(await reader.readexactly(size))["events"]
                replies = {event["id"]: {"payload_base64": event["data"]["payload_base64"]} for event in events}
                body = json.dumps({"replies": replies}).encode()
                writer.write(
                    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body
                )
        except (OSError, asyncio.IncompleteReadError):
            writer.close()

    def stop(self) -> None:
        """Listen no longer."""
        self._server.close()


async def measure(world: World) -> dict[str, Any]:
    """Milliseconds from an uplink to its reply; raises Failed if any did not come."""
    hook = Webhook(world.folder)
    url = f"https://{HOST}:{await hook.start()}/"
    endpoint = {"name": "main", "url": url, "secrets": [new_secret()], "events": ["uplink.received"], "private": True}
    await world.put(product_key(PRODUCT), Product.model_validate({"name": PRODUCT, "webhooks": [endpoint]}))
    devices = [_device(world, f"reply-{number}") for number in range(DEVICES)]
    try:
        for device in devices:
            await device.start()
            await device.bind(PRODUCT)
        with world.unpinned():
            await _paced(devices, WARM_UP_S)
            took, lost = await _paced(devices, MEASURED_S)
    finally:
        await asyncio.gather(*(device.close() for device in devices))
        hook.stop()
    if lost:
        raise Failed(f"{lost} of {len(took) + lost} uplinks had no reply")
    return {
        "reply_p50_ms": round(took[len(took) // 2] * 1000, 1),
        "reply_p99_ms": round(took[len(took) * 99 // 100] * 1000, 1),
        "reply_max_ms": round(took[-1] * 1000, 1),
        "reply_uplinks": len(took),
        "reply_webhook_connections": hook.connections,
    }


def _device(world: World, client: str) -> PushClient:
    token = make_token(Path(world.system.data), client=client, product=PRODUCT)
    return PushClient(client_id=client, token=token, dispatch=world.system.center)


async def _paced(devices: list[PushClient], seconds: float) -> tuple[list[float], int]:
    """Sorted times of all uplinks that had a reply, s, and how many had none; at exponential gaps, by devices in turn."""
    asked: list[asyncio.Task[float]] = []
    due, end = time.monotonic(), time.monotonic() + seconds
    while due < end:
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        asked.append(asyncio.create_task(_one(devices[len(asked) % len(devices)], due)))
        due += random.expovariate(RATE)
    found = await asyncio.gather(*asked, return_exceptions=True)
    took = sorted(each for each in found if isinstance(each, float))
    return took, len(found) - len(took)


async def _one(device: PushClient, due: float) -> float:
    """From when it was due: a late start counts. Raises PushError."""
    await device.request(PRODUCT, KIND, b"hi", timeout=PATIENCE)
    return time.monotonic() - due
