"""Is every string of a packet well-formed UTF-8 (MQTT 5 §1.5.4)? Asked before the codec, which panics where one is not, and
prints a traceback to stderr: whoever sends such packets would fill our log.

What does not look like a packet here is left to the codec, which says why it is none. Mostly no field is walked: ASCII is UTF-8.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

_TEXTS: Final = frozenset((0x03, 0x08, 0x12, 0x15, 0x1A, 0x1C, 0x1F))
_BINARY: Final = frozenset((0x09, 0x16))
_PAIR, _VARIABLE = 0x26, 0x0B
_FIXED: Final = {
    **dict.fromkeys((0x01, 0x17, 0x19, 0x24, 0x25, 0x28, 0x29, 0x2A), 1),
    **dict.fromkeys((0x13, 0x21, 0x22, 0x23), 2),
    **dict.fromkeys((0x02, 0x11, 0x18, 0x27), 4),
}
"""Properties (§2.2.2.2): those with a string, with bytes, with two strings, with a number of so many bytes."""

_WILL, _PASSWORD, _USERNAME = 0x04, 0x40, 0x80
_PUBLISH: Final = 0x30


def well_formed(frame: memoryview) -> bool:
    """Are its strings UTF-8? True for what is no packet, too. `frame`: one packet, its header included."""
    walk = _WALKS.get(frame[0] & 0xF0)
    if walk is None:
        return True
    try:
        if not _is_ascii(frame):
            walk(_Fields(frame))
    except UnicodeDecodeError:
        return False
    except IndexError:
        return True
    return True


def _is_ascii(frame: memoryview) -> bool:
    """All of it, of a PUBLISH its topic and its properties (if they are short): those may have any payload."""
    if frame[0] & 0xF0 != _PUBLISH:
        return bytes(frame[2:]).isascii()
    topic = 2
    while frame[topic - 1] & 0x80:
        topic += 1
    end = topic + 2 + (frame[topic] << 8 | frame[topic + 1])
    properties = end + 2 if frame[0] & 0x06 else end
    size = frame[properties]
    if size >= 0x80 or not bytes(frame[topic + 2 : end]).isascii():
        return False
    return not size or bytes(frame[properties + 1 : properties + 1 + size]).isascii()


class _Fields:
    """The fields of a packet, one after the other. Raises IndexError beyond its end, UnicodeDecodeError."""

    def __init__(self, frame: memoryview) -> None:
        self._data = bytes(frame)
        self._at = 1
        self.number()  # the remaining length
        self.first = self._data[0]

    @property
    def over(self) -> bool:
        return self._at >= len(self._data)

    def byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1]

    def number(self) -> int:
        """A variable byte integer (§1.5.5)."""
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value
            if shift > 21:
                raise IndexError("a variable byte integer of more than four bytes")

    def skip(self, size: int) -> None:
        self._at += size

    def data(self) -> bytes:
        size = self.byte() << 8 | self.byte()
        self._at += size
        if self._at > len(self._data):
            raise IndexError("a field that is longer than its packet")
        return self._data[self._at - size : self._at]

    def text(self) -> None:
        self.data().decode()

    def properties(self) -> None:
        end = self.number() + self._at
        while self._at < end:
            name = self.byte()
            if name == _PAIR:
                self.text()
                self.text()
            elif name in _TEXTS:
                self.text()
            elif name in _BINARY:
                self.data()
            elif name == _VARIABLE:
                self.number()
            elif name in _FIXED:
                self.skip(_FIXED[name])
            else:
                raise IndexError("no such property")


def _connect(fields: _Fields) -> None:
    fields.text()
    fields.skip(1)
    flags = fields.byte()
    fields.skip(2)
    fields.properties()
    fields.text()
    if flags & _WILL:
        fields.properties()
        fields.text()
        fields.data()
    if flags & _USERNAME:
        fields.text()
    if flags & _PASSWORD:
        fields.data()


def _publish(fields: _Fields) -> None:
    fields.text()
    if fields.first & 0x06:
        fields.skip(2)
    fields.properties()


def _subscribe(fields: _Fields) -> None:
    fields.skip(2)
    fields.properties()
    while not fields.over:
        fields.text()
        fields.skip(1)


def _unsubscribe(fields: _Fields) -> None:
    fields.skip(2)
    fields.properties()
    while not fields.over:
        fields.text()


def _acknowledged(fields: _Fields) -> None:
    fields.skip(2)
    _reason(fields)


def _reason(fields: _Fields) -> None:
    if not fields.over:
        fields.skip(1)
    if not fields.over:
        fields.properties()


_WALKS: Final[dict[int, Callable[[_Fields], None]]] = {
    0x10: _connect,
    _PUBLISH: _publish,
    0x40: _acknowledged,
    0x50: _acknowledged,
    0x60: _acknowledged,
    0x70: _acknowledged,
    0x80: _subscribe,
    0xA0: _unsubscribe,
    0xE0: _reason,
    0xF0: _reason,
}
"""What a client may send that has strings."""
