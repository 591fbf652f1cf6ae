"""The PUBLISH that a room writes (MQTT 5 §3.3), built byte by byte where it has no properties but its id and an expiry.

It is the one packet that is made for each message, and the codec's objects take longer than its bytes do (docs/adr/0029); they
are the same bytes (tests/property/test_publish_bytes.py). In Python more properties are dearer by hand: these the codec builds.
"""

from __future__ import annotations

import struct
from typing import Final

import mqtt5

from gateway.mqtt.fields import variable
from infra.wire import Properties

_QOS: Final = (mqtt5.QoS.AT_MOST_ONCE, mqtt5.QoS.AT_LEAST_ONCE)
_QOS_0: Final = 0x30
_QOS_1: Final = 0x32

_ID: Final = b"\x26\x00\x02id"
"""A user property with this name (§3.3.2.3.7), but for its value."""
_EXPIRY: Final = 0x02
"""Message Expiry Interval (§3.3.2.3.3)."""
_LONGEST: Final = 0xFFFFFFFF
"""Seconds that it holds."""
_SHORT_ID: Final = 115
"""Bytes of an id that leave the length of the properties one byte, with an expiry, too."""
_HEADS: Final = tuple(bytes((len(_ID) + 2 + size,)) + _ID + bytes((0, size)) for size in range(_SHORT_ID + 1))
"""What stands before such an id where it is the only property, by its size."""
_EXPIRING: Final = struct.Struct(">BBI5sH")
"""The same behind an expiry."""
_EXPIRING_SIZE: Final = 12

_ONE_BYTE: Final = 1 << 7
_TWO_BYTES: Final = 1 << 14
"""Remaining lengths (§2.1.4) from where and to where two bytes tell them: most."""
_LARGEST: Final = (1 << 28) - 1


def topic_field(topic: str) -> bytes:
    """A topic as `publish` wants it, for many of them. What is none, the codec says (§4.7): raises ValueError."""
    mqtt5.PublishPacket(topic, b"", qos=mqtt5.QoS.AT_MOST_ONCE).write()
    data = topic.encode()
    return len(data).to_bytes(2, "big") + data


def publish(
    topic: bytes,
    payload: bytes,
    *,
    id: str,  # noqa: A002 - the message's id
    qos: int,
    packet_id: int | None,
    expires_in_s: int = -1,
    content_type: str = "",
    correlation: bytes | None = None,
    properties: Properties | None = None,
) -> bytes:
    """PUBLISH with the user property `id` before the sender's own. `topic`: of `topic_field`; `qos`: 0 or 1; `packet_id`: for 1
    only; `expires_in_s` −1: none. Raises ValueError on what MQTT can't carry."""
    message_id = id.encode()
    size = len(message_id)
    if properties or content_type or correlation is not None or size > _SHORT_ID or expires_in_s > _LONGEST:
        return _by_the_codec(topic, payload, id, qos, packet_id, expires_in_s, content_type, correlation, properties)
    expires = expires_in_s >= 0
    before = _EXPIRING.pack(_EXPIRING_SIZE + size, _EXPIRY, expires_in_s, _ID, size) if expires else _HEADS[size]
    if not qos:
        first, number = _QOS_0, b""
    elif packet_id is None:
        raise ValueError("Packet ID must be set for QoS=1")
    else:
        first, number = _QOS_1, packet_id.to_bytes(2, "big")
    left = len(topic) + len(number) + len(before) + size + len(payload)
    if _ONE_BYTE <= left < _TWO_BYTES:
        header = (first << 16 | (left & 0x7F | 0x80) << 8 | left >> 7).to_bytes(3, "big")
    elif left <= _LARGEST:
        header = bytes((first,)) + variable(left)
    else:
        raise ValueError("a packet must be < 268435456 bytes")
    return b"".join((header, topic, number, before, message_id, payload))


def _by_the_codec(  # noqa: PLR0917 - `publish`'s own
    topic: bytes,
    payload: bytes,
    message_id: str,
    qos: int,
    packet_id: int | None,
    expires_in_s: int,
    content_type: str,
    correlation: bytes | None,
    properties: Properties | None,
) -> bytes:
    try:
        return mqtt5.PublishPacket(
            topic[2:].decode(),
            payload,
            qos=_QOS[qos],
            packet_id=packet_id if qos else None,
            message_expiry_interval=None if expires_in_s < 0 else expires_in_s,
            content_type=content_type or None,
            correlation_data=correlation,
            user_properties=[("id", message_id), *(properties or ())],
        ).write()
    except OverflowError as error:
        raise ValueError(f"a number of a PUBLISH is out of range: {error}") from None
