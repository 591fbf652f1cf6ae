"""What waits for an endpoint, against a list that is searched from its beginning: whatever comes, fails and is settled, the same
events are told next, in the same order."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from workers.webhooks import Waiting
from workers.webhooks.heads import Item

ROUTE = ("shop", "main")
PARTITIONS = 3

keys = st.sampled_from("abcdefg")
some = st.integers(0, 30)


class WaitingMachine(RuleBasedStateMachine):
    """The model: items in the order in which they began to wait."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting = Waiting()
        self.model: list[Item] = []
        self.now = 1.0
        self.added = 0
        self.mine = frozenset(range(PARTITIONS))

    @rule(key=keys, seen=st.booleans())
    def one_begins_to_wait(self, key: str, seen: bool) -> None:
        item = Item(f"e{self.added}", key, ord(key) % PARTITIONS, self.added, 0, seen=seen)
        self.added += 1
        self.waiting.add(ROUTE, item)
        self.model.append(item)

    @rule(which=some, seen=st.booleans())
    def one_comes_again(self, which: int, seen: bool) -> None:
        if self.model:
            known = self.model[which % len(self.model)]
            self.waiting.add(ROUTE, Item(known.id, known.key, known.partition, self.added, 0, seen=seen))
            assert known.seen or not seen

    @rule(which=some)
    def one_is_settled(self, which: int) -> None:
        if self.model:
            self.waiting.remove(ROUTE, self.model.pop(which % len(self.model)).id)

    @rule(which=some, pause=st.integers(1, 5), away=st.booleans())
    def one_fails(self, which: int, pause: int, away: bool) -> None:
        heads = list(self.heads())
        if heads:
            item = heads[which % len(heads)]
            self.waiting.put_off(ROUTE, item, self.now + pause, refused=not away, away=away)
            assert item.due == self.now + pause

    @rule(pause=st.integers(1, 3))
    def time_passes(self, pause: int) -> None:
        self.now += pause

    @rule(partitions=st.frozensets(st.integers(0, PARTITIONS - 1)))
    def partitions_move(self, partitions: frozenset[int]) -> None:
        self.mine = partitions

    @invariant()
    def the_same_are_next(self) -> None:
        for most in (1, 3, 100):
            picked, held = self.waiting.first(ROUTE, self.mine.__contains__, self.now, most)
            assert [item.id for item in picked] == [item.id for item in self.next(most)]
            if not picked:
                dues = [item.due for item in self.heads() if item.seen and item.due > self.now]
                assert held == (min(dues) - self.now if dues else 0.0)

    @invariant()
    def the_same_tries(self) -> None:
        seen = [item for item in self.heads() if item.seen]
        expected = sorted(seen, key=lambda item: (item.away, item.refused))[:1]
        assert [item.id for item in self.waiting.probe(ROUTE, self.mine.__contains__)] == [item.id for item in expected]

    @invariant()
    def the_same_wait(self) -> None:
        assert len(self.waiting) == len(self.model)
        assert list(self.waiting) == ([ROUTE] if self.model else [])
        for key in "abcdefg":
            assert self.waiting.holds(ROUTE, key) == any(item.key == key for item in self.model)
            assert all(one.number < other.number for one, other in pairwise(item for item in self.model if item.key == key))

    def heads(self) -> Iterator[Item]:
        """The first of each key, of our partitions."""
        found: set[str] = set()
        for item in self.model:
            if item.partition in self.mine and item.key not in found:
                found.add(item.key)
                yield item

    def next(self, most: int) -> list[Item]:
        """By looking at one after another."""
        picked: list[Item] = []
        held: set[str] = set()
        for item in self.model:
            if len(picked) == most or item.partition not in self.mine or item.key in held:
                continue
            if not item.seen or item.due > self.now or (item.away and picked):
                held.add(item.key)
            elif item.away:
                return [item]
            else:
                picked.append(item)
        return picked


TestWaiting = WaitingMachine.TestCase
