"""What devices say did not work for them: an address that many complain of on one network gets less of its newcomers for a while.

Nobody can empty a room: of an address (an IPv6 /64) one complaint a minute counts, a few complaints change nothing, nor do
those that others get as well, and a weight falls to a quarter at most. Complaints are forgotten within two minutes.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Final

WINDOW: Final = 60.0
"""Seconds in which one who complains counts once."""
ENOUGH: Final = 5
"""Complaints up to which an address keeps its weight."""
FLOOR: Final = 0.25
MAX_TRACKED: Final = 4096
"""Addresses with complaints, by network; further ones are not counted."""
_PLACES: Final = 512
"""Who complains is counted by a bit of so many: two that share one are one. 128 bytes an address."""


class _Complaints:
    """Of one address on one network: of the window that runs, and of the one before."""

    __slots__ = ("before", "began", "now")

    def __init__(self, began: float) -> None:
        self.began = began
        self.now = 0
        self.before = 0

    def turn(self, now: float) -> None:
        """Begin another window where this one is over."""
        passed = now - self.began
        if passed >= WINDOW:
            self.before, self.now = self.now if passed < 2 * WINDOW else 0, 0
            self.began = now - passed % WINDOW

    def count(self, now: float) -> float:
        """How many complain: the window before fades out as this one passes."""
        self.turn(now)
        return self.now.bit_count() + self.before.bit_count() * (1 - (now - self.began) / WINDOW)


class Failures:
    """Complaints by (network, address)."""

    def __init__(self) -> None:
        self._complaints: dict[tuple[str, str], _Complaints] = {}
        self._forget_at = 0.0
        self._key = secrets.randbits(64)  # nobody outside can choose whose bit he shares

    def __len__(self) -> int:
        return len(self._complaints)

    def report(self, network: str, address: str, customer: int, now: float) -> None:
        """It did not work for this customer (`infra.peers.customer`), s."""
        found = self._complaints.get((network, address))
        if found is None:
            self._forget(now)
            if len(self._complaints) >= MAX_TRACKED:
                return
            found = self._complaints[network, address] = _Complaints(now)
        found.turn(now)
        found.now |= 1 << hash((self._key, customer)) % _PLACES

    def any_on(self, network: str) -> bool:
        """May there be complaints of this network?"""
        return any(item[0] == network for item in self._complaints)

    def factors(self, network: str, addresses: Sequence[str], now: float) -> list[float]:
        """What to multiply the weight of each with, `FLOOR` to 1."""
        if not self._complaints:
            return [1.0] * len(addresses)
        counts = [self._count(network, address, now) for address in addresses]
        total, others = sum(counts), max(1, len(counts) - 1)
        return [max(FLOOR, min(1.0, max(ENOUGH, 2 * (total - own) / others) / max(own, 1.0))) for own in counts]

    def _count(self, network: str, address: str, now: float) -> float:
        found = self._complaints.get((network, address))
        return 0.0 if found is None else found.count(now)

    def _forget(self, now: float) -> None:
        """Drop what has faded out, where there is no place, and not all the time."""
        if len(self._complaints) < MAX_TRACKED or now < self._forget_at:
            return
        self._forget_at = now + WINDOW / 4
        self._complaints = {key: item for key, item in self._complaints.items() if item.count(now) > 0}
