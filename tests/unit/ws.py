"""A WebSocket client's side, as bytes."""

from __future__ import annotations

BINARY, CONTINUATION, CLOSE, PING, PONG = 2, 0, 8, 9, 10
MASK = b"\x11\x22\x33\x44"
REQUEST = {
    "Host": "room.test",
    "Upgrade": "websocket",
    "Connection": "keep-alive, Upgrade",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Protocol": "mqttv3.1, mqtt",
}


def request(path: str = "/mqtt", **changes: str | None) -> bytes:
    """An upgrade; `origin="…"` and the like add or change fields, None leaves one out."""
    fields = {**REQUEST, **{name.replace("_", "-"): value for name, value in changes.items()}}
    lines = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items() if value is not None)]
    return "\r\n".join((*lines, "", "")).encode()


def frame(payload: bytes, opcode: int = BINARY, *, fin: bool = True, mask: bytes = MASK) -> bytes:
    """A masked frame, its length in as few bytes as it needs."""
    size = len(payload)
    if size < 126:
        length = bytes((0x80 | size,))
    elif size < 1 << 16:
        length = bytes((0x80 | 126,)) + size.to_bytes(2)
    else:
        length = bytes((0x80 | 127,)) + size.to_bytes(8)
    masked = bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))
    return bytes((0x80 * fin | opcode,)) + length + mask + masked


def parsed(data: bytes) -> list[tuple[int, bytes]]:
    """(opcode, payload) of a server's frames, which are whole, final and not masked."""
    found = []
    while data:
        assert data[0] & 0xF0 == 0x80
        assert not data[1] & 0x80
        size, at = data[1], 2
        if size > 125:
            at += 2 if size == 126 else 8
            size = int.from_bytes(data[2:at])
        assert len(data) >= at + size
        found.append((data[0] & 0x0F, data[at : at + size]))
        data = data[at + size :]
    return found
