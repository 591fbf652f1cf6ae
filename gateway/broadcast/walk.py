"""One slice of a broadcast while it is written: the walk over its slots, and the late joiners that a grant reaches.

Short chunks with turns of the loop between them, so that pings and acknowledgements keep flowing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from prometheus_client import Counter

from gateway.broadcast.index import Index
from gateway.broadcast.jobs import Job
from gateway.broadcast.together import CHUNK, LOOKS, Stretch, Together
from gateway.broadcast.volley import Offer
from infra.wire import Slice

TICK: Final = 0.005
"""How often a spread slice writes what has become due, s."""
MAX_SPREAD_MS: Final = 1_000

written = Counter("longwire_fanout_written_total", "Broadcasts written to a connection")


class Walk:
    """One slice. `offer(job, bind, now)` writes to a bind that wants the job, and says whether it did."""

    def __init__(
        self,
        job: Job,
        order: Slice,
        *,
        index: Index,
        together: Together,
        offer: Offer,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self._job = job
        self._order = order
        self._index = index
        self._together = together
        self._offer = offer
        self._clock = clock
        self._sleep = sleep
        self._pauses = job.pauses
        self._walked = 0
        self._drawn = 0
        self._looks = 0

    async def go(self) -> int:
        """Write all that is due as time passes; returns to how many persons."""
        job, order = self._job, self._order
        job.wake()
        begun, spread = self._clock(), min(order.spread_ms, MAX_SPREAD_MS) / 1000
        await self._sweep()
        first, last = job.cursor, max(job.cursor, order.hi)
        share = 0.0
        while share < 1 and not self._stopped() and self._anything_left(last):
            job.wake()
            passed = self._clock() - begun
            share = min(1.0, passed / spread) if spread > 0 else 1.0
            if order.most:  # by persons: slots hold them unevenly, and `hi` is beyond where they are expected
                await self._walk(last, max(1, int(order.most * share)))
            else:
                await self._walk(first + int((last - first) * share), 0)
            await self._draw(int(order.late * share))
            if share < 1:
                await self._sleep(TICK)
        written.inc(self._walked + self._drawn)
        return self._walked + self._drawn

    def _stopped(self) -> bool:
        """Paused, over, another owner's, or long past its time: a process that was stopped must not go on where it was."""
        job, now = self._job, self._clock()
        outdated = now * 1000 > self._order.deadline_ms + MAX_SPREAD_MS
        return job.over or job.pauses != self._pauses or job.term != self._order.term or job.expires_at <= now or outdated

    def _full(self) -> bool:
        return bool(self._order.most) and self._walked >= self._order.most

    def _anything_left(self, last: int) -> bool:
        """Slots to walk within the bound, or a grant and somebody (perhaps blocked now) for it."""
        job = self._job
        if job.cursor < last and not self._full():
            return True
        return self._drawn < self._order.late and bool(job.late or job.blocked)

    async def _walk(self, upto: int, persons: int) -> None:
        """Offer the job to everyone in the slots below `upto`, until this slice has reached so many persons (0: all of them)."""
        left = persons - self._walked
        if self._job.cursor < upto and not (persons and left <= 0):
            stretch = Stretch(self._job, upto, left if persons else 0, self._stopped)
            self._walked += await self._together.walk(stretch)

    async def _draw(self, upto: int) -> None:
        """Write to late joiners until `upto` of the grant are spent or nobody is left."""
        job = self._job
        while self._drawn < upto and job.late and not self._stopped():
            bind, _ = job.late.popitem(last=False)
            now = self._clock()
            wrote = job.wants(bind) and self._offer(job, bind, now)
            if wrote and bind.qos:
                job.times.drawn(bind, now)
            self._drawn += wrote
            self._looks += job.target.looks + wrote * (LOOKS // CHUNK)
            if self._looks >= LOOKS:  # the loop has a turn
                self._looks = 0
                await self._sleep(0)

    async def _sweep(self) -> None:
        """Queue who was already here when the job came with its cursor ahead: their slots were walked in other rooms."""
        job = self._job
        at, limit = 0, LOOKS // job.target.looks
        while at < job.unswept and not self._stopped():
            binds, at = self._index.take(job.content.product, at, job.unswept, limit)
            for bind in binds:
                job.queue(bind)
            await self._sleep(0)
        if at >= job.unswept:
            job.unswept = 0
