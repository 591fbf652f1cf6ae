"""The bytes of every packet that a room writes, but for a PUBLISH (gateway/mqtt/publish.py).

A Reason String that would push a packet over the client's Maximum Packet Size is left out (MQTT 5 §3.2.2.3.9).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import mqtt5

from gateway.reasons import Reason

PINGRESP: Final = mqtt5.PingRespPacket().write()

RECEIVE_MAXIMUM: Final = 16
"""Uplinks at QoS 1 that a client may have unacknowledged."""

SUBACK_HEADER: Final = 6
"""Bytes of a SUBACK or UNSUBACK besides its codes, at most, without a text."""

_UNLIMITED: Final = 1 << 28
DUP: Final = 0x08
"""The DUP flag in the first byte of a PUBLISH (MQTT 5 §3.3.1.1)."""


def again(packet: bytes, passed_s: int = 0) -> bytes:
    """A PUBLISH of ours with DUP=1, `passed_s` seconds after it was built; empty where it has expired (MQTT 5 §3.3.2.3.3)."""
    if not passed_s:
        return bytes((packet[0] | DUP,)) + packet[1:]
    old, _ = mqtt5.read(memoryview(packet))
    assert isinstance(old, mqtt5.PublishPacket)
    left = old.message_expiry_interval
    if left is not None and left <= passed_s:
        return b""
    return mqtt5.PublishPacket(
        old.topic,
        old.payload,
        qos=old.qos,
        packet_id=old.packet_id,
        duplicate=True,
        message_expiry_interval=None if left is None else left - passed_s,
        content_type=old.content_type,
        correlation_data=old.correlation_data,
        user_properties=old.user_properties,
    ).write()


@lru_cache(maxsize=256)
def connack(
    *, keep_alive: int, max_packet: int, room: str, expiry: int = 0, present: bool = False, method: str | None = None
) -> bytes:
    """CONNACK for a client that is let in: all that is offered, and what is not. `expiry`: how long its session is kept, s;
    `method`: the Authentication Method that its CONNECT named (MQTT 5 §4.12). A room's clients mostly have the same one."""
    return mqtt5.ConnAckPacket(
        session_present=present,
        session_expiry_interval=expiry,
        server_keep_alive=keep_alive,
        receive_max=RECEIVE_MAXIMUM,
        max_qos=mqtt5.QoS.AT_LEAST_ONCE,
        retain_available=False,
        max_packet_size=max_packet,
        wildcard_subscription_available=False,
        subscription_id_available=False,
        shared_subscription_available=False,
        authentication_method=method,
        user_properties=[("room", room)],
    ).write()


def connack_size(room: str, method: str | None) -> int:
    """Bytes of a CONNACK that lets in, whatever else it says."""
    return len(connack(keep_alive=1, max_packet=1, room=room, expiry=1, method=method))


def connack_refused(code: Reason, text: str, *, retry_after: int = 0, max_packet: int | None = None) -> bytes:
    """CONNACK that says no; empty where even its shortest form is larger than the client takes. `retry_after`: seconds, as a user
    property, where the client may come again."""
    more = [("retry-after", str(retry_after))] if retry_after else None
    reason = mqtt5.ConnAckReasonCode(code)
    whole = mqtt5.ConnAckPacket(reason_code=reason, reason_str=text, user_properties=more).write()
    if len(whole) <= (max_packet or _UNLIMITED):
        return whole
    bare = mqtt5.ConnAckPacket(reason_code=reason).write()
    return bare if len(bare) <= (max_packet or _UNLIMITED) else b""


def disconnect(code: int, text: str = "", *, max_packet: int | None = None, server_reference: str = "") -> bytes:
    """DISCONNECT from the server's side. A code that MQTT does not know for DISCONNECT (§3.14.2.1) is said as 0x80."""
    try:
        reason = mqtt5.DisconnectReasonCode(code)
    except (ValueError, OverflowError):
        reason = mqtt5.DisconnectReasonCode.UNSPECIFIED_ERROR
    whole = mqtt5.DisconnectPacket(reason_code=reason, reason_str=text or None, server_reference=server_reference or None).write()
    if len(whole) <= (max_packet or _UNLIMITED):
        return whole
    return mqtt5.DisconnectPacket(reason_code=reason).write()


def puback(packet_id: int, code: int = 0, text: str = "") -> bytes:
    """PUBACK of an uplink. A code that MQTT does not know for PUBACK is said as 0x83."""
    if not code:
        return bytes((0x40, 2, packet_id >> 8, packet_id & 0xFF))
    try:
        reason = mqtt5.PubAckReasonCode(code)
    except (ValueError, OverflowError):
        reason = mqtt5.PubAckReasonCode.IMPLEMENTATION_SPECIFIC_ERROR
    return mqtt5.PubAckPacket(packet_id, reason_code=reason, reason_str=text or None).write()


def suback(packet_id: int, codes: list[int], text: str = "") -> bytes:
    """SUBACK, one code a filter. That of one filter, and without a text, is written out: it is in every connect."""
    if len(codes) == 1 and not text:
        return bytes((0x90, 4, packet_id >> 8, packet_id & 0xFF, 0, codes[0]))
    return mqtt5.SubAckPacket(packet_id, [mqtt5.SubAckReasonCode(code) for code in codes], reason_str=text or None).write()


def unsuback(packet_id: int, codes: list[int]) -> bytes:
    """UNSUBACK, one code a filter."""
    return mqtt5.UnsubAckPacket(packet_id, [mqtt5.UnsubAckReasonCode(code) for code in codes]).write()
