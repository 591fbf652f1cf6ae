"""WebSocket (RFC 6455) around MQTT (MQTT 5 §6): a server's side of the framing, and the stage that begins with the upgrade.

Payloads are handed on as they come, wherever frames and messages end, so nothing of them is kept here. There are no extensions.
"""

from __future__ import annotations

from typing import Final

from gateway.edge.upgrade import BadRequest, Door, request_end

MESSAGE: Final = 256 * 1024
"""Bytes of one message, at most, in however many frames: one that never ends is refused."""
FRAGMENTS: Final = 1024
"""Frames of one message, at most."""
CONTROL: Final = 125
"""Bytes of a control frame, at most (RFC 6455 §5.5)."""

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
NORMAL, GOING_AWAY, PROTOCOL_ERROR, UNSUPPORTED, NOT_UTF8, POLICY, TOO_LARGE = 1000, 1001, 1002, 1003, 1007, 1008, 1009
_FIN: Final = 0x80
_MASKED: Final = 0x80
_EXTENDED: Final = {126: 2, 127: 8}
_NEVER_SENT: Final = frozenset({1004, 1005, 1006, 1015})


class Violation(Exception):
    """The peer broke RFC 6455; `code` goes into the close frame, `reason` to the counter."""

    def __init__(self, code: int, reason: str, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.reason = reason


def frame(opcode: int, payload: bytes) -> bytes:
    """A whole message in one frame of a server: not masked (§5.1)."""
    size = len(payload)
    if size <= CONTROL:
        return bytes((_FIN | opcode, size)) + payload
    if size < 1 << 16:
        return bytes((_FIN | opcode, 126)) + size.to_bytes(2) + payload
    return bytes((_FIN | opcode, 127)) + size.to_bytes(8) + payload


def close_frame(code: int, text: str = "") -> bytes:
    """A close frame with a reason, which is cut where a control frame ends, between characters."""
    reason = text.encode()[: CONTROL - 2].decode(errors="ignore").encode()
    return frame(CLOSE, code.to_bytes(2) + reason)


def closing_code(payload: bytes) -> int:
    """The code of a peer's close frame, `NORMAL` for none. Raises Violation (§5.5.1, §7.4)."""
    if not payload:
        return NORMAL
    code = int.from_bytes(payload[:2])
    if len(payload) == 1 or code in _NEVER_SENT or not (1000 <= code <= 1015 or 3000 <= code <= 4999):
        raise Violation(PROTOCOL_ERROR, "close", "a close frame with no code that can be sent")
    try:
        payload[2:].decode()
    except UnicodeDecodeError:
        raise Violation(NOT_UTF8, "close", "a close reason that is not UTF-8") from None
    return code


class Frames:
    """Frames of a client → their payload. `said` gathers pongs and the closing frame; `ended`: see `Stage`."""

    __slots__ = ("_control", "_fragments", "_head", "_key", "_left", "_message", "_opcode", "_size", "ended", "said")

    def __init__(self) -> None:
        self.said = b""
        self.ended: str | None = None
        self._head = b""  # of a frame whose header is not whole
        self._left = 0  # of the payload of a frame under way
        self._key = b""  # its mask, turned to the next byte
        self._opcode = 0  # with FIN, of the frame under way; 0 between frames
        self._control = b""  # payload of a control frame under way
        self._message = False  # a fragmented message is under way
        self._fragments = 0
        self._size = 0

    def receive(self, data: bytes) -> bytes:
        """All payload up to the end, or to the first byte that is wrong."""
        if self._head:
            data, self._head = self._head + data, b""
        out: list[bytes] = []
        try:
            self._read(data, out)
        except Violation as violation:
            self.said += close_frame(violation.code, str(violation))
            self.ended = violation.reason
        return out[0] if len(out) == 1 else b"".join(out)

    def _read(self, data: bytes, out: list[bytes]) -> None:
        at, end = 0, len(data)
        while at < end and self.ended is None:
            if not self._left:
                size = self._begin(data, at)
                if not size:
                    self._head = data[at:]
                    break
                at += size
            part = data[at : at + self._left]
            at += len(part)
            self._left -= len(part)
            self._take(self._unmasked(part) if part else b"", out)

    def _begin(self, data: bytes, at: int) -> int:
        """Read a header; returns its size, or 0 where it is not whole."""
        if len(data) - at < 2:
            return 0
        first, second = data[at], data[at + 1]
        length = second & 0x7F
        self._check(first, second, length)
        body = at + 2 + _EXTENDED.get(length, 0)
        if len(data) < body + 4:
            return 0
        if length > CONTROL:
            least = 126 if length == 126 else 1 << 16
            length = int.from_bytes(data[at + 2 : body])
            if length < least:
                raise Violation(PROTOCOL_ERROR, "frame", "a length in more bytes than it needs")
        if first & 0x0F < CLOSE:
            self._count(first, length)
        self._opcode, self._left, self._key = first, length, data[body : body + 4]
        return body + 4 - at

    def _check(self, first: int, second: int, length: int) -> None:
        opcode = first & 0x0F
        if first & 0x70:
            raise Violation(PROTOCOL_ERROR, "extension", "a reserved bit: no extension was agreed on")
        if not second & _MASKED:
            raise Violation(PROTOCOL_ERROR, "unmasked", "a frame of a client that is not masked")
        if opcode == TEXT:
            raise Violation(UNSUPPORTED, "text", "a text frame: MQTT comes in binary ones (MQTT 5 §6)")
        if opcode not in (CONTINUATION, BINARY, CLOSE, PING, PONG):
            raise Violation(PROTOCOL_ERROR, "frame", f"opcode {opcode:#x}")
        if opcode >= CLOSE:
            if length > CONTROL or not first & _FIN:
                raise Violation(PROTOCOL_ERROR, "frame", "a control frame that is long or fragmented")
        elif (opcode == CONTINUATION) != self._message:
            raise Violation(PROTOCOL_ERROR, "frame", "a continuation of nothing, or a message within a message")

    def _count(self, first: int, length: int) -> None:
        if first & 0x0F == BINARY:
            self._fragments = self._size = 0
        self._fragments += 1
        self._size += length
        self._message = not first & _FIN
        if self._size > MESSAGE:
            raise Violation(TOO_LARGE, "endless", f"a message of more than {MESSAGE} bytes")
        if self._fragments > FRAGMENTS:
            raise Violation(POLICY, "endless", f"a message of more than {FRAGMENTS} frames")

    def _unmasked(self, part: bytes) -> bytes:
        size, key = len(part), self._key
        turn = size % 4
        self._key = key[turn:] + key[:turn]
        mask = int.from_bytes((key * (size // 4 + 1))[:size])
        return (int.from_bytes(part) ^ mask).to_bytes(size)

    def _take(self, payload: bytes, out: list[bytes]) -> None:
        opcode = self._opcode & 0x0F
        if opcode < CLOSE:
            if payload:
                out.append(payload)
        elif self._left:
            self._control += payload
        else:
            whole, self._control = self._control + payload, b""
            self._answer(opcode, whole)
        if not self._left:
            self._key = b""

    def _answer(self, opcode: int, payload: bytes) -> None:
        if opcode == PING:
            self.said += frame(PONG, payload)
        elif opcode == CLOSE:
            code = closing_code(payload)
            self.said += close_frame(code)
            self.ended = ""


class WebSocket:
    """`gateway.edge.stages.Stage`: the upgrade, and then frames."""

    __slots__ = ("_door", "_frames", "_parted", "_request", "_said", "ended")

    name = "websocket"

    def __init__(self, door: Door) -> None:
        """`door`: who may come in, the same for all of a listener."""
        self.ended: str | None = None
        self._door = door
        self._request: bytes | None = b""  # what has come of it; None once it is answered
        self._said = b""  # the answer
        self._frames = Frames()
        self._parted = False

    @property
    def open(self) -> bool:
        """The upgrade was answered with 101."""
        return self._request is None

    def receive(self, data: bytes) -> bytes:
        """See `gateway.edge.stages.Stage`."""
        if self._request is not None:
            try:
                data = self._upgrade(self._request + data)
            except BadRequest as refused:
                self._said, self.ended = refused.answer, refused.reason
                return b""
        payload = self._frames.receive(data) if data else b""
        self.ended = self._frames.ended
        return payload

    def take(self) -> bytes:
        """See `gateway.edge.stages.Stage`."""
        if self._said:
            said, self._said = self._said, b""
        else:
            said, self._frames.said = self._frames.said, b""
        return said

    def wrap(self, data: bytes) -> bytes:
        """See `gateway.edge.stages.Stage`."""
        return frame(BINARY, data)

    def farewell(self) -> bytes:
        """See `gateway.edge.stages.Stage`. The socket is closed behind it: the peer's own close frame is not waited for."""
        said = self.take() + self.take()
        if self._parted or self.ended is not None or not self.open:
            return said
        self._parted = True
        return said + close_frame(NORMAL)

    def _upgrade(self, request: bytes) -> bytes:
        """Answer a whole request; returns what came behind it."""
        end = request_end(request)
        if not end:
            self._request = request
            return b""
        self._said = self._door.answer(request[:end])
        self._request = None
        return request[end:]
