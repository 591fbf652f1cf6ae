"""What a room writes: messages, hints of them, and pages."""

from __future__ import annotations

import msgspec

from infra.wire.batch import ITEM_OVERHEAD, Properties


class Downlink(msgspec.Struct, array_like=True, frozen=True):
    """One message as a room writes it. `n` is the store number of its (client, product), 0 where it was never stored.

    `expires_in_s`: whole seconds that remain when the sender wrote this, −1 for none (the room counts on, monotonically).
    `size` ≥ 0: this is a notice, the body of so many bytes is to be pulled; −1: the payload is the body. `or_notice`: a client
    that can't take the body gets a notice instead.
    """

    id: str
    n: int
    payload: bytes
    expires_in_s: int = -1
    group: str = ""
    content_type: str = ""
    correlation: bytes | None = None
    properties: Properties = []
    size: int = -1
    or_notice: bool = False
    pull_after_ms: int = 0


def size_of(message: Downlink) -> int:
    """Bytes of a message in a batch, at most: a character has up to four."""
    properties = sum(4 * (len(name) + len(value)) for name, value in message.properties)
    return len(message.payload) + len(message.correlation or b"") + properties + ITEM_OVERHEAD


class Hint(msgspec.Struct, array_like=True, frozen=True):
    """`room.{room}.push`: a message for a client that the register locates in this room, in session `number`."""

    key: str
    number: int
    product: str
    message: Downlink


class HintResult(msgspec.Struct, array_like=True, frozen=True):
    """What became of a hint: `written`, `behind` (a sync will bring it), `gone` (no such session here), `dropped` (n = 0)."""

    outcome: str


class Page(msgspec.Struct, array_like=True, frozen=True):
    """The first pending messages of (client, product) that are not in the window, in order; `n` is the last store number.

    `more`: something is pending beyond this page and the window.
    """

    product: str
    n: int
    items: list[Downlink]
    more: bool
