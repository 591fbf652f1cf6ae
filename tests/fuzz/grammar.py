"""Any bytes as what a client may do: valid packets in any order, what is left of them after damage, raw bytes, and events.

Four bytes are a gene: what, and three arguments. So a small change of the input is a small change of what happens, whoever makes
it: a coverage-guided fuzzer, or Hypothesis.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

import mqtt5

from tests.unit import mqtt311_device as old
from tests.unit.gateway_world import SECRET, WALL, claims, sign

MAX_GENES: Final = 96
MAX_BYTES: Final = 96 * 1024
"""Of all that the client says."""

CLIENTS: Final = ("c1", "c1", "c2", "")
TOKENS: Final = (
    *(sign(claims(client)) for client in ("c1", "c2")),
    sign(claims("c1", jti="t2", exp=int(WALL) + 60, products={"demo": {}})),
    sign(claims("c1", exp=int(WALL) - 60)),
    sign(claims("c1"), secret=SECRET[::-1]),
    b"not a token",
    b"",
)
TOPICS: Final = (
    "push/demo", "push/demo", "push/demo/news", "push/chat", "push/chat/x", "push/other", "push/demo/secret", "push/+", "#",
    "$share/a/push/demo", "push/demo/" + "g" * 200, "push//", "up/demo/pos", "",
)  # fmt: skip
PUBLISHED: Final = (
    "up/demo/pos", "up/demo/pos", "up/chat/x", "pull/demo", "pull/chat", "up/other/pos", "up/demo", "push/demo",
    "pull/", "up/demo/\0",
)  # fmt: skip
SIZES: Final = (None, None, None, None, 1, 2, 4, 5, 20, 40, 60, 64, 70, 80, 100, 127, 128, 200, 1000, 1 << 28)
PROPERTIES: Final = (
    None, [("id", "m1")], [("id", "m2"), ("id", "m1")], [("k", "v" * 300)], [("k", "\0")], [("k", "v")] * 17,
    [("network", "cell")],
)  # fmt: skip
FOREIGN: Final = (
    b"\x00\x00", b"\x20\x03\x00\x00\x00", b"\x50\x02\x00\x01", b"\x62\x02\x00\x01", b"\x70\x02\x00\x01", b"\xd0\x00",
    b"\x90\x04\x00\x01\x00\x00",
    b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00", b"\x10\xff\xff\xff\x7f", b"\x32\xff\xff\xff\xff",
    b"\x82\x80\x80\x04", b"\xf0\x00",
)  # fmt: skip


class Event(NamedTuple):
    """Something that happens beside what the client says."""

    name: str
    value: int = 0


EVENTS: Final = (
    "another connection", "the client shuts its side", "the client is gone", "the saver is slow", "the saver answers",
    "uplinks are slow",
    "uplinks are answered", "flush", "a tenth of a second", "seconds", "a message", "a message only for pull",
    "resync", "a missing register",
    "overloaded", "relieved", "the client listens no more", "the client listens", "the client waits",
)  # fmt: skip

Step = bytes | Event


def _connect(a: int, b: int, c: int) -> bytes:
    client = CLIENTS[a & 3]
    token = TOKENS[a >> 2 & 7] if a >> 2 & 7 in (2, 3, 4, 5, 6) else TOKENS[client == "c2"]
    will = mqtt5.Will(topic="up/demo/pos", payload=b"w") if c & 0xC0 == 0xC0 else None
    return mqtt5.ConnectPacket(
        client,
        password=token,
        clean_start=bool(b & 1),
        session_expiry_interval=(0, 0, 30, 1 << 31)[b >> 1 & 3],
        receive_max=(65535, 1, 2, 16)[b >> 3 & 3],
        authentication_method=(None, None, "jwt", "SCRAM")[b >> 5 & 3],
        keep_alive=(0, 5)[b >> 7],
        max_packet_size=SIZES[(c & 0x3F) % len(SIZES)],
        user_properties=PROPERTIES[6 if a & 0x60 == 0x60 else 0],
        will=will,
    ).write()


def _old_connect(a: int, b: int, c: int) -> bytes:
    """Of MQTT 3.1.1: what follows on this connection is read in its form."""
    client, flags = CLIENTS[a & 3], 0xC0 | (b & 3 if c & 0xE0 == 0xE0 else b & 2)
    return old.connect(client, TOKENS[client == "c2"], keep_alive=(0, 5)[b >> 7], flags=flags)


def _old(a: int, b: int, c: int) -> bytes:
    """A packet that MQTT 3.1.1 has otherwise than MQTT 5."""
    topic = TOPICS[a % len(TOPICS)]
    if b & 3 == 0:
        return old.subscribe(topic, qos=b >> 4 & 3, packet_id=c)
    if b & 3 == 1:
        return old.unsubscribe(topic, packet_id=c)
    return old.publish(PUBLISHED[a % len(PUBLISHED)], b"x" * (b >> 2), packet_id=c & 0x1F)


def _subscribe(a: int, b: int, c: int) -> bytes:
    count = (1, 1, 2, 3, 8, 70, 255, 257)[b & 7]
    filters = [mqtt5.TopicFilter(TOPICS[(a + i) % len(TOPICS)], max_qos=mqtt5.QoS(b >> 3 & 1)) for i in range(count)]
    return mqtt5.SubscribePacket(c, filters, subscription_id=7 if b & 0xC0 == 0xC0 else None).write()


def _connect_and_subscribe(a: int, b: int, c: int) -> bytes:
    """In one step: what is not damaged, and has nothing behind it, is one request of the room (ADR 31)."""
    return _connect(a, b, c & 0x3F if c & 0x40 else 0) + _subscribe(c >> 2, b & 0x18 | c & 3, c or 1)


def _unsubscribe(a: int, b: int, c: int) -> bytes:
    count = (1, 1, 2, 3, 8, 70, 255, 257)[b & 7]
    return mqtt5.UnsubscribePacket(c, [TOPICS[(a + i) % len(TOPICS)] for i in range(count)]).write()


def _publish(a: int, b: int, c: int) -> bytes:
    qos = (1, 0, 1, 2)[b & 3]
    more = b >> 5
    return mqtt5.PublishPacket(
        PUBLISHED[a % len(PUBLISHED)],
        b"x" * (0, 5, 100, 101, 1000, 5000, 20_000, 60_000)[b >> 2 & 7],
        qos=mqtt5.QoS(qos),
        packet_id=(c & 0x1F) if qos else None,
        retain=more == 7,
        topic_alias=1 if more == 6 else None,
        response_topic=TOPICS[a % 7] if more in (4, 5) else None,
        correlation_data=b"c" * (1 if more == 5 else 1100) if more in (3, 5) else None,
        content_type="t" * (10 if more == 2 else 200) if more in (1, 2) else None,
        user_properties=PROPERTIES[(c >> 5) % len(PROPERTIES)],
    ).write()


def _puback(a: int, b: int, c: int) -> bytes:
    packet_id = (c, a << 8 | c)[b & 1]
    return mqtt5.PubAckPacket(
        packet_id, reason_code=mqtt5.PubAckReasonCode((0, 0, 0, 0x10, 0x80, 0x83, 0x97, 0x99)[b >> 1 & 7])
    ).write()


def _auth(a: int, b: int, c: int) -> bytes:
    return mqtt5.AuthPacket(
        reason_code=mqtt5.AuthReasonCode((0x19, 0x19, 0x18, 0)[b & 3]),
        authentication_method=("jwt", "jwt", None, "SCRAM")[c & 3],
        authentication_data=TOKENS[a % len(TOKENS)] if c & 4 == 0 else None,
    ).write()


def _disconnect(a: int, b: int, c: int) -> bytes:
    return mqtt5.DisconnectPacket(session_expiry_interval=(None, 0, 30)[a % 3]).write()


def _ping(a: int, b: int, c: int) -> bytes:
    return mqtt5.PingReqPacket().write()


def _foreign(a: int, b: int, c: int) -> bytes:
    return FOREIGN[a % len(FOREIGN)]


def _raw(a: int, b: int, c: int) -> bytes:
    return bytes((a, b, c))


BUILDERS: Final[tuple[Callable[[int, int, int], bytes], ...]] = (
    _connect, _connect_and_subscribe, _subscribe, _subscribe, _unsubscribe, _publish, _publish, _puback, _puback, _auth,
    _disconnect, _ping, _foreign, _raw, _old_connect, _old, _old,
)  # fmt: skip


def _flip(said: bytes, a: int, b: int) -> bytes:
    changed = bytearray(said)
    changed[a % len(said)] ^= b or 1
    return bytes(changed)


def _damaged(said: bytes, a: int, b: int) -> bytes:
    """What the client said last, otherwise."""
    kind = a >> 5
    if kind < 2:
        return _flip(said, b, 1 << (a & 7))
    if kind == 2:
        return _flip(said, a & 0x1F, b)
    if kind == 3:
        return said[: b % len(said)]
    if kind == 4:
        return said[:1] + bytes((b,)) + said[2:]
    if kind == 5:
        at = b % len(said)
        return said[:at] + bytes((a & 0x1F,)) + said[at:]
    return (said * (1 + b % (80 if kind == 6 else 8)))[:MAX_BYTES]


def _genes(data: bytes) -> Iterator[bytes]:
    for at in range(4, min(len(data), 4 * MAX_GENES), 4):
        yield data[at : at + 4].ljust(4, b"\0")


def program(data: bytes) -> list[Step]:
    """What the client says and what happens, in order; two `bytes` never follow each other."""
    steps: list[Step] = []
    for op, a, b, c in _genes(data):
        if op < 160:
            steps.append(BUILDERS[op % len(BUILDERS)](a, b, c))
        elif op < 210:
            if steps and isinstance(steps[-1], bytes) and steps[-1]:
                steps[-1] = _damaged(steps[-1], a, b)
        else:
            steps.append(Event(EVENTS[a % len(EVENTS)], b))
    return list(_joined(steps))


def _joined(steps: list[Step]) -> Iterator[Step]:
    said, left = b"", MAX_BYTES
    for step in steps:
        if isinstance(step, bytes):
            said += step[:left]
            left -= len(step[:left])
            continue
        if said:
            yield said
        said = b""
        yield step
    if said:
        yield said


def sizes(data: bytes) -> tuple[int, ...]:
    """How the first gene cuts what is said."""
    a, b, c, d = data[:4].ljust(4, b"\0")
    return (1 + a % 7, 1 + b, 1 + c * 16, 1 + d % 3)
