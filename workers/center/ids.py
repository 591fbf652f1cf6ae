"""Ids of what is accepted: the sender's own, one that its idempotency key decides, or a UUIDv7."""

from __future__ import annotations

import os
import time
from hashlib import sha256
from typing import Final
from uuid import UUID

from workers.center.web.problems import bad_input

MAX_KEY: Final = 255
KEYED: Final = "k-"
"""How an id begins that an idempotency key decides."""


def uuid7(now_ms: int, random: bytes) -> UUID:
    """A UUIDv7 (RFC 9562 §5.7): 48 bits of milliseconds, then 74 of the 80 random bits given."""
    value = (now_ms & (1 << 48) - 1) << 80 | int.from_bytes(random[:10], "big")
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return UUID(int=value)


def time_of(record_id: str) -> int | None:
    """When a UUIDv7 was made, ms by the clock of who made it; None for any other id."""
    try:
        found = UUID(record_id)
    except ValueError:
        return None
    return found.int >> 80 if found.version == 7 and str(found) == record_id else None


def choose_id(own: str | None, idempotency_key: str | None, product: str, caller: str) -> str:
    """The id of a request's record; raises a Problem if both an id and a key are given, or the key is out of bounds.

    The same key of the same product and caller always gives the same id, so a repeat is stored once; another caller's is another.
    """
    if idempotency_key is None:
        return own if own is not None else str(uuid7(time.time_ns() // 1_000_000, os.urandom(10)))
    if own is not None:
        raise bad_input("id", own, "give an id or an Idempotency-Key, not both")
    if not 1 <= len(idempotency_key) <= MAX_KEY:
        raise bad_input("Idempotency-Key", idempotency_key, f"has 1 to {MAX_KEY} characters")
    digest = sha256(f"{product}\0{caller}\0{idempotency_key}".encode("utf-8", "surrogateescape"))
    return f"{KEYED}{digest.hexdigest()[:40]}"
