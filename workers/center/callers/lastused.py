"""When each API key was used last: noted here, written to Redis once a minute, all keys in one command. For people only."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from infra.lifecycle import Loops
from infra.register import Register, RegisterDown
from schemas import names

WRITE_EVERY: Final = 60.0
"""Seconds: a key that is used all the time costs one field a minute and center."""

log = structlog.get_logger("center")


class LastUsed:
    """A part of its process (infra.lifecycle.Part). What was not written when Redis was away is written later."""

    def __init__(self, register: Register, *, fail: Callable[[str], None], wall: Callable[[], float] = time.time) -> None:
        self._register = register
        self._wall = wall
        self._noted: dict[str, float] = {}
        self._loops = Loops(fail)

    def note(self, key_id: str) -> None:
        """It is used now."""
        self._noted[key_id] = self._wall()

    async def of(self, keys: Sequence[str]) -> dict[str, float]:
        """Key → seconds since the epoch, of those that were ever used, as far as Redis tells; as of a minute ago."""
        found = {key: self._noted[key] for key in keys if key in self._noted}
        if keys:
            try:
                [answers] = await self._ask([("HMGET", names.API_KEYS_USED, *keys)])
            except RegisterDown:
                return found
            for key, at in zip(keys, answers, strict=True):
                if at is not None:
                    found[key] = max(float(at), found.get(key, 0.0))
        return found

    async def forget(self, keys: Sequence[str]) -> None:
        """These keys are no more."""
        for key in keys:
            self._noted.pop(key, None)
        if keys:
            try:
                await self._ask([("HDEL", names.API_KEYS_USED, *keys)])
            except RegisterDown as error:
                log.warning("use of API keys not forgotten", error=str(error)[:200])

    async def start(self) -> None:
        """Begin to write."""
        self._loops.start("last used", self._write_on())

    async def stop(self) -> None:
        """Write what was noted."""
        await self._loops.stop()
        await self.write()

    async def write(self) -> None:
        """Write what was noted since the last time."""
        noted, self._noted = self._noted, {}
        if not noted:
            return
        flat = [word for key, at in noted.items() for word in (key, f"{at:.0f}")]
        try:
            await self._ask([("HSET", names.API_KEYS_USED, *flat)])
        except RegisterDown as error:
            log.warning("use of API keys not written", error=str(error)[:200])
            self._noted = {**noted, **self._noted}

    async def _write_on(self) -> None:
        while True:
            await asyncio.sleep(WRITE_EVERY)
            await self.write()

    async def _ask(self, commands: list[tuple[str, ...]]) -> list[list[bytes | None]]:
        return await self._register.shards.of(names.API_KEYS_USED).pipe(commands)
