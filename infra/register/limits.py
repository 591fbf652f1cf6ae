"""Rates that several processes share: a GCRA in Redis, in Redis's own time. What is lost with it is one burst."""

from __future__ import annotations

from typing import NamedTuple

from infra.register.client import Register
from infra.register.scripts import shard_script
from schemas import names


class Taken(NamedTuple):
    """How many were granted; where none, seconds until there is one."""

    granted: int
    wait_s: float


class SharedLimits:
    """Rates by name."""

    def __init__(self, register: Register) -> None:
        self._register = register

    async def take(self, name: str, *, rate: int, burst: int, most: int) -> Taken:
        """Up to `most` of what `name` has: `rate` a second, `burst` at once. Raises RegisterDown."""
        key = names.limit_key(name)
        [(granted, wait_ms)] = await self._register.shards.of(key).pipe([shard_script("limit", key, rate, burst, most)])
        return Taken(granted, wait_ms / 1000)
