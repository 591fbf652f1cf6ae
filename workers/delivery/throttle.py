"""The pace of one member of a consumer group: its share of a rate, in a token bucket. Pure: `now` is passed in.

What all members take in any time t is at most rate × t, and one burst: the shares add up to the rate, and so do the buckets,
which hold `BURST` seconds of a share (at least one message each). A bucket begins empty, also after a pause and in a new
assignment: a rebalance must not be worth a burst.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

BURST: Final = 1.0
"""Seconds of the rate that may be saved up."""


def share_of(rate: float, owned: int, total: int) -> float:
    """A member's messages per second: by the partitions that it owns, of all."""
    return rate * owned / total if total else 0.0


def capacity(share: float) -> float:
    """Messages that a bucket holds."""
    return max(1.0, share * BURST) if share > 0 else 0.0


@dataclass(slots=True)
class Throttle:
    """A token bucket whose rate changes."""

    share: float = 0.0
    tokens: float = 0.0
    at: float = 0.0

    def allowed(self, now: float, share: float) -> int:
        """Messages that may be taken now, none in debt. `share` holds from now on; until now it was the last one."""
        self.tokens += self.share * max(0.0, now - self.at)
        self.tokens = min(self.tokens, capacity(self.share), capacity(share))
        self.share, self.at = share, now
        return max(0, int(self.tokens))

    def take(self, count: int) -> None:
        """So many were taken. What the assignment before was allowed, and the poll that brought this one took, is a debt."""
        self.tokens -= count

    def wait(self) -> float:
        """Seconds until one more is allowed, inf while the share is 0."""
        return max(0.0, (1 - self.tokens) / self.share) if self.share else float("inf")
