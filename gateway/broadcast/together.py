"""Walks of one product that are at the same slots: they go on together, so that a connection has one write for all of them.

A walk asks for a stretch of slots (`Stretch`) and waits. One of those that wait leads, for all: each time those that are farthest
behind go on by one chunk, together where they stand at the same slot, then the loop has a turn. Who is through stops waiting; if
it was the one that led, the next one leads. Walks that begin in the same turn of the loop begin together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from gateway.broadcast.index import Index
from gateway.broadcast.jobs import Job
from gateway.broadcast.sender import Sender
from gateway.broadcast.volley import Offer, Volley, Watch

CHUNK: Final = 200
"""Writes between two turns of the loop: about 2 ms (PERFORMANCE: 10 µs a write)."""
LOOKS: Final = 2_000
"""Binds looked at between two turns of the loop; a write counts for LOOKS / CHUNK of them."""


class Stretch:
    """The slots from a job's cursor up to `upto`, until `persons` were written to (0: all of them), or `stopped()` says so."""

    __slots__ = ("job", "persons", "stopped", "turn", "upto", "walked")

    def __init__(self, job: Job, upto: int, persons: int, stopped: Callable[[], bool]) -> None:
        self.job = job
        self.upto = upto
        self.persons = persons
        self.stopped = stopped
        self.walked = 0
        self.turn: asyncio.Future[bool] = asyncio.get_running_loop().create_future()  # True: lead, False: it is through

    def leads(self) -> bool:
        """Does it lead, or would if its task still ran?"""
        return self.turn.done() and not self.turn.cancelled() and self.turn.result()

    def tell(self, *, leads: bool) -> bool:
        """Its wait is over: it leads, or is through. False if it does not wait any more."""
        if self.turn.done():
            return False
        self.turn.set_result(leads)
        return True

    def over(self) -> bool:
        """Is there nothing to do any more?"""
        return self.job.cursor >= self.upto or bool(self.persons and self.walked >= self.persons) or self.stopped()


class Together:
    """The stretches of all products that are being walked."""

    def __init__(
        self,
        index: Index,
        *,
        offer: Offer,
        watch: Watch,
        sender: Sender,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self._index = index
        self._offer = offer
        self._watch = watch
        self._sender = sender
        self._clock = clock
        self._sleep = sleep
        self._stretches: dict[str, list[Stretch]] = {}

    async def walk(self, stretch: Stretch) -> int:
        """Walk it, with others; returns how many persons it was written to. Slots below the cursor are never walked again."""
        product = stretch.job.content.product
        all_here = self._stretches.setdefault(product, [])
        all_here.append(stretch)
        try:
            if len(all_here) == 1:
                stretch.tell(leads=True)
                await self._sleep(0)  # those that begin in this turn of the loop join
            if await stretch.turn:
                await self._lead(product, all_here, stretch)
        finally:
            if stretch in all_here:
                all_here.remove(stretch)
            if not all_here:
                self._stretches.pop(product, None)
            elif stretch.leads():
                next((other for other in all_here if other.tell(leads=True)), None)
        return stretch.walked

    async def _lead(self, product: str, stretches: list[Stretch], mine: Stretch) -> None:
        looks = 0
        while True:
            for other in [other for other in stretches if other is not mine and other.over()]:
                stretches.remove(other)
                other.tell(leads=False)
            if mine.over():
                return
            looks += self._step(product, stretches)
            if looks >= LOOKS:
                looks = 0
                await self._sleep(0)

    def _step(self, product: str, stretches: list[Stretch]) -> int:
        """Those that are farthest behind go on by a chunk; returns what that cost, in looks."""
        at = min(stretch.job.cursor for stretch in stretches)
        those = [stretch for stretch in stretches if stretch.job.cursor == at]
        upto = min([stretch.upto for stretch in those] + [s.job.cursor for s in stretches if s.job.cursor > at])
        limit = min([CHUNK] + [stretch.persons - stretch.walked for stretch in those if stretch.persons])
        binds, cursor = self._index.take(product, at, upto, limit)
        now = self._clock()
        for stretch in those:
            stretch.job.cursor = cursor
        volley = Volley([stretch.job for stretch in those], now, offer=self._offer, watch=self._watch, sender=self._sender)
        writes = volley.fire(binds) if binds else 0
        for stretch, persons in zip(those, volley.persons, strict=True):
            stretch.walked += persons
            if persons:
                stretch.job.times.walked(cursor, now)
        return len(binds) * sum(stretch.job.target.looks for stretch in those) + writes * (LOOKS // CHUNK)
