"""Whether an endpoint is asked at all: not while it fails again and again, and then by one request at a time."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from typing import Final

THRESHOLD: Final = 3
"""Failures in a row that open it: those of requests that were under way together are one."""
FIRST: Final = 1.0
LONGEST: Final = 120.0
"""Seconds that it stays open, at first and at most: twice as long each time, half of that by chance."""


class Circuit:
    """Of one endpoint, in one process. Closed, it lets everything through; open, nothing; half open, one request."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic, chance: Callable[[], float] = random.random) -> None:
        self._clock = clock
        self._chance = chance
        self._failures = 0
        self._failed_at = -math.inf
        self._until = 0.0

    @property
    def closed(self) -> bool:
        """May everything go?"""
        return self._failures < THRESHOLD and not self.wait()

    def wait(self) -> float:
        """Seconds until a request may be tried; 0: now."""
        return max(0.0, self._until - self._clock())

    def taken(self) -> None:
        """It answered."""
        self._failures, self._until = 0, 0.0

    def failed(self, began: float, retry_after: float = 0.0) -> None:
        """It did not answer a request of then (by our clock), or asked us to come back after so many seconds."""
        now = self._clock()
        self._until = max(self._until, now + min(retry_after, LONGEST))
        if began < self._failed_at:
            return  # it says no more than the failure that was counted while it was under way
        self._failures, self._failed_at = self._failures + 1, now
        over = self._failures - THRESHOLD
        pause = min(FIRST * 2.0 ** min(over, 16), LONGEST) * (0.5 + self._chance() / 2) if over >= 0 else 0.0
        self._until = max(self._until, now + pause)


def pause_after(times: int, chance: Callable[[], float] = random.random) -> float:
    """Seconds until an event that failed by itself so many times is tried again."""
    return float(min(FIRST * 2.0 ** min(times, 16), LONGEST) * (0.5 + chance() / 2))
