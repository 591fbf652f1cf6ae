"""The forms that packets have on a connection: at first CONNECT of either version, then MQTT 5, or MQTT 3.1.1."""

from __future__ import annotations

from typing import Final

from gateway.mqtt import mqtt311
from gateway.mqtt.fields import header_size
from gateway.mqtt.framing import AFTER_CONNECT, BEFORE_CONNECT, BadPacket, Form, Incoming, decode
from gateway.reasons import Reason

_CONNECT: Final = 0x10
_NAME: Final = b"\x00\x04MQTT"
_OURS: Final = b"\x00\x04MQTT\x05"
_MQTT_31: Final = (b"\x00\x06MQIsdp\x03", b"\x00\x04MQTT\x03")


class OldProtocol(BadPacket):
    """A CONNECT of MQTT 3.1, which is answered in its own form."""


def _first(frame: memoryview) -> Incoming:
    """The first packet of a connection. Its version is looked at before all else (MQTT 5 §3.1.2.2)."""
    at = header_size(frame)
    if bytes(frame[at : at + len(_OURS)]) == _OURS:
        return decode(frame)
    body = bytes(frame[at:])
    if body.startswith(mqtt311.PROTOCOL):
        return mqtt311.connect(body)
    if body.startswith(_MQTT_31):
        raise OldProtocol(Reason.UNSUPPORTED_VERSION, "MQTT 3.1 is not spoken here: 5 and 3.1.1 are")
    if body.startswith(_NAME) and body[len(_NAME) : len(_NAME) + 1] != b"\x05":
        raise BadPacket(Reason.UNSUPPORTED_VERSION, "MQTT 5 and 3.1.1 are spoken here")
    return decode(frame)


FIRST: Final = Form(BEFORE_CONNECT, _first, _CONNECT)
MQTT5: Final = Form(AFTER_CONNECT, decode)
MQTT311: Final = Form(AFTER_CONNECT, mqtt311.decode)
