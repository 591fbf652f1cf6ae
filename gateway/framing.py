"""Bytes to MQTT 5 packets, one at a time, each judged by its length before anything is kept of it (MQTT 5 §2.1.4).

A `BadPacket` ends the connection; what came before it was handed out whole. The codec's own errors: `ValueError` for what is
malformed, and a Rust panic (no `Exception`) for a string that is not UTF-8.
"""

from __future__ import annotations

from typing import Final

import mqtt5

from gateway.reasons import Reason

BEFORE_CONNECT: Final = 4 * 1024
"""Bytes of the CONNECT packet, at most: nobody unknown makes us hold more."""

AFTER_CONNECT: Final = 64 * 1024 + 2 * 1024 + 4 * 1024
"""Bytes of any later packet, at most: the largest payload, its headers, and the user properties of an uplink."""

_CONNECT: Final = 0x10
_PUBACK: Final = 0x40
_OLD_NAMES: Final = (b"\x00\x04MQTT\x03", b"\x00\x04MQTT\x04", b"\x00\x06MQIsdp\x03")


class BadPacket(Exception):
    """What came can't be a packet of ours; `code` is the reason that a DISCONNECT gives."""

    def __init__(self, code: Reason, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class OldProtocol(BadPacket):
    """A CONNECT of MQTT 3.1 or 3.1.1, which is answered in its own form."""


def announced_size(data: bytes | bytearray, offset: int) -> int:
    """Of the packet that begins at `offset`, its header included; 0 if the length is not here yet. Raises BadPacket."""
    remaining = 0
    for i in range(1, 5):
        if offset + i >= len(data):
            return 0
        byte = data[offset + i]
        remaining |= (byte & 0x7F) << 7 * (i - 1)
        if byte < 0x80:
            return remaining + i + 1
    raise BadPacket(Reason.MALFORMED, "a packet length of more than four bytes")


def decode(frame: memoryview) -> mqtt5.Packet:
    """Exactly one packet. Raises BadPacket where the bytes are not one."""
    try:
        packet, size = mqtt5.read(frame)
    except (IndexError, ValueError) as error:
        raise BadPacket(Reason.MALFORMED, f"malformed packet: {error}") from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise BadPacket(Reason.MALFORMED, "malformed packet: a string that is not UTF-8") from None
    if size != len(frame):
        raise BadPacket(Reason.MALFORMED, f"a packet of {size} bytes in {len(frame)}")
    return packet


class Reader:
    """The bytes of one connection that are not read yet. The caller feeds, takes packets until None, and closes on BadPacket.

    `limit` is raised by the caller once the client is known. What is held is at most one packet and what one `recv` brought.
    `busy` is the caller's: it is taking packets just now.
    """

    __slots__ = ("_data", "_offset", "busy", "limit")

    def __init__(self) -> None:
        self.limit = BEFORE_CONNECT
        self.busy = False
        self._data: bytes | bytearray = b""
        self._offset = 0

    @property
    def partial(self) -> bool:
        """Bytes are held. After `next_packet()` returned None: a packet has begun and not ended."""
        return self._offset < len(self._data)

    def receive_data(self, data: bytes) -> None:
        """Append what came."""
        if self._offset == len(self._data):
            self._data, self._offset = data, 0
            return
        if not isinstance(self._data, bytearray) or self._offset:
            self._data, self._offset = bytearray(memoryview(self._data)[self._offset :]), 0
        self._data += data

    def next_ack(self) -> int:
        """The packet id of the next packet, if it is a PUBACK that says success in its short form (MQTT 5 §3.4.2.1), else 0.

        Half of what comes is that, and it needs no packet object.
        """
        data, offset = self._data, self._offset
        if self.limit == BEFORE_CONNECT or len(data) - offset < 4 or data[offset] != _PUBACK or data[offset + 1] != 2:
            return 0
        packet_id = data[offset + 2] << 8 | data[offset + 3]
        if packet_id:
            self._passed(4)
        return packet_id

    def _passed(self, size: int) -> None:
        self._offset += size
        if self._offset == len(self._data):
            self._data, self._offset = b"", 0

    def next_packet(self) -> mqtt5.Packet | None:
        """The next whole packet, or None until more comes. Raises BadPacket."""
        data, offset = self._data, self._offset
        if offset == len(data):
            return None
        self._check_first(data, offset)
        size = announced_size(data, offset)
        if size > self.limit:
            raise BadPacket(Reason.PACKET_TOO_LARGE, f"a packet of {size} bytes, more than {self.limit}")
        if not size or len(data) - offset < size:
            return None
        with memoryview(data) as whole, whole[offset : offset + size] as frame:
            self._check_version(frame)
            packet = decode(frame)
        self._passed(size)
        return packet

    def _check_first(self, data: bytes | bytearray, offset: int) -> None:
        if self.limit == BEFORE_CONNECT and data[offset] != _CONNECT:
            raise BadPacket(Reason.PROTOCOL_ERROR, "the first packet is not CONNECT")

    def _check_version(self, frame: memoryview) -> None:
        if self.limit != BEFORE_CONNECT:
            return
        head = bytes(frame[2:14])
        if any(name in head[: len(name) + 1] for name in _OLD_NAMES):
            raise OldProtocol(Reason.UNSUPPORTED_VERSION, "MQTT 3.1 and 3.1.1 are not spoken here, MQTT 5 is")
        if b"\x00\x04MQTT" in head[:7] and b"\x00\x04MQTT\x05" not in head[:8]:
            raise BadPacket(Reason.UNSUPPORTED_VERSION, "MQTT 5 is spoken here")
