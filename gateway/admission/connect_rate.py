"""How many CONNECTs a room admits in a second: beyond it each is told when its turn would be, so that a storm spreads itself.

A room that has just started admits a part of its rate, and all of it some time later: after a restart everybody comes at once,
to workers and stores that may have started as well.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

from infra.documents import Policy

LONGEST: Final = 60
"""Seconds that a client is asked to wait, at most, but for the jitter."""


class ConnectRate:
    """A token bucket that holds one second's worth, and a queue in time for those who come too early.

    `policy()`: the rate and its ramp as they are now; `jitter()`: a random number from 0 to 1.
    """

    __slots__ = ("_at", "_jitter", "_policy", "_started", "_tokens", "_turn")

    def __init__(self, policy: Callable[[], Policy], now: float, jitter: Callable[[], float] = random.random) -> None:
        """The ramp begins `now`."""
        self._policy = policy
        self._jitter = jitter
        self._started = now
        self._at = now
        self._turn = now
        self._tokens = max(1.0, self.rate(now))

    def rate(self, now: float) -> float:
        """CONNECTs a second now."""
        policy = self._policy()
        passed = min(1.0, (now - self._started) / policy.connect_ramp)
        return policy.connect_rate * (policy.connect_ramp_from + (1 - policy.connect_ramp_from) * passed)

    def admit(self, now: float) -> int:
        """0: come in; else in how many whole seconds to come again: not before its turn, and up to half as much later, or 1 s."""
        rate = self.rate(now)
        self._tokens = min(max(1.0, rate), self._tokens + (now - self._at) * rate)
        self._at = now
        if self._tokens >= 1:
            self._tokens -= 1
            return 0
        self._turn = min(max(self._turn, now) + 1 / rate, now + LONGEST)
        wait = self._turn - now
        return 1 + int(wait + max(1.0, wait / 2) * self._jitter())
