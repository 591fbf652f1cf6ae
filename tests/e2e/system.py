"""A running system as the end-to-end tests see it: from outside, by HTTP, Kafka, sockets and `/metrics`."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import httpx
import mqtt5
import pytest
from aiokafka import AIOKafkaConsumer
from joserfc import jwt
from joserfc.jwk import OctKey
from prometheus_client.parser import text_string_to_metric_families

from infra.bus import Bus
from infra.demo.records import Reader
from infra.ops.http import CenterClient, NotFound
from infra.ops.tokens import make_token
from infra.settings import NatsSettings
from infra.system import RoomAddress, System
from pushclient import PushClient, PushMessage
from schemas import codec, names
from schemas.records import DeadLetter, Receipt, Uplink

PRODUCT: Final = "demo"
WITHIN: Final = 20.0

mosquitto = pytest.mark.skipif(
    not all(shutil.which(name) for name in ("mosquitto_sub", "mosquitto_pub", "mosquitto_rr")),
    reason="mosquitto-clients is not installed",
)
POLL: Final = 0.05


def unique(kind: str) -> str:
    """A client id or a message id that no other test has."""
    return f"{kind}-{uuid4().hex[:12]}"


async def eventually(check: Callable[[], Awaitable[bool]], *, what: str, within: float = WITHIN) -> None:
    """Ask `check()` until it is true; an AssertionError names `what` did not come true."""
    deadline = time.monotonic() + within
    while not await check():
        assert time.monotonic() < deadline, f"not within {within:g} s: {what}"
        await asyncio.sleep(POLL)


class Stand:
    """The system, with a client for each of its sides."""

    def __init__(self, system: System, partitions: int) -> None:
        self.address = system
        self.partitions = partitions
        self.data = Path(system.data)
        self.center = CenterClient(system)
        self.http = httpx.AsyncClient(base_url=system.center, timeout=15, trust_env=False)
        self.bus = Bus(NatsSettings(url=system.nats), name="test-service", version="0.1.0")
        self.read = Reader(system.kafka, partitions)

    async def start(self) -> None:
        """Connect to what the tests look at."""
        await self.bus.start()
        await self.read.start()

    async def stop(self) -> None:
        """Give everything back."""
        await self.read.stop()
        await self.bus.stop()
        await self.http.aclose()
        await self.center.__aexit__(None, None, None)

    @property
    def room(self) -> RoomAddress:
        """The first room."""
        return self.address.rooms[0]

    def token(self, client: str, *, product: str = PRODUCT, user: str = "", groups: tuple[str, ...] = ()) -> str:
        """A good token."""
        return make_token(self.data, client=client, product=product, user=user, groups=groups)

    # --- sending -------------------------------------------------------------------------------------------------------

    async def send(self, client: str, payload: str, **more: object) -> str:
        """POST a message; returns its id."""
        body = {"product": PRODUCT, "client": client, "payload": payload, "ttl": 600, **more}
        return str((await self.center.post("/v1/messages", body))["id"])

    async def broadcast(self, payload: str) -> str:
        """POST a broadcast to everyone bound; returns its id."""
        body = {"product": PRODUCT, "payload": payload, "rate": 1000, "ttl": 60}
        return str((await self.center.post("/v1/broadcasts", body))["id"])

    # --- looking -------------------------------------------------------------------------------------------------------

    async def pending(self, client: str) -> int:
        """Messages stored for a client and not settled; 0 for a client that is not known."""
        try:
            found = await self.center.get(f"/v1/clients/{client}")
        except NotFound:
            return 0
        return int(found["pending"].get(PRODUCT, 0))

    def receipts(self, client: str, message: str) -> list[Receipt]:
        """How (message, client) was settled, as `push.receipts` has it until now."""
        return [item for item in self.read.receipts if (item.client, item.id) == (client, message)]

    async def uplink(self, uplink: str) -> Uplink:
        """The record of an uplink in `push.uplink`, which must be there once."""

        async def here() -> bool:
            return any(item.id == uplink for item in self.read.uplinks)

        await eventually(here, what=f"{uplink} in push.uplink")
        [found] = [item for item in self.read.uplinks if item.id == uplink]
        return found

    async def uplink_of(self, client: str) -> Uplink:
        """The record of a client's only uplink."""

        async def here() -> bool:
            return any(item.client == client for item in self.read.uplinks)

        await eventually(here, what=f"an uplink of {client} in push.uplink")
        [found] = [item for item in self.read.uplinks if item.client == client]
        return found

    async def bound(self, client: str) -> None:
        """Wait until the client has a bind to the product."""

        async def here() -> bool:
            try:
                return PRODUCT in (await self.center.get(f"/v1/clients/{client}"))["binds"]
            except NotFound:
                return False

        await eventually(here, what=f"a bind of {client}")

    async def settled(self, client: str, *messages: str, state: str = "acked") -> None:
        """Wait until each message has exactly one receipt, of this state, and nothing is pending."""

        async def all_settled() -> bool:
            return all(self.receipts(client, message) for message in messages) and await self.pending(client) == 0

        await eventually(all_settled, what=f"{len(messages)} messages of {client} {state}, none pending")
        for message in messages:
            assert [str(item.state) for item in self.receipts(client, message)] == [state]

    async def metric(self, process: str, name: str, **labels: str) -> float:
        """A counter of a process by its internal listener; 0 if it was never counted."""
        report: dict[str, Any] = json.loads((self.data / "run" / f"{process}.json").read_text())
        page = (await self.http.get(f"{report['internal']}/metrics")).text
        samples = [sample for family in text_string_to_metric_families(page) for sample in family.samples]
        return sum(item.value for item in samples if item.name == name and labels.items() <= item.labels.items())

    @asynccontextmanager
    async def counted(self, process: str, name: str, **labels: str) -> AsyncIterator[None]:
        """What happens inside must make this counter rise."""
        before = await self.metric(process, name, **labels)
        yield

        async def rose() -> bool:
            return await self.metric(process, name, **labels) > before

        await eventually(rose, what=f"{name}{labels} of {process} over {before:g}")


