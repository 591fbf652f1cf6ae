"""Which partition a key belongs to, which slot a client, and which share of everyone: the hashes that processes must agree on."""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b
from struct import unpack_from
from typing import Final
from zlib import crc32

from schemas.codes import SLOTS, WHOLE

_MASK: Final = 0xFFFFFFFF
_M: Final = 0x5BD1E995


def murmur2(data: bytes) -> int:
    """Kafka's murmur2 (org.apache.kafka.common.utils.Utils), 32 bits unsigned."""
    length = len(data)
    h = (0x9747B28C ^ length) & _MASK
    for word in unpack_from(f"<{length >> 2}I", data):
        k = word * _M & _MASK
        h = h * _M & _MASK ^ ((k ^ k >> 24) * _M & _MASK)
    if length & 3:
        h = (h ^ int.from_bytes(data[length & ~3 :], "little")) * _M & _MASK
    h = (h ^ h >> 13) * _M & _MASK
    return h ^ h >> 15


@lru_cache(maxsize=4096)
def partition_of(key: str, partitions: int) -> int:
    """The partition that Kafka's default partitioner gives to `key`. A connect is three records of one client, one soon after
    the other."""
    return (murmur2(key.encode()) & 0x7FFFFFFF) % partitions


def slot_of(key: str) -> int:
    """The slot (0 ≤ slot < SLOTS) of a client by its `realm:client` key."""
    return crc32(key.encode()) % SLOTS


class Shares:
    """Where clients stand in the whole, 0 ≤ share < WHOLE, by their `realm:client` keys and a seed.

    The same everywhere and at any time, evenly spread, and for each seed another. A sample of n basis points is who stands below
    n: 5 % of a seed are in its 10 %.
    """

    __slots__ = ("_seeded",)

    def __init__(self, seed: str) -> None:
        self._seeded = blake2b(seed.encode() + b"\0", digest_size=8)

    def of(self, key: str) -> int:
        """The client's share."""
        hashed = self._seeded.copy()
        hashed.update(key.encode())
        return int.from_bytes(hashed.digest(), "big") * WHOLE >> 64
