"""What MQTT 5 forbids and the codec lets pass, judged once a packet is decoded; and which reason what the codec refuses has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import mqtt5

from gateway.mqtt.fields import header_size
from gateway.reasons import Reason

MAX_FILTERS: Final = 256
"""Topic filters of a SUBSCRIBE or UNSUBSCRIBE, at most: thousands would hold up everybody for a tenth of a second."""

_FLAGS_AT: Final = 7
"""Of a CONNECT's Connect Flags, from the end of its fixed header: behind the protocol's name and version."""
_WILL, _WILL_QOS_AND_RETAIN, _RESERVED = 0x04, 0x38, 0x01
_RESERVED_OPTIONS: Final = 0xC0

_SUBSCRIBE: Final = 0x80
_NUL: Final = "a string with U+0000 (MQTT 5 §1.5.4)"
_PROTOCOL_ERRORS: Final = ("Duplicate value", "must be", "Invalid RetainHandling")
"""What the codec's texts have where MQTT 5 says Protocol Error: a property twice, a 0 that may not be, a topic that is missing,
Retain Handling 3."""


def fault(packet: mqtt5.Packet, frame: memoryview) -> str:
    """What makes this packet, which the codec took, a Malformed Packet; "" if nothing does. `frame`: exactly its bytes."""
    judge = _JUDGES.get(type(packet))
    return judge(packet, frame) if judge is not None else ""


def refusal(text: str, first: int) -> tuple[Reason, str]:
    """The reason, and a text, for what the codec refused with `text`; `first`: the packet's first byte."""
    if any(words in text for words in _PROTOCOL_ERRORS) or (first & 0xF0 == _SUBSCRIBE and "Invalid QoS" in text):
        return Reason.PROTOCOL_ERROR, f"protocol error: {text}"
    return Reason.MALFORMED, f"malformed packet: {text}"


def _nul_in(properties: Sequence[tuple[str, str]]) -> bool:
    for name, value in properties:  # noqa: SIM110 - of each packet that has some
        if "\0" in name or "\0" in value:
            return True
    return False


def _publish(packet: mqtt5.PublishPacket, frame: memoryview) -> str:
    """Written out: it is the one that comes often."""
    content, response = packet.content_type, packet.response_topic
    if "\0" in packet.topic or (content is not None and "\0" in content) or (response is not None and "\0" in response):
        return _NUL
    return _NUL if _nul_in(packet.user_properties) else ""


def _connect(packet: mqtt5.ConnectPacket, frame: memoryview) -> str:
    """Written out, as those that every client sends."""
    username, method = packet.username, packet.authentication_method
    if "\0" in packet.client_id or (username is not None and "\0" in username) or (method is not None and "\0" in method):
        return _NUL
    if _nul_in(packet.user_properties):
        return _NUL
    return _connect_flags(frame)


def _subscribe(packet: mqtt5.SubscribePacket, frame: memoryview) -> str:
    """The options: the filters are the end of the packet, each with two bytes of length before and one of options behind."""
    filters = packet.topic_filters
    if len(filters) > MAX_FILTERS:
        return ""  # the session refuses so many before it looks at one
    if _nul_in(packet.user_properties):
        return _NUL
    reserved, at = False, len(frame)
    for item in reversed(filters):
        pattern = item.pattern
        if "\0" in pattern:
            return _NUL
        reserved = reserved or frame[at - 1] & _RESERVED_OPTIONS != 0
        at -= len(pattern.encode()) + 3
    return "reserved Subscription Options (MQTT 5 §3.8.3.1)" if reserved else ""


def _nul(packet: Any, *strings: str | None) -> str:
    for text in strings:
        if text is not None and "\0" in text:
            return _NUL
    return _NUL if _nul_in(packet.user_properties) else ""


def _connect_flags(frame: memoryview) -> str:
    flags = frame[header_size(frame) + _FLAGS_AT]
    if flags & _RESERVED:
        return "the reserved flag of CONNECT (MQTT 5 §3.1.2.3)"
    if flags & _WILL_QOS_AND_RETAIN and not flags & _WILL:
        return "Will QoS or Will Retain without a Will (MQTT 5 §3.1.2.6)"
    return ""


_JUDGES: Final[dict[type[Any], Callable[[Any, memoryview], str]]] = {
    mqtt5.ConnectPacket: _connect,
    mqtt5.PublishPacket: _publish,
    mqtt5.PubAckPacket: lambda packet, frame: _nul(packet, packet.reason_str),
    mqtt5.SubscribePacket: _subscribe,
    mqtt5.UnsubscribePacket: lambda packet, frame: _nul(packet, *packet.patterns[:MAX_FILTERS]),
    mqtt5.DisconnectPacket: lambda packet, frame: _nul(packet, packet.reason_str, packet.server_reference),
    mqtt5.AuthPacket: lambda packet, frame: _nul(packet, packet.authentication_method, packet.reason_str),
}
"""Of what a client may send: the rest is refused as a whole, or says nothing."""