class Device:
    """A `pushclient` device in one room, that writes down what it gets."""

    def __init__(self, stand: Stand, client: str, *, room: RoomAddress | None = None, user: str = "") -> None:
        address = room or stand.room
        self.client = client
        self.got: list[PushMessage] = []
        self.push = PushClient(
            client_id=client,
            token=stand.token(client, user=user),
            servers=[(address.host, address.port)],
            on_message=self.got.append,
        )

    async def __aenter__(self) -> Device:
        async with asyncio.timeout(WITHIN):
            await self.push.start()
            await self.push.bind(PRODUCT)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.push.close()

    def count(self, message: str) -> int:
        """How often a message came to the application."""
        return sum(item.id == message for item in self.got)

    async def receives(self, message: str) -> None:
        """Wait for a message."""

        async def here() -> bool:
            return self.count(message) > 0

        await eventually(here, what=f"{message} at {self.client}")


@asynccontextmanager
async def harmless(system: Stand, bystander: Device, process: str, counter: str, **labels: str) -> AsyncIterator[None]:
    """What happens inside is counted by `process`, and the bystander is served as before, on the same connection."""
    async with system.counted(process, counter, **labels):
        yield
    await bystander.receives(await system.send(bystander.client, "still here?"))
    assert bystander.push.stats.connects == 1


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


async def dead_letter(system: Stand, source: tuple[str, int, int]) -> DeadLetter:
    """The dead letter of the record at (topic, partition, offset)."""
    consumer = AIOKafkaConsumer(
        names.DEAD, bootstrap_servers=system.address.kafka, enable_auto_commit=False, auto_offset_reset="earliest"
    )
    await consumer.start()
    try:
        async with asyncio.timeout(20):
            async for item in consumer:
                letter = codec.decode_as(DeadLetter, item.value)
                if (letter.topic, letter.partition, letter.offset) == source:
                    return letter
    finally:
        await consumer.stop()
    raise AssertionError("the consumer ended")


class Wire:
    """A raw socket to a room: any bytes go out, what comes back is read by the codec."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._held = b""

    @classmethod
    @asynccontextmanager
    async def to(cls, room: RoomAddress) -> AsyncIterator[Wire]:
        """A connection, before CONNECT."""
        reader, writer = await asyncio.open_connection(room.host, room.port)
        try:
            yield cls(reader, writer)
        finally:
            writer.transport.abort()

    def write(self, data: bytes) -> None:
        """Send bytes."""
        self._writer.write(data)

    async def packet(self) -> mqtt5.Packet:
        """The next packet; an AssertionError if the room closes instead."""
        async with asyncio.timeout(WITHIN):
            while not (found := self._whole()):
                more = await self._reader.read(4096)
                assert more, "the room closed the connection without a word"
                self._held += more
        return found

    async def ended(self) -> bytes:
        """Wait until the room closes; returns what it still said."""
        async with asyncio.timeout(WITHIN):
            rest = await self._reader.read()
        said, self._held = self._held + rest, b""
        return said

    async def connect(self, packet: mqtt5.ConnectPacket) -> mqtt5.ConnAckPacket:
        """CONNECT and its answer."""
        self.write(packet.write())
        answer = await self.packet()
        assert isinstance(answer, mqtt5.ConnAckPacket)
        return answer

    async def subscribe(self, *patterns: str) -> mqtt5.SubAckPacket:
        """SUBSCRIBE at QoS 1 and its answer."""
        filters = [mqtt5.TopicFilter(pattern, max_qos=mqtt5.QoS.AT_LEAST_ONCE) for pattern in patterns]
        self.write(mqtt5.SubscribePacket(1, filters).write())
        answer = await self.packet()
        assert isinstance(answer, mqtt5.SubAckPacket)
        return answer

    def _whole(self) -> mqtt5.Packet | None:
        try:
            packet, size = mqtt5.read(memoryview(self._held))
        except IndexError:
            return None
        self._held = self._held[size:]
        return packet
