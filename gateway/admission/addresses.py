"""How many sockets an address may have open, and how fast it may open them, so that nobody takes the room for himself.

An address is an IPv4 address or an IPv6 /64, which is what one customer has at least; /48s (sites) have a cap of their own. An
entry lives while a socket is open, so there are no more than sockets; what is remembered of the rate has a fixed size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from infra.buckets import ROUNDING, Buckets
from infra.documents import Policy
from infra.peers import UNKNOWN, customer, is_v4

_SITE: Final = 16
"""Bits between a /48 and a /64."""


class Addresses:
    """Open sockets by address, and a bucket of new ones for each. `policy()`: the limits as they are now."""

    __slots__ = ("_buckets", "_full", "_open", "_policy", "_sites")

    def __init__(self, policy: Callable[[], Policy]) -> None:
        self._policy = policy
        self._open: dict[int, int] = {}
        self._sites: dict[int, int] = {}
        self._buckets = Buckets()
        self._full = 0.0  # when the bucket of all is full again

    def __len__(self) -> int:
        """Entries that are kept now."""
        return len(self._open) + len(self._sites)

    def enter(self, address: int, now: float, *, counted: bool = True) -> str:
        """A socket was accepted: "" for welcome (call `leave` at its end), else the kind of limit that it is over: `address`,
        `site`, `address_rate`, `accept_rate`. One that is not `counted` has only the last."""
        policy = self._policy()
        key, site = _keys(address)
        if counted and self._open.get(key, 0) >= policy.connections_per_address:
            return "address"
        if counted and self._sites.get(site, 0) >= policy.connections_per_site:
            return "site"
        pace = policy.accepts_per_address
        if counted and not self._buckets.take(key, now, rate=pace, burst=max(1.0, pace * policy.accept_burst)):
            return "address_rate"
        full = max(now, self._full) + 1 / policy.accept_rate
        if (full - now - 1) * policy.accept_rate > ROUNDING:
            return "accept_rate"
        self._full = full
        self._open[key] = self._open.get(key, 0) + 1
        if site:
            self._sites[site] = self._sites.get(site, 0) + 1
        return ""

    def leave(self, address: int) -> None:
        """A socket that was welcome is gone."""
        key, site = _keys(address)
        _less(self._open, key)
        if site:
            _less(self._sites, site)


def _keys(address: int) -> tuple[int, int]:
    """What counts as one address, and its site, 0 where it has none."""
    key = customer(address)
    return key, 0 if is_v4(address) or address == UNKNOWN else key >> _SITE


def _less(counts: dict[int, int], key: int) -> None:
    left = counts.get(key, 0) - 1
    if left > 0:
        counts[key] = left
    else:
        counts.pop(key, None)
