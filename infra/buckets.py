"""Token buckets for any number of keys in a fixed memory: nobody makes it grow, and nothing has to be removed.

Each key has a place in each of two rows, by its hash, which is keyed per process: nobody outside can choose whose place it
shares. A bucket is as full as the less used of its two places says. So no key ever gets more than its rate and one burst;
one that shares both places with busy keys may get less.
"""

from __future__ import annotations

from array import array
from typing import Final

SLOTS: Final = 8_192
"""Places in a row, a power of two. Both rows together: 128 KiB."""
ROUNDING: Final = 1e-6
"""Tokens by which sums of fractions may be wrong."""


class Buckets:
    """`take(key, …)`: one token of the key's bucket. The times in the rows are when each place's bucket is full again."""

    __slots__ = ("_rows",)

    def __init__(self) -> None:
        self._rows = array("d", bytes(2 * SLOTS * 8))

    def take(self, key: int, now: float, *, rate: float, burst: float) -> bool:
        """Is there a token? `rate`: tokens a second; `burst`: how many a full bucket holds. `now` never goes back, s."""
        rows = self._rows
        places = hash(b"%x" % key)
        one, two = places & (SLOTS - 1), SLOTS + (places >> 32 & (SLOTS - 1))
        full = max(now, min(rows[one], rows[two]))
        if (full - now) * rate > burst - 1 + ROUNDING:
            return False
        full += 1 / rate
        rows[one] = max(rows[one], full)
        rows[two] = max(rows[two], full)
        return True

    @property
    def nbytes(self) -> int:
        """Bytes that all keys together take."""
        return self._rows.itemsize * len(self._rows)
