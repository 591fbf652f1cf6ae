"""Who asks: its address, which a listed proxy may say, its region, and how often it may ask."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from starlette.types import Scope

from infra.buckets import Buckets
from infra.documents import Access, Policy
from infra.networks import Networks
from infra.peers import UNKNOWN, customer, number
from workers.center.dispatch.regions import Regions

KNOWN: Final = 8_192
"""Addresses whose region is remembered."""
REMEMBERED: Final = 60.0
"""Seconds for which it is; then a new MaxMind file is looked for, too."""
MAX_HOPS: Final = 16
"""Entries of X-Forwarded-For that are read, from its end."""


class Asker(NamedTuple):
    """`customer`: what counts as one address (`infra.peers`); `counted`: has it a limit of its own?"""

    customer: int
    region: str
    counted: bool


class Askers:
    """`policy()`, `access()`: as they are now. `balancers`: CIDRs of proxies whose X-Forwarded-For is believed."""

    def __init__(
        self, policy: Callable[[], Policy], access: Callable[[], Access], *, balancers: Iterable[str] = (), regions: Regions
    ) -> None:
        self._policy = policy
        self._access = access
        self._balancers = Networks(balancers)
        self._regions = regions
        self._buckets = Buckets()
        self._known: dict[str, Asker] = {}
        self._until = float("-inf")
        self._lists: Access | None = None
        self._uncounted = Networks(())

    def of(self, scope: Scope, now: float) -> Asker:
        """Who sent this request."""
        self._refresh(now)
        client = scope.get("client")
        peer = client[0] if client else ""
        found = self._asker(peer)
        if not self._balancers or number(peer) not in self._balancers:
            return found
        return self._asker(self._forwarded(scope, peer))

    def may_ask(self, asker: Asker, now: float) -> bool:
        """Is it within its limit? Then this counts."""
        policy = self._policy()
        rate = policy.dispatch_per_address
        return not asker.counted or self._buckets.take(asker.customer, now, rate=rate, burst=rate * policy.accept_burst)

    def _asker(self, host: str) -> Asker:
        found = self._known.get(host)
        if found is None:
            if len(self._known) >= KNOWN:
                self._known.clear()
            address = number(host)
            counted = address != UNKNOWN and address not in self._uncounted
            found = self._known[host] = Asker(customer(address), self._regions.of(address), counted)
        return found

    def _forwarded(self, scope: Scope, peer: str) -> str:
        """The last entry that is no balancer's, as each appends whom it got it from; the peer if there is none to believe."""
        values = [value for name, value in scope["headers"] if name == b"x-forwarded-for"]
        for entry in reversed(b",".join(values).decode("latin-1").split(",")[-MAX_HOPS:]):
            host = _host(entry.strip())
            address = number(host)
            if address == UNKNOWN:
                return peer
            if address not in self._balancers:
                return host
        return peer

    def _refresh(self, now: float) -> None:
        access = self._access()
        if access is not self._lists:
            self._lists, self._uncounted = access, Networks(access.uncounted)
            self._known.clear()
        if now >= self._until:
            self._until = now + REMEMBERED
            self._known.clear()
            self._regions.refresh()


def _host(entry: str) -> str:
    """Without the port that some proxies add: `192.0.2.1:5000`, `[2001:db8::1]:5000`."""
    if entry.startswith("["):
        return entry[1:].partition("]")[0]
    return entry.partition(":")[0] if entry.count(":") == 1 else entry
