"""How many CONNECTs a room admits in a second: beyond it each is told when its turn would be, so that a storm spreads itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

LONGEST: Final = 60
"""Seconds that a client is asked to wait, at most."""


class ConnectRate:
    """A token bucket that holds one second's worth, and a queue in time for those who come too early. `rate()`: a second."""

    def __init__(self, rate: Callable[[], int], now: float) -> None:
        self._rate = rate
        self._tokens = float(rate())
        self._at = now
        self._turn = now

    def admit(self, now: float) -> int:
        """0: come in; else in how many whole seconds to come again."""
        rate = self._rate()
        self._tokens = min(float(rate), self._tokens + (now - self._at) * rate)
        self._at = now
        if self._tokens >= 1:
            self._tokens -= 1
            return 0
        self._turn = min(max(self._turn, now) + 1 / rate, now + LONGEST)
        return 1 + int(self._turn - now)
