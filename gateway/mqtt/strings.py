"""Is every string of a packet well-formed UTF-8 (MQTT 5 §1.5.4)? Asked before the codec, which panics where one is not, and
prints a traceback to stderr: whoever sends such packets would fill our log.

What does not look like a packet here is left to the codec, which says why it is none. Mostly no field is walked: ASCII is UTF-8.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from gateway.mqtt.fields import Fields, header_size

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
_QOS: Final = 0xF6
"""A PUBLISH's first byte without DUP and RETAIN."""


def well_formed(frame: memoryview) -> bool:
    """Are its strings UTF-8? True for what is no packet, too. `frame`: one packet, its header included."""
    kind = frame[0] & 0xF0
    walk = _WALKS.get(frame[0] & _QOS if kind == _PUBLISH else kind)
    if walk is None:
        return True
    try:
        if not _is_ascii(frame):
            walk(Fields(bytes(frame), header_size(frame)))
    except UnicodeDecodeError:
        return False
    except IndexError:
        return True
    return True


def _is_ascii(frame: memoryview) -> bool:
    """All of it, of a PUBLISH its topic and its properties (if they are short): those may have any payload."""
    if frame[0] & 0xF0 != _PUBLISH:
        return bytes(frame[2:]).isascii()
    topic = header_size(frame)
    end = topic + 2 + (frame[topic] << 8 | frame[topic + 1])
    properties = end + 2 if frame[0] & 0x06 else end
    size = frame[properties]
    if size >= 0x80 or not bytes(frame[topic + 2 : end]).isascii():
        return False
    return not size or bytes(frame[properties + 1 : properties + 1 + size]).isascii()


def _properties(fields: Fields) -> None:
    end = fields.variable() + fields.at
    while fields.at < end:
        name = fields.byte()
        if name == _PAIR:
            fields.text()
            fields.text()
        elif name in _TEXTS:
            fields.text()
        elif name in _BINARY:
            fields.data()
        elif name == _VARIABLE:
            fields.variable()
        elif name in _FIXED:
            fields.skip(_FIXED[name])
        else:
            raise IndexError("no such property")


def _connect(fields: Fields) -> None:
    fields.text()
    fields.skip(1)
    flags = fields.byte()
    fields.skip(2)
    _properties(fields)
    fields.text()
    if flags & _WILL:
        _properties(fields)
        fields.text()
        fields.data()
    if flags & _USERNAME:
        fields.text()
    if flags & _PASSWORD:
        fields.data()


def _publish(fields: Fields) -> None:
    fields.text()
    _properties(fields)


def _publish_with_id(fields: Fields) -> None:
    fields.text()
    fields.skip(2)
    _properties(fields)


def _subscribe(fields: Fields) -> None:
    fields.skip(2)
    _properties(fields)
    while not fields.over:
        fields.text()
        fields.skip(1)


def _unsubscribe(fields: Fields) -> None:
    fields.skip(2)
    _properties(fields)
    while not fields.over:
        fields.text()


def _acknowledged(fields: Fields) -> None:
    fields.skip(2)
    _reason(fields)


def _reason(fields: Fields) -> None:
    if not fields.over:
        fields.skip(1)
    if not fields.over:
        _properties(fields)


_WALKS: Final[dict[int, Callable[[Fields], None]]] = {
    0x10: _connect,
    _PUBLISH: _publish,
    _PUBLISH | 2: _publish_with_id,
    _PUBLISH | 4: _publish_with_id,
    _PUBLISH | 6: _publish_with_id,
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
