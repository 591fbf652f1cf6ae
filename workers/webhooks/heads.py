"""An event that waits, and the first ones of all keys of a partition, in the orders in which they are looked for.

The orders are sorted lists, so that a look is at the beginning of one, and a change a search by halves. Where a head stands
depends on its fields: it is removed before they change, and added again.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Item:
    """One event that waits. `due`: not before then (monotonic); `refused`: how many times it was refused by itself; `away`: how
    many times the endpoint was away when it was tried by this one: then it goes alone. `seen`: read back from Kafka. Before that
    it is not told: its end would be read before its beginning. `number`: their order; `before`, `behind`: of its key."""

    id: str
    key: str
    partition: int
    offset: int
    since_ms: int
    due: float = 0.0
    refused: int = 0
    away: int = 0
    seen: bool = False
    number: int = field(default=0, compare=False)
    before: Item | None = field(default=None, compare=False, repr=False)
    behind: Item | None = field(default=None, compare=False, repr=False)


@dataclass(slots=True)
class Heads:
    """`ready`, and `alone` (those that were tried while the endpoint was away): they may be told, the oldest first; `asleep`: not
    yet, the next one first; `tried`: all of them, who failed the least often first."""

    ready: list[tuple[int, Item]] = field(default_factory=list)
    alone: list[tuple[int, Item]] = field(default_factory=list)
    asleep: list[tuple[float, int, Item]] = field(default_factory=list)
    tried: list[tuple[int, int, int, Item]] = field(default_factory=list)

    def add(self, item: Item) -> None:
        """One more."""
        insort(self.tried, (item.away, item.refused, item.number, item))
        if item.due:
            insort(self.asleep, (item.due, item.number, item))
        else:
            insort(self._awake(item), (item.number, item))

    def remove(self, item: Item) -> None:
        """One that was added."""
        _drop(self.tried, (item.away, item.refused, item.number))
        if not _drop(self.asleep, (item.due, item.number)):
            _drop(self._awake(item), (item.number,))

    def wake(self, now: float) -> None:
        """Those that are due may be told."""
        until = bisect_right(self.asleep, (now, math.inf))
        for _, number, item in self.asleep[:until]:
            insort(self._awake(item), (number, item))
        del self.asleep[:until]

    def _awake(self, item: Item) -> list[tuple[int, Item]]:
        return self.alone if item.away else self.ready


def _drop(ranks: list[Any], rank: tuple[float, ...]) -> bool:
    """Remove the one that begins so; False: there is none."""
    place = bisect_left(ranks, rank)
    if place == len(ranks) or ranks[place][: len(rank)] != rank:
        return False
    del ranks[place]
    return True
