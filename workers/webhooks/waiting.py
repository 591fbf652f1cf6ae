"""Which events wait for which endpoint, as `push.retries` tells it: an index, the records stay in Kafka.

Within one key they are in the order in which they began to wait, and only the first of a key may be told (`heads`): whoever looks
for what may be told sees none that may not, however many wait.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from heapq import heappop, heappush, merge
from itertools import count, islice
from typing import Final

from workers.webhooks.heads import Heads, Item

MAX_WAITING: Final = 100_000
"""Events that wait for one endpoint; further ones are dead letters."""
MAX_ALL: Final = 500_000

Route = tuple[str, str]
"""A product and the name of its endpoint."""


@dataclass(slots=True)
class _Line:
    """What waits for one endpoint: by id, the last of each key, and the heads by partition."""

    items: dict[str, Item] = field(default_factory=dict)
    last: dict[str, Item] = field(default_factory=dict)
    heads: dict[int, Heads] = field(default_factory=dict)

    def append(self, item: Item) -> None:
        """Behind those of its key."""
        item.before = self.last.get(item.key)
        if item.before is not None:
            item.before.behind = item
        self.items[item.id] = self.last[item.key] = item
        self.file(item)

    def file(self, item: Item) -> None:
        """Among the heads, if it is one that may be told."""
        if item.before is None and item.seen:
            self.heads.setdefault(item.partition, Heads()).add(item)

    def unfile(self, item: Item) -> None:
        """From among them."""
        if item.before is None and item.seen:
            self.heads[item.partition].remove(item)

    def cut(self, item: Item) -> None:
        """The next of its key is at its place."""
        self.unfile(item)
        del self.items[item.id]
        before, behind = item.before, item.behind
        item.before = item.behind = None
        if before is not None:
            before.behind = behind
        if behind is not None:
            behind.before = before
            self.file(behind)
        elif before is not None:
            self.last[item.key] = before
        else:
            del self.last[item.key]

    def owned(self, mine: Callable[[int], bool]) -> list[Heads]:
        """The heads of these partitions."""
        return [heads for partition, heads in self.heads.items() if mine(partition)]


class Waiting:
    """All that wait, of all endpoints."""

    def __init__(self) -> None:
        self._lines: dict[Route, _Line] = {}
        self._read: dict[int, int] = {}
        self._numbers = count(1)
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
        if known is None:
            item.number = next(self._numbers)
            line.append(item)
            self._all += 1
            return
        known.offset = max(known.offset, item.offset)
        if item.seen and not known.seen:
            known.seen = True
            line.file(known)

    def remove(self, route: Route, event: str) -> None:
        """It waits no longer."""
        line = self._lines.get(route)
        item = line.items.get(event) if line is not None else None
        if line is None or item is None:
            return
        line.cut(item)
        self._all -= 1
        if not line.items:
            del self._lines[route]

    def put_off(self, route: Route, item: Item, due: float, *, refused: int = 0, away: int = 0) -> None:
        """It failed (so many more times), and is not told before then."""
        line = self._lines.get(route)
        if line is None or line.items.get(item.id) is not item:
            return  # settled meanwhile, by another process
        line.unfile(item)
        item.due, item.refused, item.away = due, item.refused + refused, item.away + away
        line.file(item)

    def holds(self, route: Route, key: str) -> bool:
        """Does anything of this key wait?"""
        line = self._lines.get(route)
        return line is not None and key in line.last

    def room(self, route: Route) -> int:
        """How many more may wait for this endpoint."""
        line = self._lines.get(route)
        return max(0, min(MAX_WAITING - (len(line.items) if line else 0), MAX_ALL - self._all))

    def first(self, route: Route, mine: Callable[[int], bool], now: float, most: int) -> tuple[list[Item], float]:
        """The next that may be told, of partitions that are `mine`, the oldest first; and in how many seconds another is due (0:
        none is). Of one key several may go together; one whose endpoint was away when it was tried goes alone."""
        line = self._lines.get(route)
        owned = line.owned(mine) if line is not None else []
        for heads in owned:
            heads.wake(now)
        alone = min((heads.alone[0] for heads in owned if heads.alone), default=None)
        coming = list(islice(merge(*(heads.ready for heads in owned)), most))
        if alone is not None and (not coming or alone < coming[0]):
            return [alone[1]], 0.0
        picked: list[Item] = []
        while coming and len(picked) < most:
            item = heappop(coming)[1]
            picked.append(item)
            behind = item.behind
            if behind is not None and behind.seen and behind.due <= now and not behind.away and mine(behind.partition):
                heappush(coming, (behind.number, behind))
        return picked, min((heads.asleep[0][0] - now for heads in owned if heads.asleep), default=0.0)

    def probe(self, route: Route, mine: Callable[[int], bool]) -> list[Item]:
        """The one by which an endpoint that is away is tried, none if none may be told: it may be away because of one of them,
        so it is the first of the key that failed the least often."""
        line = self._lines.get(route)
        owned = line.owned(mine) if line is not None else []
        found = min((heads.tried[0] for heads in owned if heads.tried), default=None)
        return [found[3]] if found is not None else []
