"""A client of MQTT 3.1.1 against a room without sockets: it speaks bytes, written by hand from the standard."""

from __future__ import annotations

from typing import NamedTuple

from gateway.mqtt.forms import FIRST
from gateway.mqtt.framing import BadPacket, Reader
from tests.unit.gateway_world import Socket, World, claims, sign

PING = b"\xc0\x00"
LEAVE = b"\xe0\x00"
BAD_UTF8 = b"\xff\xfe"


def field(data: bytes | str) -> bytes:
    """A string or binary field: two bytes of length, then itself."""
    data = data.encode() if isinstance(data, str) else data
    return len(data).to_bytes(2) + data


def packet(first: int, body: bytes) -> bytes:
    """A fixed header and the body."""
    size, length = len(body), bytearray()
    while True:
        size, low = divmod(size, 128)
        length.append(low | (0x80 if size else 0))
        if not size:
            return bytes((first, *length)) + body


def connect(
    client: str = "c1",
    password: bytes | None = None,
    *,
    clean: bool = True,
    keep_alive: int = 60,
    flags: int | None = None,
    middle: bytes = b"",
    level: int = 4,
) -> bytes:
    """CONNECT; `flags` and `middle` (what lies between client id and user name) replace what follows from the rest."""
    token = sign(claims(client)) if password is None else password
    flags = 0xC0 | (2 if clean else 0) if flags is None else flags
    rest = (field("device") if flags & 0x80 else b"") + (field(token) if flags & 0x40 else b"")
    return packet(0x10, field("MQTT") + bytes((level, flags)) + keep_alive.to_bytes(2) + field(client) + middle + rest)


def subscribe(*filters: str, qos: int = 1, packet_id: int = 1) -> bytes:
    return packet(0x82, packet_id.to_bytes(2) + b"".join(field(each) + bytes((qos,)) for each in filters))


def unsubscribe(*filters: str, packet_id: int = 2) -> bytes:
    return packet(0xA2, packet_id.to_bytes(2) + b"".join(map(field, filters)))


def publish(topic: str, payload: bytes = b"x", *, packet_id: int = 0, flags: int = 0) -> bytes:
    ids = packet_id.to_bytes(2) if packet_id else b""
    return packet(0x30 | flags | (2 if packet_id else 0), field(topic) + ids + payload)


def puback(packet_id: int) -> bytes:
    return packet(0x40, packet_id.to_bytes(2))


class Got(NamedTuple):
    """A packet that came: its first byte, and for a PUBLISH topic, packet id and payload; else the body is the payload."""

    first: int
    topic: str
    packet_id: int
    payload: bytes


def read(data: bytes) -> list[Got]:
    """Packets of MQTT 3.1.1; raises where bytes are left."""
    found = []
    while data:
        size, at = 0, 1
        while True:
            byte = data[at]
            size |= (byte & 0x7F) << 7 * (at - 1)
            at += 1
            if byte < 0x80:
                break
        first, body, data = data[0], data[at : at + size], data[at + size :]
        assert len(body) == size
        if first & 0xF0 != 0x30:
            found.append(Got(first, "", 0, body))
            continue
        end = 2 + int.from_bytes(body[:2])
        packet_id = int.from_bytes(body[end : end + 2]) if first & 6 else 0
        found.append(Got(first, body[2:end].decode(), packet_id, body[end + (2 if first & 6 else 0) :]))
    return found


class OldDevice:
    """Bytes in, as a link would read them."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.socket = Socket()
        assert world.room.let_in(self.socket.peer)
        self.session = world.room.accept(self.socket)
        self._reader = Reader(FIRST)

    def say(self, *data: bytes) -> None:
        self.session.last_seen = self.world.now
        self._reader.receive_data(b"".join(data))
        try:
            while not self.session.held:
                self._reader.form = self.session.form
                if packet_id := self._reader.next_ack():
                    self.session.acked(packet_id)
                    continue
                packet = self._reader.next_packet()
                if packet is None:
                    return
                self.session.receive(packet, self.world.now)
        except BadPacket as error:
            self.session.malformed(error)

    def heard(self) -> list[Got]:
        """All that came since the last call."""
        data, self.socket.raw = b"".join(self.socket.raw), []
        return read(data)

    def said_bytes(self) -> bytes:
        """The same as it is."""
        data, self.socket.raw = b"".join(self.socket.raw), []
        return data


def old_device(world: World, *binds: str, qos: int = 1, clean: bool = True, keep_alive: int = 60) -> OldDevice:
    """One that is let in, and bound."""
    device = OldDevice(world)
    device.say(connect(clean=clean, keep_alive=keep_alive))
    assert device.said_bytes() == b"\x20\x02\x00\x00"
    if binds:
        device.say(subscribe(*binds, qos=qos))
        device.heard()
    return device
