"""Packets that the codec does not write, byte by byte, and a device that says them as a socket would bring them."""

from __future__ import annotations

import mqtt5
from gateway_world import Device, World, claims, sign

from gateway.mqtt.framing import BadPacket, announced_size, decode


def string(text: str | bytes) -> bytes:
    """With its length in front (MQTT 5 §1.5.4)."""
    data = text.encode() if isinstance(text, str) else text
    return len(data).to_bytes(2) + data


def packet(first: int, body: bytes) -> bytes:
    """A packet with a body of less than 16 KiB."""
    size = len(body)
    length = bytes((size,)) if size < 0x80 else bytes((size & 0x7F | 0x80, size >> 7))
    return bytes((first,)) + length + body


def properties(*given: bytes) -> bytes:
    data = b"".join(given)
    return bytes((len(data),)) + data


def pair(name: str | bytes, value: str | bytes) -> bytes:
    """A User Property."""
    return b"\x26" + string(name) + string(value)


def connect(
    *, name: str = "MQTT", version: int = 5, flags: int = 0x02, payload: bytes = string("c1"), given: tuple[bytes, ...] = ()
) -> bytes:
    return packet(0x10, string(name) + bytes((version, flags)) + b"\x00\x3c" + properties(*given) + payload)


def good_connect(client: str = "c1", **fields: object) -> bytes:
    """A CONNECT with a good token."""
    return mqtt5.ConnectPacket(client, password=sign(claims(client)), **fields).write()  # type: ignore[arg-type]


def publish(topic: str | bytes = "up/demo/pos", *given: bytes, first: int = 0x32, payload: bytes = b"x") -> bytes:
    """A PUBLISH, at QoS 1 unless `first` says otherwise."""
    packet_id = b"\x00\x01" if first & 0x06 else b""
    return packet(first, string(topic) + packet_id + properties(*given) + payload)


def subscribe(*filters: str | bytes, options: int = 1, first: int = 0x82, given: tuple[bytes, ...] = ()) -> bytes:
    pairs = b"".join(string(item) + bytes((options,)) for item in filters)
    return packet(first, b"\x00\x01" + properties(*given) + pairs)


def unsubscribe(*filters: str | bytes, first: int = 0xA2, given: tuple[bytes, ...] = ()) -> bytes:
    return packet(first, b"\x00\x01" + properties(*given) + b"".join(string(item) for item in filters))


def say(device: Device, data: bytes) -> None:
    """Whole packets, as `gateway.edge.link.Link` hands them over; what comes while the session is held is left unread."""
    while data and not device.session.held:
        frame, data = data[: announced_size(data, 0)], data[announced_size(data, 0) :]
        try:
            found = decode(memoryview(frame))
        except BadPacket as error:
            device.session.malformed(error)
        else:
            device.session.receive(found, device.world.now)


def ends_with(data: bytes, *, device: Device | None = None) -> int:
    """The reason of the DISCONNECT that this costs a client that is let in, whose connection then is closed."""
    device = device or World().device("c1", "push/demo")
    say(device, data)
    said = device.socket.one(mqtt5.DisconnectPacket)
    assert device.socket.closed
    return int(said.reason_code)


def closes_unsaid(data: bytes) -> bool:
    """Is a connection that begins so closed, with nothing said and nobody asked?"""
    world = World()
    device = world.accept()
    say(device, data)
    return device.socket.closed and not device.socket.raw and not world.register.items
