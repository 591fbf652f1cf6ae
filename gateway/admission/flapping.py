"""Clients that connect again and again: one that was let in too often within a window is banned for some minutes.

Only who showed a good token is counted, so nobody can have another's client banned. Both tables are bounded.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from infra.documents import Policy

MAX_SEEN: Final = 32_768
"""Clients that are counted in a window; further ones are not: a room has fewer."""
MAX_BANNED: Final = 4_096
"""Clients that are banned at a time; a further one ends the oldest ban."""


class Flapping:
    """`policy()`: the limits as they are now. Windows follow each other, and what is counted is forgotten with each."""

    __slots__ = ("_banned", "_policy", "_seen", "_since")

    def __init__(self, policy: Callable[[], Policy], now: float) -> None:
        self._policy = policy
        self._seen: dict[str, int] = {}
        self._since = now
        self._banned: dict[str, float] = {}

    def __len__(self) -> int:
        """Entries that are kept now."""
        return len(self._seen) + len(self._banned)

    def connects(self, key: str, now: float) -> int:
        """A client connects by a good token: 0 for welcome, else the whole seconds for which it is banned yet."""
        until = self._banned.get(key)
        if until is not None:
            if now < until:
                return math.ceil(until - now)
            del self._banned[key]
        self.forget(now)
        count = self._seen.get(key, 0) + 1
        policy = self._policy()
        if count > policy.flapping_connects:
            del self._seen[key]
            self._ban(key, now, now + policy.flapping_ban)
            return math.ceil(policy.flapping_ban)
        if count > 1 or len(self._seen) < MAX_SEEN:
            self._seen[key] = count
        return 0

    def forget(self, now: float) -> None:
        """The counts of a window that is over."""
        if now - self._since >= self._policy().flapping_window:
            self._seen = {}
            self._since = now

    def _ban(self, key: str, now: float, until: float) -> None:
        for other in [other for other, end in self._banned.items() if end <= now]:
            del self._banned[other]
        while len(self._banned) >= MAX_BANNED:
            del self._banned[next(iter(self._banned))]
        self._banned[key] = until
