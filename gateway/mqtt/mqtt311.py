"""MQTT 3.1.1 as a form in front of the session: its packets become MQTT 5's, and what a room writes becomes its own (ADR 19).

Sections are of the OASIS standard MQTT 3.1.1. What the old form can't say is left out: properties, reason codes, DISCONNECT by
the server. What must not be left out (a PUBLISH that is refused) the session says otherwise, by closing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Final

import mqtt5

from gateway.mqtt.fields import Fields, header_size, variable
from gateway.mqtt.framing import BadPacket, OldConnect, announced_size
from gateway.mqtt.framing import decode as decode_5
from gateway.mqtt.strict import MAX_FILTERS
from gateway.ports import Shell
from gateway.reasons import Reason

PROTOCOL: Final = b"\x00\x04MQTT\x04"
"""How the body of a CONNECT begins (§3.1.2)."""
CONNACK_31_VERSION: Final = b"\x20\x02\x00\x01"
"""CONNACK (§3.2.2.3): unacceptable protocol version."""

_CONNECT, _CONNACK, _PUBLISH, _PUBACK = 0x10, 0x20, 0x30, 0x40
_SUBSCRIBE, _SUBACK, _UNSUBSCRIBE, _UNSUBACK = 0x80, 0x90, 0xA0, 0xB0
_PINGREQ, _PINGRESP, _DISCONNECT = 0xC0, 0xD0, 0xE0
_IDS_ONLY: Final = frozenset((_PUBACK, 0x50, 0x60, 0x70))
_BARE: Final = frozenset((_PINGREQ, _DISCONNECT))

_WILL, _WILL_QOS, _WILL_RETAIN, _PASSWORD, _USERNAME = 0x04, 0x18, 0x20, 0x40, 0x80
_CLEAN: Final = 0x02
_NEVER: Final = 0xFFFFFFFF
"""Session Expiry Interval of MQTT 5: a session of 3.1.1 that is not clean has no end of its own."""

_RETURN_CODES: Final[dict[int, int]] = {
    Reason.SUCCESS: 0,
    Reason.UNSUPPORTED_VERSION: 1,
    Reason.CLIENT_ID_NOT_VALID: 2,
    Reason.SERVER_UNAVAILABLE: 3,
    Reason.SERVER_BUSY: 3,
    Reason.QUOTA_EXCEEDED: 3,
    Reason.USE_ANOTHER_SERVER: 3,
    Reason.CONNECTION_RATE: 3,
    Reason.BAD_TOKEN: 4,
    Reason.NOT_AUTHORIZED: 5,
    Reason.BANNED: 5,
}
"""Connect return codes (§3.2.2.3); for any other reason the connection is closed without one, as it asks for."""


def _malformed(text: str) -> BadPacket:
    return BadPacket(Reason.MALFORMED, f"malformed packet: {text}")


@contextmanager
def _fields(body: bytes, at: int = 0) -> Iterator[Fields]:
    """The fields of a body. What breaks their rules is a BadPacket."""
    try:
        yield Fields(body, at)
    except IndexError:
        raise _malformed("a field that is longer than its packet") from None
    except UnicodeDecodeError:
        raise _malformed("a string that is not UTF-8") from None


def _text(fields: Fields) -> str:
    """§1.5.3."""
    text = fields.text()
    if "\0" in text:
        raise _malformed("a string with a NUL")
    return text


# --- in ----------------------------------------------------------------------------------------------------------------


def connect(body: bytes) -> OldConnect:
    """CONNECT without its fixed header (§3.1). Raises BadPacket.

    Not Clean Session is a session that may outlive its socket, for as long as the policy keeps one: what is pending outlives
    both, whatever a client asks for.
    """
    with _fields(body, len(PROTOCOL)) as fields:
        flags, keep_alive, client_id = fields.byte(), fields.number(), _text(fields)
        _check_flags(flags)
        will = mqtt5.Will(_text(fields), payload=fields.data()) if flags & _WILL else None
        packet = mqtt5.ConnectPacket(
            client_id,
            username=_text(fields) if flags & _USERNAME else None,
            password=fields.data() if flags & _PASSWORD else None,
            clean_start=bool(flags & _CLEAN),
            will=will,
            keep_alive=keep_alive,
            session_expiry_interval=0 if flags & _CLEAN else _NEVER,
        )
    if not fields.over:
        raise _malformed("bytes after the last field")
    return OldConnect(packet)


def _check_flags(flags: int) -> None:
    if flags & 0x01:
        raise _malformed("the reserved flag of CONNECT")  # §3.1.2.3
    if not flags & _WILL and flags & (_WILL_QOS | _WILL_RETAIN):
        raise _malformed("a Will's QoS or Retain without a Will")  # §3.1.2.6, §3.1.2.7
    if flags & _WILL_QOS == _WILL_QOS:
        raise _malformed("a Will of QoS 3")
    if flags & _PASSWORD and not flags & _USERNAME:
        raise _malformed("a password without a user name")  # §3.1.2.9


def decode(frame: memoryview) -> mqtt5.Packet:
    """Exactly one packet after CONNECT: MQTT 5 has one field more in some, the properties, and none are there."""
    kind, start = frame[0] & 0xF0, header_size(frame)
    body = bytes(frame[start:])
    if kind == _PUBLISH:
        return _with_properties(frame[0], body, _publish_head(frame[0], body))
    if kind in (_SUBSCRIBE, _UNSUBSCRIBE):
        _check_filters(body, with_qos=kind == _SUBSCRIBE)
        return _with_properties(frame[0], body, 2)
    if len(body) != (2 if kind in _IDS_ONLY else 0) or kind not in _IDS_ONLY | _BARE:
        raise _malformed(f"packet type {kind >> 4} of {len(body)} bytes")
    return decode_5(frame)


def _publish_head(first: int, body: bytes) -> int:
    """Bytes of a PUBLISH before its payload (§3.3.2)."""
    if len(body) < 2:
        raise _malformed("a PUBLISH without a topic")
    return 2 + int.from_bytes(body[:2]) + (2 if first & 0x06 else 0)


def _check_filters(body: bytes, *, with_qos: bool) -> None:
    with _fields(body) as fields:
        fields.number()
        if fields.over:
            raise _malformed("no topic filter")  # §3.8.3, §3.10.3
        count = 0
        while not fields.over:
            count += 1
            if count > MAX_FILTERS:
                raise BadPacket(Reason.QUOTA_EXCEEDED, f"more than {MAX_FILTERS} topic filters in a packet")
            _text(fields)
            if with_qos and fields.byte() > 2:
                raise _malformed("a requested QoS above 2, or a reserved bit")


def _with_properties(first: int, body: bytes, at: int) -> mqtt5.Packet:
    if at > len(body):
        raise _malformed("a field that is longer than its packet")
    whole = body[:at] + b"\x00" + body[at:]
    return decode_5(memoryview(bytes((first,)) + variable(len(whole)) + whole))


# --- out ---------------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def encode(data: bytes) -> bytes:
    """Packets of MQTT 5 that a room writes, as MQTT 3.1.1 has them. A broadcast is the same for many, one after the other."""
    at, out = 0, []
    while at < len(data):
        end = at + announced_size(data, at)
        assert at < end <= len(data), "a packet of ours that is not whole"
        out.append(_encode_one(data, at, end))
        at = end
    return b"".join(out)


def _encode_one(data: bytes, at: int, end: int) -> bytes:
    kind, start = data[at] & 0xF0, at + header_size(data, at)
    if kind == _PUBLISH:
        head_end = start + 2 + int.from_bytes(data[start : start + 2]) + (2 if data[at] & 0x06 else 0)
        payload = _behind_properties(data, head_end)
        return data[at : at + 1] + variable(head_end - start + end - payload) + data[start:head_end] + data[payload:end]
    if kind in (_PUBACK, _UNSUBACK):  # of a PUBACK that refuses nothing: where it would, the session closes
        return bytes((kind, 2)) + data[start : start + 2]
    if kind == _SUBACK:
        codes = bytes(min(code, 0x80) for code in data[_behind_properties(data, start + 2) : end])  # §3.9.3
        return bytes((kind,)) + variable(2 + len(codes)) + data[start : start + 2] + codes
    if kind == _CONNACK:
        code = _RETURN_CODES.get(data[start + 1])
        return b"" if code is None else bytes((kind, 2, data[start], code))
    return data[at:end] if kind == _PINGRESP else b""  # §3.14: DISCONNECT is the client's


def _behind_properties(data: bytes, at: int) -> int:
    """Where the properties end whose length stands at `at` (MQTT 5 §2.2.2.1)."""
    fields = Fields(data, at)
    size = fields.variable()
    return fields.at + size


class OldShell:
    """`gateway.ports.Shell` of a client of MQTT 3.1.1: what goes out is encoded on the way, so nobody writes past it."""

    __slots__ = ("_shell",)

    direct = -1

    def __init__(self, shell: Shell) -> None:
        self._shell = shell

    @property
    def peer(self) -> int:
        """See `gateway.ports.Shell`."""
        return self._shell.peer

    @property
    def transport(self) -> str:
        """See `gateway.ports.Shell`."""
        return self._shell.transport

    @property
    def names(self) -> frozenset[str] | None:
        """See `gateway.ports.Shell`."""
        return self._shell.names

    def write(self, data: bytes, /) -> bool:
        """See `gateway.ports.Shell`."""
        return self._shell.write(encode(data))

    def wrote(self, data: bytes, sent: int) -> None:
        """See `gateway.ports.Shell`: there is no `direct`."""

    def buffered(self) -> int:
        """See `gateway.ports.Shell`."""
        return self._shell.buffered()

    def close(self, last: bytes = b"") -> None:
        """See `gateway.ports.Shell`."""
        self._shell.close(encode(last))

    def abort(self) -> None:
        """See `gateway.ports.Shell`."""
        self._shell.abort()

    def left(self) -> bool:
        """See `gateway.ports.Shell`."""
        return self._shell.left()

    def subscribe_behind(self) -> mqtt5.SubscribePacket | None:
        """See `gateway.ports.Shell`. What comes next has another form, and its turn."""
        return None

    def pause_reading(self) -> None:
        """See `gateway.ports.Shell`."""
        self._shell.pause_reading()

    def resume_reading(self) -> None:
        """See `gateway.ports.Shell`."""
        self._shell.resume_reading()
