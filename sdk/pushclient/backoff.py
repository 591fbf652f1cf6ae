"""How long to stay away: exponential, with full jitter."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

MAX_RETRY_AFTER_S = 3_600.0
_MAX_DOUBLINGS = 32  # beyond it 2**n only costs time: the cap has long been reached


@dataclass(frozen=True, slots=True)
class Backoff:
    """Delays in seconds. Attempt n waits between 0 and min(cap_s, base_s · 2**n), evenly spread.

    Full jitter spreads a crowd that lost its server at the same moment better than any fixed share would.
    Raises ValueError unless 0 < base_s <= cap_s.
    """

    base_s: float = 0.5
    cap_s: float = 30.0
    random: Callable[[], float] = random.random

    def __post_init__(self) -> None:
        if not (0 < self.base_s <= self.cap_s and math.isfinite(self.cap_s)):
            raise ValueError(f"backoff of {self.base_s} to {self.cap_s} s: expected 0 < base_s <= cap_s")

    def delay(self, attempt: int) -> float:
        """For "come back": attempt 0 is the first return after a good connection."""
        return self.random() * min(self.cap_s, self.base_s * 2.0 ** min(attempt, _MAX_DOUBLINGS))

    def soon(self) -> float:
        """For "go elsewhere": at once, but not in step with all the others that were told so."""
        return self.delay(0)

    def later(self) -> float:
        """For "come back later" without a time: the upper half of the cap."""
        return self.cap_s * (0.5 + 0.5 * self.random())

    def after(self, retry_after_s: float) -> float:
        """What the server asked for, never less, and up to half as much again so that a crowd does not return as one."""
        return min(retry_after_s, MAX_RETRY_AFTER_S) * (1.0 + 0.5 * self.random())


def retry_after(properties: list[tuple[str, str]]) -> float | None:
    """The `retry-after` user property in seconds, or None where there is none that can be read."""
    for name, value in properties:
        if name == "retry-after":
            return parse_seconds(value)
    return None


def parse_seconds(value: str) -> float | None:
    """A non-negative finite number of seconds, or None."""
    try:
        seconds = float(value)
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None
