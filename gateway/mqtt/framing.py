"""Bytes to packets, one at a time, each judged by its length before anything is kept of it (MQTT 5 §2.1.4).

What packets look like at the moment is a `Form` (`forms.py` has all three). A `BadPacket` ends the connection; what came before
was handed out whole. The codec's own errors: `ValueError` for what is malformed, and a Rust panic (no `Exception`) for a string
that is not UTF-8, which is therefore looked for before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

import mqtt5

from gateway.mqtt import strict
from gateway.mqtt.strings import well_formed
from gateway.reasons import Reason

BEFORE_CONNECT: Final = 4 * 1024
"""Bytes of the CONNECT packet, at most: nobody unknown makes us hold more."""

AFTER_CONNECT: Final = 64 * 1024 + 2 * 1024 + 4 * 1024
"""Bytes of any later packet, at most: the largest payload, its headers, and the user properties of an uplink."""

SHORT_ACK: Final = 4
"""Bytes of a PUBACK without a reason code."""

_PUBACK: Final = 0x40


class BadPacket(Exception):
    """What came can't be a packet of ours; `code` is the reason that a DISCONNECT gives."""

    def __init__(self, code: Reason, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class OldConnect:
    """The CONNECT of MQTT 3.1.1, as one of MQTT 5; what follows on this connection is of the old form."""

    __slots__ = ("packet",)

    def __init__(self, packet: mqtt5.ConnectPacket) -> None:
        self.packet = packet


Incoming = mqtt5.Packet | OldConnect


class Form(NamedTuple):
    """What packets look like: how many bytes they have at most, and what one says, given exactly its bytes (else BadPacket).

    `first`: the byte that the first packet has to begin with; 0 once that is over.
    """

    limit: int
    decode: Callable[[memoryview], Incoming]
    first: int = 0


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


def short_ack(data: bytes | bytearray, offset: int = 0) -> int:
    """The packet id of a PUBACK that begins at `offset` and says success in its short form (MQTT 5 §3.4.2.1, the only one of MQTT
    3.1.1); 0 if none is here."""
    if len(data) - offset < SHORT_ACK or data[offset] != _PUBACK or data[offset + 1] != 2:
        return 0
    return data[offset + 2] << 8 | data[offset + 3]


def short_ack_of(packet_id: int) -> bytes:
    """The bytes that `short_ack` reads."""
    return bytes((_PUBACK, 2, packet_id >> 8, packet_id & 0xFF))


def decode(frame: memoryview) -> mqtt5.Packet:
    """Exactly one packet of MQTT 5. Raises BadPacket where the bytes are not one."""
    if not well_formed(frame):
        raise BadPacket(Reason.MALFORMED, "malformed packet: a string that is not UTF-8 (MQTT 5 §1.5.4)")
    try:
        packet, size = mqtt5.read(frame)
    except (IndexError, ValueError) as error:
        raise BadPacket(*strict.refusal(str(error), frame[0])) from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise BadPacket(Reason.MALFORMED, "malformed packet: the codec gave it up") from None
    if size != len(frame):
        raise BadPacket(Reason.MALFORMED, f"a packet of {size} bytes in {len(frame)}")
    if fault := strict.fault(packet, frame):
        raise BadPacket(Reason.MALFORMED, f"malformed packet: {fault}")
    return packet


class Reader:
    """The bytes of one connection that are not read yet. The caller feeds, takes packets until None, and closes on BadPacket.

    `form` is changed by the caller once the client is known. What is held is at most one packet and what one `recv` brought.
    `busy` is the caller's: it is taking packets just now.
    """

    __slots__ = ("_data", "_offset", "busy", "form")

    def __init__(self, form: Form) -> None:
        self.form = form
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
        """`short_ack` of the next packet: half of what comes is that, and it needs no packet object."""
        packet_id = 0 if self.form.first else short_ack(self._data, self._offset)
        if packet_id:
            self._passed(SHORT_ACK)
        return packet_id

    def _passed(self, size: int) -> None:
        self._offset += size
        if self._offset == len(self._data):
            self._data, self._offset = b"", 0

    def only_packet(self, first: int, form: Form) -> Incoming | None:
        """All that is held, if it is one whole packet of `form` that begins with the byte `first`: it is taken. Anything else has
        its turn with `next_packet`, what is malformed as well."""
        data, offset = self._data, self._offset
        if offset == len(data) or data[offset] != first:
            return None
        try:
            size = announced_size(data, offset)
            if size != len(data) - offset or size > form.limit:
                return None
            with memoryview(data) as whole, whole[offset:] as frame:
                packet = form.decode(frame)
        except BadPacket:
            return None
        self._data, self._offset = b"", 0
        return packet

    def next_packet(self) -> Incoming | None:
        """The next whole packet, or None until more comes. Raises BadPacket."""
        data, offset = self._data, self._offset
        if offset == len(data):
            return None
        form = self.form
        if form.first and data[offset] != form.first:
            raise BadPacket(Reason.PROTOCOL_ERROR, "the first packet is not CONNECT")
        size = announced_size(data, offset)
        if size > form.limit:
            raise BadPacket(Reason.PACKET_TOO_LARGE, f"a packet of {size} bytes, more than {form.limit}")
        if not size or len(data) - offset < size:
            return None
        frame = data[offset : offset + size]  # the same object where it is all that came
        packet = form.decode(memoryview(frame))
        self._passed(size)
        return packet
