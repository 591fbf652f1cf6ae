"""What strangers and broken programs send: each is refused in the protocol's terms and counted, and nobody else notices."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import mqtt5
import pytest
import pytest_asyncio
from aiokafka import AIOKafkaProducer
from system import PRODUCT, Device, Stand, Wire, claims, dead_letter, harmless, signed, unique, unsigned

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

CONNECT_31: Final = b"\x10\x10\x00\x04MQTT\x03\x02\x00\x3c\x00\x04abcd"
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
async def test_given_no_connect_packet_then_the_room_closes_without_a_word(system: Stand, bystander: Device, data: bytes) -> None:
    async with harmless(system, bystander, ROOM, REFUSED, reason="malformed"), Wire.to(system.room) as wire:
        wire.write(data)
        assert await wire.ended() == b""


async def test_given_mqtt_31_then_it_is_refused_in_its_own_form(system: Stand, bystander: Device) -> None:
    async with harmless(system, bystander, ROOM, REFUSED, reason="version"), Wire.to(system.room) as wire:
        wire.write(CONNECT_31)
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


# --- CONNECT that is refused --------------------------------------------------------------------------------------------

BAD_CLAIMS: Final[dict[str, tuple[dict[str, Any], int, str]]] = {
    "expired": ({"exp": int(time.time()) - 1}, 0x86, "expired"),
    "no expiry": ({"exp": None}, 0x86, "exp"),
    "another audience": ({"aud": "another"}, 0x86, "aud"),
    "another client's": ({"sub": "somebody-else"}, 0x86, "sub"),
    "an unknown issuer": ({"iss": "nobody"}, 0x86, "issuer"),
    "issued tomorrow": ({"iat": int(time.time()) + 86_400}, 0x86, "iat"),
    "no products": ({"products": {}}, 0x87, "products"),
    "a product with a bad name": ({"products": {"a*b": {}}}, 0x87, "products"),
}


async def refused(system: Stand, bystander: Device, connect: mqtt5.ConnectPacket, *, code: int, kind: str) -> None:
    """The CONNECT gets CONNACK `code` with a reason that does not hold the token, then the room closes."""
    async with harmless(system, bystander, ROOM, REFUSED, reason=kind), Wire.to(system.room) as wire:
        answer = await wire.connect(connect)
        assert answer.reason_code == code
        assert answer.reason_str
        assert not connect.password or connect.password.decode() not in answer.reason_str
        assert await wire.ended() == b""


@pytest.mark.parametrize(("changed", "code", "kind"), BAD_CLAIMS.values(), ids=BAD_CLAIMS.keys())
async def test_given_a_token_that_does_not_fit_then_connack_says_why(
    system: Stand, bystander: Device, changed: dict[str, Any], code: int, kind: str
) -> None:
    client = unique("bad")
    token = signed(system, claims(client, **changed))
    await refused(system, bystander, mqtt5.ConnectPacket(client, password=token), code=code, kind=kind)


async def test_given_a_token_signed_by_a_stranger_then_0x86(system: Stand, bystander: Device) -> None:
    client = unique("bad")
    token = signed(system, claims(client), secret="s" * 43)
    await refused(system, bystander, mqtt5.ConnectPacket(client, password=token), code=0x86, kind="signature")


async def test_given_claims_changed_after_signing_then_0x86(system: Stand, bystander: Device) -> None:
    client = unique("bad")
    header, _, signature = signed(system, claims("somebody-else")).split(b".")
    _, body, _ = unsigned(claims(client)).split(b".")
    token = b".".join((header, body, signature))
    await refused(system, bystander, mqtt5.ConnectPacket(client, password=token), code=0x86, kind="signature")


async def test_given_alg_none_then_0x86(system: Stand, bystander: Device) -> None:
    client = unique("bad")
    await refused(system, bystander, mqtt5.ConnectPacket(client, password=unsigned(claims(client))), code=0x86, kind="alg")


@pytest.mark.parametrize("password", [None, b"secret", b"a.b.c", b"\xff.\xff.\xff"], ids=["none", "a word", "dots", "bytes"])
async def test_given_a_password_that_is_no_token_then_0x86(system: Stand, bystander: Device, password: bytes | None) -> None:
    async with harmless(system, bystander, ROOM, REFUSED, reason="form"), Wire.to(system.room) as wire:
        answer = await wire.connect(mqtt5.ConnectPacket(unique("bad"), password=password))
        assert answer.reason_code == 0x86
        assert answer.reason_str


@pytest.mark.parametrize("client", ["", "a b", "a*", "a>b", "}{", "a\r\nb", "x" * 129, "Gerät"])
async def test_given_a_client_id_with_a_forbidden_form_then_0x85(system: Stand, bystander: Device, client: str) -> None:
    token = signed(system, claims(client))
    await refused(system, bystander, mqtt5.ConnectPacket(client, password=token), code=0x85, kind="client_id")


async def test_given_a_will_then_0x90(system: Stand, bystander: Device) -> None:
    client = unique("bad")
    token = signed(system, claims(client))
    connect = mqtt5.ConnectPacket(client, password=token, will=mqtt5.Will("up/demo/will", payload=b"gone"))
    await refused(system, bystander, connect, code=0x90, kind="will")


async def test_given_an_authentication_method_then_0x8c(system: Stand, bystander: Device) -> None:
    client = unique("bad")
    token = signed(system, claims(client))
    connect = mqtt5.ConnectPacket(client, password=token, authentication_method="SCRAM-SHA-256")
    await refused(system, bystander, connect, code=0x8C, kind="auth_method")


# --- SUBSCRIBE ----------------------------------------------------------------------------------------------------------

FILTERS: Final[dict[str, tuple[str, int, str]]] = {
    "a product that the token does not name": ("push/other", 0x87, "the token does not name product other"),
    "a product that nobody configured": ("push/ghost", 0x8F, "product ghost is not configured here"),
    "a group without its bind": ("push/demo/blue", 0x87, "bind push/demo first"),
    "another topic": ("news/today", 0x8F, "is not push/<product>"),
    "somebody's uplinks": ("up/demo/echo", 0x8F, "is not push/<product>"),
    "a name with a subject's star": ("push/de*mo", 0x8F, "does not fit"),
}


@pytest.mark.parametrize(("pattern", "code", "text"), FILTERS.values(), ids=FILTERS.keys())
async def test_given_a_filter_that_is_not_allowed_then_suback_says_why_and_the_connection_goes_on(
    system: Stand, bystander: Device, pattern: str, code: int, text: str
) -> None:
    async with harmless(system, bystander, ROOM, "longwire_gateway_binds_refused_total", code=f"0x{code:02x}"):
        grants = {PRODUCT: {"groups": ["*"]}, "ghost": {}}
        async with connected(system, products=grants) as wire:
            answer = await wire.subscribe(pattern)
            assert answer.reason_codes == [code]
            assert text in (answer.reason_str or "")
            assert (await wire.subscribe("push/demo")).reason_codes == [1]


async def test_given_a_group_that_the_token_does_not_allow_then_only_the_bind_is_granted(
    system: Stand, bystander: Device
) -> None:
    async with (
        harmless(system, bystander, ROOM, "longwire_gateway_binds_refused_total", code="0x87"),
        connected(system, products={PRODUCT: {"groups": ["red"]}}) as wire,
    ):
        answer = await wire.subscribe("push/demo", "push/demo/blue", "push/demo/red")
        assert answer.reason_codes == [1, 0x87, 1]
        assert "group blue" in (answer.reason_str or "")


# --- PUBLISH, PUBACK and what breaks the protocol -----------------------------------------------------------------------

UPLINKS: Final[dict[str, tuple[dict[str, Any], int, str]]] = {
    "the downlink's topic": ({"topic": "push/demo"}, 0x90, "is not up/<product>/<type>"),
    "another topic": ({"topic": "news"}, 0x90, "is not up/<product>/<type>"),
    "a type with a subject's wildcard": ({"topic": "up/demo/>"}, 0x90, "does not fit"),
    "another product": ({"topic": "up/other/echo"}, 0x87, "does not name product other"),
    "a Response Topic that is not bound": ({"response_topic": "push/demo"}, 0x87, "Response Topic"),
    "somebody else's Response Topic": ({"response_topic": "push/other"}, 0x87, "Response Topic"),
    "a payload over the product's limit": ({"payload": bytes(16 * 1024 + 1)}, 0x97, "more than 16384"),
    "17 user properties": ({"user_properties": [(str(i), "") for i in range(17)]}, 0x97, "user properties"),
    "1,025 bytes of Correlation Data": ({"correlation_data": bytes(1025)}, 0x97, "Correlation Data"),
}


def uplink(*, topic: str = "up/demo/note", payload: bytes = b"x", packet_id: int = 7, **more: Any) -> bytes:
    """A PUBLISH at QoS 1."""
    qos = more.pop("qos", AT_LEAST_ONCE)
    return mqtt5.PublishPacket(topic, payload, qos=qos, packet_id=packet_id, **more).write()


@pytest.mark.parametrize(("changed", "code", "text"), UPLINKS.values(), ids=UPLINKS.keys())
async def test_given_an_uplink_that_is_not_allowed_then_puback_says_why_and_the_connection_goes_on(
    system: Stand, bystander: Device, changed: dict[str, Any], code: int, text: str
) -> None:
    async with (
        harmless(system, bystander, ROOM, "longwire_gateway_uplinks_total", outcome="refused_here"),
        connected(system) as wire,
    ):
        wire.write(uplink(**changed))
        answer = await wire.packet()
        assert isinstance(answer, mqtt5.PubAckPacket)
        assert (answer.packet_id, answer.reason_code) == (7, code)
        assert text in (answer.reason_str or "")
        await answers_ping(wire)


VIOLATIONS: Final[dict[str, tuple[bytes, int]]] = {
    "a PUBLISH without a topic length": (b"\x32\x01\x00", 0x81),
    "a topic that is not UTF-8": (uplink(topic="up/demo/abcd").replace(b"abcd", b"ab\xc3\x28"), 0x81),
    "QoS 3": (b"\x36" + uplink()[1:], 0x81),
    "a reserved packet type": (b"\x00\x00", 0x81),
    "an announced length of 256 MiB": (b"\x32\xff\xff\xff\x7f", 0x95),
    "QoS 2": (uplink(qos=mqtt5.QoS.EXACTLY_ONCE), 0x9B),
    "retain": (uplink(retain=True), 0x9A),
    "packet id 0": (uplink(packet_id=0), 0x82),
    "a topic alias": (uplink(topic_alias=1), 0x94),
    "a second CONNECT": (mqtt5.ConnectPacket("again").write(), 0x82),
    "AUTH": (mqtt5.AuthPacket().write(), 0x82),
    "PUBREL": (mqtt5.PubRelPacket(1).write(), 0x82),
    "a server's packet": (mqtt5.PingRespPacket().write(), 0x82),
    "all products": (mqtt5.SubscribePacket(1, [mqtt5.TopicFilter("push/+")]).write(), 0xA2),
    "everything": (mqtt5.SubscribePacket(1, [mqtt5.TopicFilter("#")]).write(), 0xA2),
    "a shared subscription": (mqtt5.SubscribePacket(1, [mqtt5.TopicFilter("$share/all/push/demo")]).write(), 0x9E),
    "no filter": (b"\x82\x03\x00\x01\x00", 0x82),
    "a topic with NUL": (uplink(topic="up/demo/a\0"), 0x81),
    "a subscription id": (mqtt5.SubscribePacket(1, [mqtt5.TopicFilter("push/demo")], subscription_id=1).write(), 0xA1),
}


@pytest.mark.parametrize(("data", "code"), VIOLATIONS.values(), ids=VIOLATIONS.keys())
async def test_given_a_violation_then_disconnect_with_its_code_and_the_end(
    system: Stand, bystander: Device, data: bytes, code: int
) -> None:
    async with (
        harmless(system, bystander, ROOM, "longwire_gateway_closed_total", reason="protocol_error"),
        connected(system) as wire,
    ):
        wire.write(data)
        said = await wire.ended()
        assert (said[0], said[2]) == (0xE0, code), said


@pytest.mark.parametrize(
    ("packet_id", "counter"),
    [(77, "longwire_gateway_unknown_acks_total"), (0x8005, "longwire_fanout_unknown_acks_total")],
    ids=["unicast", "broadcast"],
)
async def test_given_pubacks_of_packets_that_never_were_then_nothing_is_settled_by_them(
    system: Stand, bystander: Device, packet_id: int, counter: str
) -> None:
    client = unique("acker")
    async with harmless(system, bystander, ROOM, counter), Wire.to(system.room) as wire:
        await wire.connect(mqtt5.ConnectPacket(client, password=signed(system, claims(client)), clean_start=True))
        await wire.subscribe("push/demo")
        wire.write(mqtt5.PubAckPacket(packet_id).write() * 3)
        await answers_ping(wire)
        message = await system.send(client, "for the acker")
        packet = await wire.packet()
        assert isinstance(packet, mqtt5.PublishPacket)
        assert packet.user_properties == [("id", message)]
        assert await system.pending(client) == 1
        wire.write(mqtt5.PubAckPacket(packet.packet_id or 0).write() * 2)
        await system.settled(client, message)
        await answers_ping(wire)


# --- records in Kafka that are none -------------------------------------------------------------------------------------


def record(**fields: Any) -> bytes:
    """A message as center would write it."""
    return codec.encode(PushMessage(**{"id": unique("m"), "product": PRODUCT, "client": "nobody", **fields}))


POISON: Final[dict[str, tuple[bytes | None, str]]] = {
    "no Avro": (b"hello", "no single-object header of a known schema"),
    "nothing": (b"", "no single-object header of a known schema"),
    "a tombstone": (None, "a tombstone is no message"),
    "a record that is cut": (record(payload=b"x" * 64)[:40], "not a PushMessage"),
    "a record with more behind it": (record() + b"more", "4 bytes follow the PushMessage"),
    "another record": (codec.encode(DeadLetter(topic="t", partition=0, offset=0, reason="", at_ms=0, key=None, value=None)),
                       "a DeadLetter where a PushMessage belongs"),
    "a length bomb": (record()[:10] + b"\xfe\xff\xff\xff\x0f", "not a PushMessage"),
    "a client and a user": (record(user="u"), "exactly one of client and user"),
    "QoS 2": (record(qos=2), "qos 2 is not 0 or 1"),
    "a client id with a brace": (record(client="a}{b"), "client"),
    "a product that nobody configured": (record(product="ghost"), "unknown product ghost"),
    "a payload over the product's limit": (record(payload=bytes(16 * 1024 + 1)), "the product allows 16384"),
    "a user without clients": (record(client=None, user="nobody"), "user nobody has no clients"),
}  # fmt: skip


@pytest_asyncio.fixture(scope="module")
async def producer(system: Stand) -> AsyncIterator[AIOKafkaProducer]:
    """Any program with access to Kafka."""
    found = AIOKafkaProducer(bootstrap_servers=system.address.kafka, acks="all")
    await found.start()
    yield found
    await found.stop()


@pytest.mark.parametrize(("value", "reason"), POISON.values(), ids=POISON.keys())
async def test_given_a_record_that_is_no_message_then_it_is_a_dead_letter_and_the_next_one_is_delivered(
    system: Stand, bystander: Device, producer: AIOKafkaProducer, value: bytes | None, reason: str
) -> None:
    key = bystander.client.encode()  # the partition of what `harmless` sends to the bystander next
    async with harmless(system, bystander, "delivery", "longwire_runner_dead_total", topic=names.MESSAGES):
        written = await producer.send_and_wait(names.MESSAGES, value, key=key)
        letter = await dead_letter(system, (names.MESSAGES, written.partition, written.offset))
    assert reason in letter.reason
    assert (letter.key, letter.value) == (key, value)


async def test_given_a_record_that_is_no_broadcast_then_it_is_a_dead_letter_and_the_next_broadcast_runs(
    system: Stand, bystander: Device, producer: AIOKafkaProducer
) -> None:
    async with harmless(system, bystander, "broadcast", "longwire_runner_dead_total", topic=names.BROADCASTS):
        written = await producer.send_and_wait(names.BROADCASTS, record(), key=PRODUCT.encode())
        letter = await dead_letter(system, (names.BROADCASTS, written.partition, written.offset))
    assert "a PushMessage where a Broadcast belongs" in letter.reason
    await bystander.receives(await system.broadcast("still here?"))


# --- HTTP ---------------------------------------------------------------------------------------------------------------

GOOD: Final = {"product": PRODUCT, "client": "nobody", "payload": "x"}
REQUESTS: Final[dict[str, tuple[dict[str, Any], int, str, str]]] = {
    "no JSON": ({"content": b"{"}, 400, "bad-input", "JSON"),
    "a list": ({"json": [GOOD]}, 400, "bad-input", "body"),
    "an unknown field": ({"json": {**GOOD, "prioritty": "high"}}, 400, "bad-input", "prioritty"),
    "no recipient": ({"json": {"product": PRODUCT, "payload": "x"}}, 400, "bad-input", "exactly one of client and user"),
    "two recipients": ({"json": {**GOOD, "user": "u"}}, 400, "bad-input", "exactly one of client and user"),
    "a bad client name": ({"json": {**GOOD, "client": "a b"}}, 400, "bad-input", "client"),
    "a client name that breaks lines": ({"json": {**GOOD, "client": "a\r\nb"}}, 400, "bad-input", "client"),
    "QoS 2": ({"json": {**GOOD, "qos": 2}}, 400, "bad-input", "qos"),
    "a TTL of no time": ({"json": {**GOOD, "ttl": 0}}, 400, "bad-input", "ttl"),
    "a lone surrogate": ({"content": json.dumps({**GOOD, "payload": "\ud800"}).encode()}, 400, "bad-input", "payload"),
    "no base64": ({"json": {"product": PRODUCT, "client": "c", "payload_base64": "?"}}, 400, "bad-input", "payload_base64"),
    "an unknown product": ({"json": {**GOOD, "product": "ghost"}}, 404, "unknown-product", "product ghost"),
    "a payload over the product's limit": ({"json": {**GOOD, "payload": "x" * 16_385}}, 413, "too-large", "16384"),
    "a body over the gate's limit": ({"content": b" " * 262_145}, 413, "too-large", "262144"),
    "no key": ({"json": GOOD, "headers": {"Authorization": ""}}, 401, "unauthorized", "API key"),
    "a wrong key": ({"json": GOOD, "headers": {"Authorization": "Bearer lw_guess"}}, 401, "unauthorized", "API key"),
}


@pytest.mark.parametrize(("request_", "status", "kind", "text"), REQUESTS.values(), ids=REQUESTS.keys())
async def test_given_a_request_that_does_not_fit_then_it_is_answered_as_a_problem(
    system: Stand, bystander: Device, *, request_: dict[str, Any], status: int, kind: str, text: str
) -> None:
    headers = {"Authorization": f"Bearer {system.address.api_key}", "Content-Type": "application/json"}
    headers |= request_.get("headers", {})
    async with harmless(system, bystander, "center", "longwire_center_requests_total", status=str(status)):
        answer = await system.http.post("/v1/messages", **{**request_, "headers": headers})
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert (problem["type"], problem["status"]) == (f"urn:longwire:problem:{kind}", status)
    assert text in problem["detail"]
    assert "\n" not in problem["detail"]
