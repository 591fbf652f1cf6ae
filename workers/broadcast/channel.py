"""The other channel of a broadcast: at its time whoever has not settled it goes to `push.fallback`, at the job's own pace."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Container
from typing import Final, Protocol

import structlog

from infra.journal import JournalDown
from infra.register import RegisterDown
from workers.broadcast.pace import Bucket
from workers.broadcast.unreached import Due, Reach

RETRY: Final = 1.0
LOOK: Final = 0.05

log = structlog.get_logger("jobchannel")


class Fallbacks(Protocol):
    """Who walks the registry (workers.broadcast.unreached.JobFallback)."""

    async def run(
        self,
        due: Due,
        *,
        take: Callable[[int], Awaitable[None]],
        passed: Callable[[int, Reach], Awaitable[None]],
        skip: Container[int] = frozenset(),
    ) -> None:
        """Hand over who is unsettled; raises JournalDown or RegisterDown: begin again with what had not passed."""


class JobChannel:
    """One job's hand-over. It goes on until it is through, or cancelled; another owner begins it anew, under the same ids."""

    def __init__(self, fallbacks: Fallbacks, *, rate: float, moving: Callable[[], bool]) -> None:
        """`rate`: clients a second; `moving()`: may anything be sent now?"""
        self.handed = 0
        self._fallbacks = fallbacks
        self._moving = moving
        self._bucket = Bucket(rate, time.monotonic())
        self._through: set[int] = set()

    async def run(self, due: Due) -> int:
        """Returns how many clients were handed over."""
        while True:
            try:
                await self._fallbacks.run(due, take=self._take, passed=self._passed, skip=self._through)
            except (JournalDown, RegisterDown) as error:
                log.warning("hand-over goes on later", job=due.job.id, error=str(error)[:200])
                await asyncio.sleep(RETRY)
            else:
                return self.handed

    async def _take(self, persons: int) -> None:
        while not self._may_take(persons):  # noqa: ASYNC110 - time alone fills a bucket
            await asyncio.sleep(LOOK)
        self._bucket.take(persons)

    def _may_take(self, persons: int) -> bool:
        return self._moving() and self._bucket.available(time.monotonic()) >= min(persons, self._bucket.rate)

    async def _passed(self, partition: int, reach: Reach) -> None:
        self._through.add(partition)
        self.handed += reach.handed
