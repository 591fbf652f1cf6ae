"""A record's fields to bytes, by its schema (Avro 1.12, "Binary encoding"): fastavro's bytes, in half of its time.

fastavro looks at the schema again for each value; here it is looked at once. Only what our schemas have is known: null, boolean,
int, long, string, bytes, arrays, maps and records of it, and a union of null and one of them. Types are mypy's affair.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

import msgspec

Write = Callable[[Any], bytes]

_SHORT: Final = 64
_SIZES: Final = tuple(bytes((size << 1,)) for size in range(_SHORT))
"""The sizes of short texts."""
_BOUND: Final = 1 << 63
_NULL: Final = b"\0"
_SECOND: Final = b"\2"
"""Which branch of a union it is."""


def writer_of(kind: Any, named: type[msgspec.Struct] | None = None) -> Write:
    """How a value of this type (as a schema has it) is written; `named`: the struct of a record, where its fields have the names
    and the order of the schema's. Raises ValueError of a type that is not known here."""
    if isinstance(kind, list):
        first, second = kind
        if first != "null":
            raise ValueError(f"a union of {first} and {second}")
        return _optional(writer_of(second))
    if isinstance(kind, str):
        if kind not in _PLAIN:
            raise ValueError(f"an Avro type that is not known here: {kind}")
        return _PLAIN[kind]
    if kind["type"] == "array":
        return _array(writer_of(kind["items"]))
    if kind["type"] == "map":
        return _map(writer_of(kind["values"]))
    if kind["type"] == "record":
        return _record([(field["name"], writer_of(field["type"])) for field in kind["fields"]], named)
    return writer_of(kind["type"])


@lru_cache(maxsize=4096)
def write_long(value: int) -> bytes:
    """An int or long: zig-zag, seven bits a byte, the lowest first. Most are times, sizes and small numbers, again and again."""
    if not -_BOUND <= value < _BOUND:
        raise ValueError(f"{value} does not fit 64 bits")
    rest, data = (value << 1) ^ (value >> 63), bytearray()
    while rest > 0x7F:
        data.append(rest & 0x7F | 0x80)
        rest >>= 7
    data.append(rest)
    return bytes(data)


def _bytes(value: bytes) -> bytes:
    size = len(value)
    return (_SIZES[size] if size < _SHORT else write_long(size)) + value


def _text(value: str) -> bytes:
    data = value.encode()
    size = len(data)
    return (_SIZES[size] if size < _SHORT else write_long(size)) + data


def _boolean(value: bool) -> bytes:
    return b"\1" if value else b"\0"


_PLAIN: Final[dict[str, Write]] = {
    "boolean": _boolean,
    "int": write_long,
    "long": write_long,
    "string": _text,
    "bytes": _bytes,
}


def _optional(write: Write) -> Write:
    return lambda value: _NULL if value is None else _SECOND + write(value)


def _array(write: Write) -> Write:
    def array(values: Any) -> bytes:
        if not values:
            return _NULL
        return b"".join([write_long(len(values)), *[write(value) for value in values], _NULL])

    return array


def _map(write: Write) -> Write:
    def items(values: dict[str, Any]) -> bytes:
        if not values:
            return _NULL
        return b"".join([write_long(len(values)), *[_text(name) + write(value) for name, value in values.items()], _NULL])

    return items


def _record(fields: list[tuple[str, Write]], named: type[msgspec.Struct] | None) -> Write:
    """By attributes; where the struct's fields are the schema's, in its order, as one tuple of them."""
    writers = [write for _, write in fields]
    if named is not None and named.__struct_fields__ == tuple(name for name, _ in fields):
        values = msgspec.structs.astuple
        return lambda record: b"".join([write(value) for write, value in zip(writers, values(record), strict=True)])
    return lambda record: b"".join([write(getattr(record, name)) for name, write in fields])
