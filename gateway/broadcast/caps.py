"""The frequency cap: at most so many broadcasts of a product for a client in a while, whichever room it is in.

What a connection was written is noted with its bind, and only where the product has a cap; it goes to the register with the
settled jobs, and comes back with the next bind. A broadcast that comes again to who left unacknowledged is the same one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from infra.wire import Cap, JobNumber, RecentJob, SettledJob

MAX_COUNT: Final = 100
"""Broadcasts that a cap may allow: so many numbers may be kept for each client."""


class BadCap(ValueError):
    """A cap out of its bounds."""


def check(cap: Cap) -> None:
    """Raise BadCap if it allows nothing, or more than can be kept."""
    if not 1 <= cap.count <= MAX_COUNT or cap.seconds < 1:
        raise BadCap(f"a cap of {cap.count} in {cap.seconds} s: 1 to {MAX_COUNT} in a second or more can be kept")


class Recent:
    """The broadcasts of a product that a client was written, with the time of day of each, s, oldest first. `left_out`: a mask of
    the jobs that the cap has kept from this connection."""

    __slots__ = ("_at", "_seconds", "_unsaved", "left_out")

    def __init__(self, known: Iterable[RecentJob] = ()) -> None:
        """`known`: what the register has of it."""
        self._at: dict[JobNumber, int] = {}
        for partition, offset, at in sorted(known, key=lambda item: item[2]):
            self._at.setdefault((partition, offset), at)
        self._seconds = 0
        self._unsaved: set[JobNumber] = set()
        self.left_out = 0

    def allows(self, cap: Cap, number: JobNumber, now: int) -> bool:
        """May this broadcast be written now? One that was written before may."""
        if number in self._at or len(self._at) < cap.count:
            return True
        since = now - cap.seconds
        return sum(at > since for at in self._at.values()) < cap.count

    def note(self, cap: Cap, number: JobNumber, now: int) -> None:
        """It was written."""
        self._seconds = cap.seconds
        for old in [old for old, at in self._at.items() if at <= now - cap.seconds]:
            self._drop(old)
        while len(self._at) >= MAX_COUNT:
            self._drop(next(iter(self._at)))
        if number not in self._at:
            self._at[number] = now
            self._unsaved.add(number)

    def to_save(self, product: str, now: int, *, all: bool) -> list[SettledJob]:  # noqa: A002 - as in gateway/broadcast/fanout.py
        """What the register does not have yet, or with `all` everything, as far as it still counts."""
        return [
            SettledJob(product, *number, 0, at, at + self._seconds - now)
            for number, at in self._at.items()
            if (all or number in self._unsaved) and at + self._seconds > now
        ]

    def saved(self, numbers: Iterable[JobNumber]) -> None:
        """The register has these."""
        self._unsaved.difference_update(numbers)

    def _drop(self, number: JobNumber) -> None:
        del self._at[number]
        self._unsaved.discard(number)
