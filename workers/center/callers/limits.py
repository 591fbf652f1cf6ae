"""How often a key may ask, over all centers; and how much of this one a key may hold.

A center takes a tenth of a second's requests of a key from Redis at a time and spends them here: a key asks Redis ten times a
second at most, and all centers together never let through more than the rate and one burst. Without Redis each center goes by the
rate alone, so that a key may have it once per center; that is counted.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, Protocol

import structlog
from prometheus_client import Counter

from infra.buckets import Buckets
from infra.register import RegisterDown
from infra.register.limits import Taken
from workers.center.callers.auth import Caller
from workers.center.web.problems import RETRY_AFTER_S, Problem

PART_S: Final = 0.1
"""Seconds' worth of requests that are taken at once."""
KEPT_S: Final = 1.0
"""How long what was taken may be spent; also for how long Redis is not asked once it did not answer."""
DEADLINE: Final = 0.25
MAX_OF_ONE: Final = 250
"""Requests of one key that are in flight here; a quarter of all places (workers/center/web/gate.py)."""
MOST_KEPT: Final = 20_000

log = structlog.get_logger("center")
limited = Counter("longwire_center_limited_total", "Requests of a key beyond its bounds", ["bound"])
unshared = Counter("longwire_center_unshared_limits_total", "Requests let through without Redis, by this center's own count")


class Shared(Protocol):
    """See infra.register.limits.SharedLimits."""

    async def take(self, name: str, *, rate: int, burst: int, most: int) -> Taken:
        """Up to `most`; raises RegisterDown."""


class _Part:
    """What is left of the part of a key that was taken last."""

    __slots__ = ("asking", "left", "refused_until", "until")

    def __init__(self) -> None:
        self.left = 0
        self.until = 0.0
        self.refused_until = 0.0
        self.asking = asyncio.Lock()


class Limits:
    """The bounds of callers. The operator's key has none."""

    def __init__(self, shared: Shared, *, clock: Callable[[], float] = time.monotonic, most: int = MAX_OF_ONE) -> None:
        self._shared = shared
        self._clock = clock
        self._most = most
        self._parts: dict[str, _Part] = {}
        self._in_flight: dict[str, int] = {}
        self._own = Buckets()
        self._away_until = float("-inf")

    @contextmanager
    def place(self, caller: Caller) -> Iterator[None]:
        """A place for a request of the caller's, as long as the block; raises a Problem (503)."""
        if not caller.rate:
            yield
            return
        held = self._in_flight.get(caller.key, 0)
        if held >= self._most:
            limited.labels("in flight").inc()
            raise Problem("busy", f"{held} requests of this key are in flight; ask again", retry_after_s=RETRY_AFTER_S)
        self._in_flight[caller.key] = held + 1
        try:
            yield
        finally:
            if self._in_flight[caller.key] == 1:
                del self._in_flight[caller.key]
            else:
                self._in_flight[caller.key] -= 1

    async def admit(self, caller: Caller) -> None:
        """Count one request; raises a Problem (429, with Retry-After) beyond the key's rate."""
        if not caller.rate:
            return
        part = self._part(caller.key)
        if self._spend(part):
            return
        async with part.asking:  # those who came meanwhile have their share of what the first one gets
            if not self._spend(part) and not self._refused(part, caller):
                await self._renew(part, caller)

    def _part(self, key: str) -> _Part:
        if len(self._parts) >= MOST_KEPT:
            self._parts = {name: part for name, part in self._parts.items() if part.asking.locked()}
        return self._parts.setdefault(key, _Part())

    def _spend(self, part: _Part) -> bool:
        if part.left and self._clock() < part.until:
            part.left -= 1
            return True
        return False

    def _refused(self, part: _Part, caller: Caller) -> bool:
        """Raises the Problem while it is known that there is none."""
        if (wait := part.refused_until - self._clock()) > 0:
            raise too_fast(caller, wait)
        return False

    async def _renew(self, part: _Part, caller: Caller) -> None:
        """Take the next part, and one of it."""
        taken = await self._take(caller)
        if taken is None:
            self._admit_alone(caller)
            return
        now = self._clock()
        if not taken.granted:
            part.refused_until = now + taken.wait_s
            raise too_fast(caller, taken.wait_s)
        part.left, part.until = taken.granted - 1, now + KEPT_S

    async def _take(self, caller: Caller) -> Taken | None:
        """None: Redis does not answer, and is left alone for a moment."""
        if self._clock() < self._away_until:
            return None
        most = max(1, int(caller.rate * PART_S))
        try:
            async with asyncio.timeout(DEADLINE):
                return await self._shared.take(caller.key, rate=caller.rate, burst=caller.rate, most=most)
        except (RegisterDown, TimeoutError) as error:
            self._away_until = self._clock() + KEPT_S
            log.warning("rates of keys not shared", error=type(error).__name__)
            return None

    def _admit_alone(self, caller: Caller) -> None:
        if not self._own.take(hash(caller.key), self._clock(), rate=caller.rate, burst=caller.rate):
            raise too_fast(caller, 1 / caller.rate)
        unshared.inc()


def too_fast(caller: Caller, wait_s: float) -> Problem:
    """The 429."""
    limited.labels("rate").inc()
    detail = f"the key {caller.key} may ask {caller.rate} times a second"
    return Problem("too-fast", detail, retry_after_s=max(1, math.ceil(wait_s)))
