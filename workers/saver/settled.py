"""Settled ids of a fold, ten bytes each: a set of Python's takes ten times that, and a partition may have millions."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from hashlib import blake2b
from typing import Final

DIGEST: Final = 10
"""Bytes of a digest, of which 76 bits count: among 10 million ids and as many messages one is mistaken with 1 in a billion."""
BUCKET: Final = 68
LOW: Final = (1 << 64) - 1


class Settled:
    """Which (client key, product, id) are settled: first all are added, then `seal()`, then it is asked."""

    def __init__(self) -> None:
        self._buckets: list[array[int]] = [array("Q") for _ in range(1 << (8 * DIGEST - BUCKET))]

    def add(self, key: str, product: str, message_id: str) -> None:
        """One more."""
        digest = _digest(key, product, message_id)
        self._buckets[digest >> BUCKET].append(digest & LOW)

    def seal(self) -> None:
        """Sort the buckets, one after the other: a list of all would take five times the memory."""
        self._buckets = [array("Q", sorted(bucket)) for bucket in self._buckets]

    def has(self, key: str, product: str, message_id: str) -> bool:
        """Was it added?"""
        digest = _digest(key, product, message_id)
        bucket, low = self._buckets[digest >> BUCKET], digest & LOW
        place = bisect_left(bucket, low)
        return place < len(bucket) and bucket[place] == low


def _digest(key: str, product: str, message_id: str) -> int:
    return int.from_bytes(blake2b(f"{key} {product} {message_id}".encode(), digest_size=DIGEST).digest())
