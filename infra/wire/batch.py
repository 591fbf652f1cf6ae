"""A batch and its answer; the bounds of both."""

from __future__ import annotations

import struct
from typing import Any, Final, Generic, TypeVar

import msgspec

VERSION: Final = 1
MAX_ITEMS: Final = 1_000
MAX_BYTES: Final = 256 * 1024
MAX_UNANSWERED: Final = 4
ITEM_OVERHEAD: Final = 512
"""Bytes of a message in a batch beside payload, correlation and properties, at most."""

T = TypeVar("T")

Properties = list[tuple[str, str]]
JobNumber = tuple[int, int]
"""A job's cluster-wide number: (partition, offset) of its first record in `push.jobs`."""


class Request(msgspec.Struct, Generic[T], array_like=True, frozen=True):
    """A batch: `sender` is `room:epoch` or a worker's instance, `seq` counts the sender's batches on this subject from 1.

    `brief`: where nothing but ok (of a hint: written) is to be said of any item, an answer without items says so. A receiver of
    before answers each.
    """

    version: int
    sender: str
    seq: int
    items: list[T]
    brief: bool = False


class Reply(msgspec.Struct, Generic[T], array_like=True, frozen=True):
    """The answer to batch `seq`. `error` is set (and `items` empty) where the whole batch could not be handled: retry it. Empty
    without an error: ok to all, to who asked for it (`brief`)."""

    seq: int
    items: list[T]
    error: str = ""


def encoder() -> msgspec.msgpack.Encoder:
    """An encoder for these structs. Keep one for each component: it is not for several threads."""
    return msgspec.msgpack.Encoder()


_ENCODE: Final = msgspec.msgpack.Encoder().encode


def request_of(sender: str, seq: int, items: list[bytes], *, brief: bool) -> bytes:
    """The bytes of a `Request` whose items are encoded already: they are copied once, and nothing is made of each. At most
    `MAX_ITEMS` of them."""
    count = len(items)
    head = bytes((0x90 | count,)) if count < 16 else struct.pack(">BH", 0xDC, count)  # msgpack: a fixarray, an array 16
    return b"".join((b"\x95", _ENCODE(VERSION), _ENCODE(sender), _ENCODE(seq), head, *items, _ENCODE(brief)))


def reply_decoder(result: type[Any]) -> msgspec.msgpack.Decoder[Any]:
    """Of a `Reply` with results of this type."""
    return msgspec.msgpack.Decoder(Reply[result])  # type: ignore[valid-type]
