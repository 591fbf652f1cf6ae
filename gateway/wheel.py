"""One timer for all connections: a wheel of ticks, each with the entries that are due in it.

An entry is in at most one tick that counts (its `due_tick`); one that was moved earlier leaves a stale place behind, which is
skipped. What is moved later is not touched at all: when its tick comes, `check(now)` says when it is due really.
"""

from __future__ import annotations

import math
from typing import Final, Protocol

RESOLUTION: Final = 0.1
"""Seconds a tick. Nothing fires early; it fires up to one tick late."""

NEVER: Final = math.inf
IDLE: Final = -1


class Entry(Protocol):
    """Something with deadlines. `due_tick` belongs to the wheel; it begins as `IDLE`."""

    due_tick: int

    def check(self, now: float) -> float:
        """Do what is due; return the time of the next deadline, or `NEVER`."""


class Wheel:
    """Entries by tick. The owner calls `advance` every `RESOLUTION` seconds; times are the caller's monotonic seconds."""

    def __init__(self, now: float) -> None:
        self._ticks: dict[int, list[Entry]] = {}
        self._tick = math.ceil(now / RESOLUTION)

    def tick(self, due: float) -> int:
        """The tick of a time, at the earliest the next one: an entry whose `due_tick` is no later is looked at by then."""
        tick = math.ceil(due / RESOLUTION)
        return tick if tick > self._tick else self._tick + 1

    def at(self, entry: Entry, due: float) -> None:
        """Check `entry` at `due` at the latest; an earlier appointment stands."""
        if due == NEVER:
            return
        tick = self.tick(due)
        if IDLE != entry.due_tick <= tick:
            return
        entry.due_tick = tick
        self._ticks.setdefault(tick, []).append(entry)

    def advance(self, now: float) -> None:
        """Check every entry whose tick has come."""
        current = int(now / RESOLUTION)
        while self._tick < current:
            self._tick += 1
            for entry in self._ticks.pop(self._tick, ()):
                if entry.due_tick == self._tick:
                    entry.due_tick = IDLE
                    self.at(entry, entry.check(now))
