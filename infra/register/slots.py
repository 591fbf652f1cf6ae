"""Redis's hash slots: which one a client lies in, and a key that lies in a given one."""

from __future__ import annotations

from functools import cache
from typing import Final

from redis.crc import key_slot

from schemas import names

SLOTS: Final = 16384


@cache
def tags() -> tuple[str, ...]:
    """For each slot the smallest number that hashes to it."""
    found: dict[int, str] = {}
    number = 0
    while len(found) < SLOTS:
        found.setdefault(key_slot(str(number).encode()), str(number))
        number += 1
    return tuple(found[slot] for slot in range(SLOTS))


def slot_of_client(key: str) -> int:
    """The slot of everything of a client: its key is the hash tag."""
    return key_slot(key.encode())


def due_key(slot: int) -> str:
    """The due-index of a slot, which lies in that slot."""
    return names.due_key(tags()[slot])
