"""Who gets which places: weighted rendezvous hashing, pure.

Each (client, room) has a number that only the two names decide, u in (0, 1), and the rooms with the smallest -ln(u) / weight win
(Schindelhauer, Schomaker: Weighted distributed hash tables, 2005). So every center answers alike without talking to another, a
client returns to its room, a room that goes moves only its own clients, and one that loses weight only that part of them.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Collection, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Final, NamedTuple

ADDRESSES: Final = 3
"""Places that a device is told of: two in one data centre, one in another."""
DEPTH: Final = 12
"""Places that are ranked for it, beside those that failed."""
TRIES: Final = 3
"""Failures in a row after which another data centre comes first."""

_LANE: Final = 8
_LOW: Final = (1 << 32) - 1
_ODD: Final = 0x85EBCA6B
_MORE: Final = 0xC2B2AE35
_LN_TOP: Final = 32 * math.log(2)


class Place(NamedTuple):
    """Where a room takes clients. `weight` > 0: what part of them; `busy`: so full that it is for who finds no other."""

    room: str
    host: str
    port: int
    address: str
    idc: str
    weight: float = 1.0
    busy: bool = False


class Wish(NamedTuple):
    """What decides for a device beside the rooms. `last`: its last room; `failed`: addresses that did not work."""

    client: str
    region: str = ""
    last: str = ""
    attempt: int = 0
    failed: Collection[str] = ()


def hashed(name: str) -> int:
    """32 bits of a name, the same everywhere."""
    return int.from_bytes(blake2b(name.encode(), digest_size=4).digest(), "big")


_seed = lru_cache(maxsize=8192)(hashed)


class Ranking:
    """Places of equal standing. The numbers of all of them are made together: each has 64 bits of one long integer, and a product
    of two 32-bit numbers needs no more, so that one operation serves a hundred rooms."""

    __slots__ = ("_hold", "_low", "_ones", "_seeds", "places", "rooms")

    def __init__(self, places: Sequence[Place]) -> None:
        count = len(places)
        self.places = places
        self.rooms = {place.room: place for place in places}
        self._ones = int.from_bytes((1).to_bytes(_LANE, "little") * count, "little")
        self._low = self._ones * _LOW
        self._seeds = int.from_bytes(b"".join(_seed(place.room).to_bytes(_LANE, "little") for place in places), "little")
        weights = {place.weight for place in places}
        self._hold = [1 / place.weight for place in places] if len(weights) > 1 else None

    def numbers(self, client: int) -> list[int]:
        """32 bits for each place, by the finalizer of MurmurHash3."""
        low = self._low
        mixed = self._seeds ^ self._ones * client
        mixed = ((mixed ^ (mixed >> 16 & low)) * _ODD) & low
        mixed = ((mixed ^ (mixed >> 13 & low)) * _MORE) & low
        mixed ^= mixed >> 16 & low
        return list(memoryview(mixed.to_bytes(len(self.places) * _LANE, sys.byteorder)).cast("Q"))

    def best(self, client: int, count: int) -> list[Place]:
        """The `count` places of a client, best first."""
        numbers = self.numbers(client)
        if self._hold is None:
            order = sorted(_likely(numbers, count), key=numbers.__getitem__, reverse=True)
        else:
            scores = [(_LN_TOP - math.log(number + 1)) * hold for number, hold in zip(numbers, self._hold, strict=True)]
            order = sorted(range(len(scores)), key=scores.__getitem__)
        return [self.places[index] for index in order[:count]]


def _likely(numbers: Sequence[int], count: int) -> Sequence[int]:
    """Where the `count` greatest are among: those above a bound that twice as many are expected to be above, if that is so."""
    bound = int((1 - 2 * count / (len(numbers) + 1)) * _LOW)
    found = [index for index, number in enumerate(numbers) if number > bound]
    return found if len(found) >= count else range(len(numbers))


class Table:
    """Places for one kind of asker, by region. Empty: there are none."""

    __slots__ = ("_all", "_any_busy", "_by_region", "addresses")

    def __init__(self, by_region: dict[str, list[Place]]) -> None:
        """`by_region`: "" for rooms without a region."""
        self._by_region = {region: Ranking(places) for region, places in by_region.items() if region}
        self._all = Ranking([place for places in by_region.values() for place in places])
        self._any_busy = any(place.busy for place in self._all.places)
        self.addresses = frozenset(place.address for place in self._all.places)

    def __bool__(self) -> bool:
        return bool(self._all.places)

    def choose(self, wish: Wish) -> list[Place]:
        """Up to `ADDRESSES` of them, best first: the region's before others, the last room, then by rank.

        What failed is left out, unless everything did. The first ones are of one data centre, which is another one after each
        `TRIES` failures, with port numbers that differ where they can; then comes one of another data centre.
        """
        client, near = hashed(wish.client), self._by_region.get(wish.region, self._all)
        count = DEPTH + len(wish.failed)
        ranked = near.best(client, count)
        if near is not self._all and len(ranked) < count:
            ranked += [place for place in self._all.best(client, count) if place.room not in near.rooms]
        if self._any_busy:
            ranked.sort(key=_busy)
        left = [place for place in ranked if place.address not in wish.failed] if wish.failed else ranked
        chosen = _group(left or ranked, wish.attempt // TRIES)
        last = near.rooms.get(wish.last) if wish.last else None
        if last is None or last.busy or last.address in wish.failed or wish.attempt >= TRIES:
            return chosen
        return [last, *(place for place in chosen if place is not last)][:ADDRESSES]


def _busy(place: Place) -> bool:
    return place.busy


def _group(ranked: Sequence[Place], turn: int) -> list[Place]:
    """The best of a data centre, the `turn`-th of those that occur, and of another."""
    home = ranked[0].idc
    if turn:
        idcs = list(dict.fromkeys(place.idc for place in ranked))
        home = idcs[turn % len(idcs)]
    own = [place for place in ranked if place.idc == home]
    others = [place for place in ranked if place.idc != home]
    chosen: list[Place] = []
    _add(chosen, own, ADDRESSES - 1)
    _add(chosen, others, ADDRESSES)
    _add(chosen, own, ADDRESSES)
    return chosen


def _add(chosen: list[Place], among: Sequence[Place], upto: int) -> None:
    """First those with port numbers that nobody has yet: a network that blocks one seldom blocks the other."""
    ports = {place.port for place in chosen}
    for other_port in (True, False):
        for place in among:
            if len(chosen) >= upto:
                return
            if place not in chosen and not (other_port and place.port in ports):
                chosen.append(place)
                ports.add(place.port)
