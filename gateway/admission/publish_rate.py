"""How fast one client may publish: beyond it its connection is not read for a moment, and nothing is lost.

A bucket lives while it is not full, so a client that publishes nothing, or seldom, has none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Generic, TypeVar

from infra.buckets import ROUNDING
from infra.documents import Policy

SWEEP: Final = 1.0
"""Seconds between two looks for buckets that are full again."""

K = TypeVar("K")


class _Bucket:
    __slots__ = ("full", "since")

    def __init__(self, now: float) -> None:
        self.full = now  # when the bucket is full again
        self.since = now  # since when it has not been


class PublishRate(Generic[K]):
    """`K`: what stands for a client. `policy()`: rate, burst and patience as they are now."""

    __slots__ = ("_buckets", "_paused", "_policy", "_swept")

    def __init__(self, policy: Callable[[], Policy]) -> None:
        self._policy = policy
        self._buckets: dict[K, _Bucket] = {}
        self._paused: dict[K, float] = {}
        self._swept = 0.0

    def __len__(self) -> int:
        """Buckets that are kept now."""
        return len(self._buckets)

    def published(self, who: K, now: float) -> bool:
        """It has published something, which is taken in any case. True: read nothing more of it until `due` names it."""
        policy = self._policy()
        bucket = self._buckets.get(who)
        if bucket is None or bucket.full <= now:
            bucket = self._buckets[who] = _Bucket(now)
        bucket.full += 1 / policy.publish_rate
        missing = (bucket.full - now) * policy.publish_rate - (policy.publish_burst - 1)
        if missing <= ROUNDING:
            return False
        self._paused[who] = now + missing / policy.publish_rate
        return True

    def wants_too_much(self, who: K, now: float) -> bool:
        """Has its bucket not been full for longer than the policy has patience? Ask when `published` says to pause."""
        bucket = self._buckets.get(who)
        return bucket is not None and now - bucket.since > self._policy().publish_patience

    def due(self, now: float) -> list[K]:
        """Who may be read again. Call it every tick."""
        if now - self._swept >= SWEEP:
            self._swept = now
            for who in [who for who, bucket in self._buckets.items() if bucket.full <= now]:
                del self._buckets[who]
        found = [who for who, until in self._paused.items() if until <= now] if self._paused else []
        for who in found:
            del self._paused[who]
        return found

    def forget(self, who: K) -> None:
        """It is gone."""
        self._buckets.pop(who, None)
        self._paused.pop(who, None)
