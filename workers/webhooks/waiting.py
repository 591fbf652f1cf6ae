"""Which events wait for which endpoint, as `push.retries` tells it: an index, the records stay in Kafka.

Within one key they are in the order in which they began to wait.
"""

from __future__ import annotations

from collections import Counter as Counts
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

MAX_WAITING: Final = 100_000
"""Events that wait for one endpoint; further ones are dead letters."""
MAX_ALL: Final = 500_000
SCANNED: Final = 5_000
"""Events looked at for one request: those of a key that is held back are passed over."""

Route = tuple[str, str]
"""A product and the name of its endpoint."""


@dataclass(slots=True)
class Item:
    """One event that waits. `due`: not before then (monotonic); `refused`: how many times it was refused by itself; `away`: how
    many times the endpoint was away when it was tried by this one: then it goes alone. `seen`: read back from Kafka. Before that
    it is not told: its end would be read before its beginning."""

    id: str
    key: str
    partition: int
    offset: int
    since_ms: int
    due: float = 0.0
    refused: int = 0
    away: int = 0
    seen: bool = False


@dataclass(slots=True)
class _Line:
    items: dict[str, Item] = field(default_factory=dict)
    keys: Counts[str] = field(default_factory=Counts)


class Waiting:
    """All that wait, of all endpoints."""

    def __init__(self) -> None:
        self._lines: dict[Route, _Line] = {}
        self._read: dict[int, int] = {}
        self._all = 0

    def __len__(self) -> int:
        return self._all

    def __iter__(self) -> Iterator[Route]:
        return iter(list(self._lines))

    def read_to(self, partition: int, offset: int) -> None:
        """What lies below has been read back from Kafka."""
        self._read[partition] = offset

    def add(self, route: Route, item: Item) -> None:
        """One begins to wait. A repeat keeps its place, and is read where it lies now. One that was read back before its
        acknowledgement came is here already, or settled: its end won't be read again."""
        if not item.seen and item.offset < self._read.get(item.partition, 0):
            return
        line = self._lines.setdefault(route, _Line())
        known = line.items.get(item.id)
        if known is not None:
            known.offset, known.seen = max(known.offset, item.offset), known.seen or item.seen
            return
        line.items[item.id] = item
        line.keys[item.key] += 1
        self._all += 1

    def remove(self, route: Route, event: str) -> None:
        """It waits no longer."""
        line = self._lines.get(route)
        item = line.items.pop(event, None) if line is not None else None
        if line is None or item is None:
            return
        self._all -= 1
        line.keys[item.key] -= 1
        if not line.keys[item.key]:
            del line.keys[item.key]
        if not line.items:
            del self._lines[route]

    def holds(self, route: Route, key: str) -> bool:
        """Does anything of this key wait?"""
        line = self._lines.get(route)
        return line is not None and key in line.keys

    def room(self, route: Route) -> int:
        """How many more may wait for this endpoint."""
        line = self._lines.get(route)
        return max(0, min(MAX_WAITING - (len(line.items) if line else 0), MAX_ALL - self._all))

    def first(self, route: Route, mine: Callable[[int], bool], now: float, most: int) -> tuple[list[Item], float]:
        """The next that may be told, of partitions that are `mine`; and in how many seconds another is due (0: none is)."""
        line = self._lines.get(route)
        picked: list[Item] = []
        held: set[str] = set()
        soonest = 0.0
        for number, item in enumerate(line.items.values() if line else ()):
            if len(picked) == most or number == SCANNED:
                break
            if item.key in held or not mine(item.partition):
                continue
            if not item.seen:
                held.add(item.key)
            elif item.due > now:
                held.add(item.key)
                soonest = min(soonest or item.due, item.due)
            elif item.away and picked:
                held.add(item.key)
            elif item.away:
                picked.append(item)
                break
            else:
                picked.append(item)
        return picked, soonest - now if soonest else 0.0

    def probe(self, route: Route, mine: Callable[[int], bool]) -> list[Item]:
        """The one by which an endpoint that is away is tried, none if none may be told: it may be away because of one of them,
        so it is the first of the key that failed the least often."""
        line = self._lines.get(route)
        heads: dict[str, Item] = {}
        for item in islice(line.items.values() if line else (), SCANNED):
            if mine(item.partition):
                heads.setdefault(item.key, item)
        return sorted((item for item in heads.values() if item.seen), key=lambda item: (item.away, item.refused))[:1]
