"""Which rooms take clients now, for whom, and how many of them: leases, labels and complaints as tables to choose from.

A look at all rooms is good for `FRESH` seconds, and a table is made when the first one asks for it, so that an answer costs no
more than a choice. There are as many tables as pools, transports and networks: configured ones, not what somebody asks for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from infra.documents import Policy
from infra.labels import IDC, NETWORKS, POOL, REGION
from infra.rooms import RoomView
from workers.center.dispatch.choice import Place, Table
from workers.center.dispatch.failures import Failures
from workers.center.ports import RoomDirectory

FRESH: Final = 0.25
OPEN: Final = "open"
FULL: Final = 0.95
"""Share of its capacity from which on a room gets nobody: leases are up to 3 s old."""
BUSY: Final = 1.25
"""So many times as full as rooms are on average, and `SLACK` more: newcomers go elsewhere first."""
SLACK: Final = 0.05


class Board:
    """Tables of places."""

    def __init__(self, rooms: RoomDirectory, failures: Failures) -> None:
        self._rooms = rooms
        self._failures = failures
        self._at = float("-inf")
        self._pools: dict[str, list[RoomView]] = {}
        self._tables: dict[tuple[str, str, str], Table] = {}
        self._labelled = False
        self._apart: dict[str, bool] = {}

    def table(self, pool: str, transport: str, network: str, now: float) -> Table:
        """For this pool ("": none), this transport ("": each room's own port), on this network."""
        if now - self._at >= FRESH:
            self._look(now)
        key = (pool, transport, network if self._is_apart(network) else "")
        found = self._tables.get(key)
        if found is None:
            found = self._tables[key] = self._make(self._pools.get(pool, []), transport, network, now)
        return found

    def open_rooms(self, pool: str) -> int:
        """Rooms of the pool that are open, full ones too."""
        return len(self._pools.get(pool, []))

    def _look(self, now: float) -> None:
        self._at = now
        self._pools, self._tables, self._apart = {}, {}, {}
        views = [view for view in self._rooms.live() if view.lease.state == OPEN]
        self._labelled = any(NETWORKS in view.entry.labels for view in views)
        for view in views:
            self._pools.setdefault(view.entry.labels.get(POOL, ""), []).append(view)

    def _is_apart(self, network: str) -> bool:
        """Are its tables others than those of a network that is not known?"""
        found = self._apart.get(network)
        if found is None:
            found = self._apart[network] = self._labelled or self._failures.any_on(network)
        return found

    def _make(self, views: Sequence[RoomView], transport: str, network: str, now: float) -> Table:
        fitting = [view for view in views if _takes(view, network)]
        found = [(view, endpoint) for view in fitting if (endpoint := view.entry.endpoint(transport)) is not None]
        addresses = [str(endpoint) for _, endpoint in found]
        fills = [_fill(view) for view, _ in found]
        limit = BUSY * sum(fills) / max(1, len(fills)) + SLACK
        usual = _usual([view.lease.capacity for view, _ in found])
        by_region: dict[str, list[Place]] = {}
        factors = self._failures.factors(network, addresses, now)
        for (view, endpoint), address, fill, factor in zip(found, addresses, fills, factors, strict=True):
            labels = view.entry.labels
            place = Place(
                view.entry.room, endpoint.host, endpoint.port, address, labels.get(IDC, ""),
                weight=(view.lease.capacity or usual) * factor, busy=fill > limit,
            )  # fmt: skip
            by_region.setdefault(labels.get(REGION, ""), []).append(place)
        return Table(by_region)


def _takes(view: RoomView, network: str) -> bool:
    """Does it let clients in, has it a place, and is it for this network?"""
    networks = view.entry.labels.get(NETWORKS)
    return view.lease.admits and _fill(view) < FULL and (networks is None or network in networks.split(","))


def _fill(view: RoomView) -> float:
    return view.lease.connections / view.lease.capacity if view.lease.capacity else 0.0


def _usual(capacities: Sequence[int]) -> float:
    """What a room counts that does not say its capacity (an older one)."""
    known = [capacity for capacity in capacities if capacity]
    return sum(known) / len(known) if known else 1.0


def heartbeat_s(policy: Policy, network: str) -> int:
    """The Keep Alive to ask for."""
    by_network: Mapping[str, int] = policy.keep_alive
    return by_network.get(network, policy.keep_alive_default)
