"""What strangers and broken programs send: each is refused in the protocol's terms and counted, and nobody else notices."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import mqtt5
import pytest
import pytest_asyncio
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from joserfc import jwt
from joserfc.jwk import OctKey
from system import PRODUCT, Device, Stand, Wire, eventually, unique

from schemas import codec, names
from schemas.records import DeadLetter, PushMessage

pytestmark = [pytest.mark.xdist_group("system"), pytest.mark.timeout(90)]

REFUSED: Final = "longwire_gateway_refused_total"
ROOM: Final = "r1"
AT_LEAST_ONCE: Final = mqtt5.QoS.AT_LEAST_ONCE


@pytest_asyncio.fixture(scope="module")
async def bystander(system: Stand) -> AsyncIterator[Device]:
    """A healthy device in the room that gets all the bad input."""
    async with Device(system, unique("bystander")) as device:
        yield device


@asynccontextmanager
async def harmless(system: Stand, bystander: Device, process: str, counter: str, **labels: str) -> AsyncIterator[None]:
    """What happens inside is counted by `process`, and the bystander is served as before, on the same connection."""
    async with system.counted(process, counter, **labels):
        yield
    await bystander.receives(await system.send(bystander.client, "still here?"))
    assert bystander.push.stats.connects == 1


# --- tokens -------------------------------------------------------------------------------------------------------------


def claims(client: str, **changed: Any) -> dict[str, Any]:
    """The claims of a good token, with changes; None leaves one out."""
    now = int(time.time())
    good = {"iss": "longwire", "aud": "longwire", "sub": client, "iat": now, "exp": now + 600, "products": {PRODUCT: {}}}
    return {name: value for name, value in {**good, **changed}.items() if value is not None}


def signed(system: Stand, body: dict[str, Any], *, secret: str = "") -> bytes:
    """A token, signed by the system's issuer or by `secret`."""
    key = OctKey.import_key(secret or (system.data / "issuer-secret").read_text().strip())
    return jwt.encode({"alg": "HS256", "kid": "1"}, body, key).encode()


def unsigned(body: dict[str, Any]) -> bytes:
    """A token of `alg: none` (RFC 8725 §3.1)."""
    parts = (json.dumps({"alg": "none", "kid": "1"}), json.dumps(body), "")
    return b".".join(base64.urlsafe_b64encode(part.encode()).rstrip(b"=") for part in parts)


@asynccontextmanager
async def connected(system: Stand, **changed: Any) -> AsyncIterator[Wire]:
    """A connection that was let in, by a token with these changes."""
    client = unique("bad")
    async with Wire.to(system.room) as wire:
        token = signed(system, claims(client, **changed))
        answer = await wire.connect(mqtt5.ConnectPacket(client, password=token, clean_start=True))
        assert answer.reason_code == 0, answer.reason_str
        yield wire


async def answers_ping(wire: Wire) -> None:
    """The connection goes on."""
    wire.write(mqtt5.PingReqPacket().write())
    assert isinstance(await wire.packet(), mqtt5.PingRespPacket)


# --- before CONNECT -----------------------------------------------------------------------------------------------------

CONNECT_311: Final = b"\x10\x10\x00\x04MQTT\x04\x02\x00\x3c\x00\x04abcd"
NO_CONNECT: Final = {
    "an HTTP request": b"GET / HTTP/1.1\r\nHost: push\r\n\r\n",
    "garbage": b"\xff\x00\xfe\x01" * 64,
    "PINGREQ first": b"\xc0\x00",
    "a CONNECT without a body": b"\x10\x00",
    "a CONNECT that is cut inside": b"\x10\x05\x00\x04MQT",
    "a length of five bytes": b"\x10\xff\xff\xff\xff\x01",
    "a client id that is not UTF-8": mqtt5.ConnectPacket("abcd").write().replace(b"abcd", b"ab\xc3\x28"),
    "an announced length of 5,000 bytes": b"\x10\x88\x27\x00\x04MQTT\x05",
    "an announced length of 256 MiB": b"\x10\xff\xff\xff\x7f\x00\x04MQTT\x05",
}


@pytest.mark.parametrize("data", NO_CONNECT.values(), ids=NO_CONNECT.keys())
async def test_given_no_connect_packet_then_the_room_closes_without_a_word(
    system: Stand, bystander: Device, data: bytes
) -> None:
    async with harmless(system, bystander, ROOM, REFUSED, reason="malformed"), Wire.to(system.room) as wire:
        wire.write(data)
        assert await wire.ended() == b""


async def test_given_mqtt_311_then_it_is_refused_in_its_own_form(system: Stand, bystander: Device) -> None:
    async with harmless(system, bystander, ROOM, REFUSED, reason="version"), Wire.to(system.room) as wire:
        wire.write(CONNECT_311)
        assert await wire.ended() == b"\x20\x02\x00\x01"


async def test_given_a_later_version_then_connack_0x84(system: Stand, bystander: Device) -> None:
    async with harmless(system, bystander, ROOM, REFUSED, reason="version"), Wire.to(system.room) as wire:
        wire.write(mqtt5.ConnectPacket("abcd").write().replace(b"MQTT\x05", b"MQTT\x06"))
        answer = await wire.packet()
        assert isinstance(answer, mqtt5.ConnAckPacket)
        assert answer.reason_code == 0x84


async def test_given_half_a_connect_packet_then_the_room_closes_after_its_deadline(system: Stand, bystander: Device) -> None:
    closed = "longwire_gateway_closed_total"
    async with harmless(system, bystander, ROOM, closed, reason="connect_timeout"), Wire.to(system.room) as wire:
        wire.write(mqtt5.ConnectPacket("abcd").write()[:10])
        assert await wire.ended() == b""
