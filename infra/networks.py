"""CIDR networks that are looked up often: by the prefix lengths that occur, so that many of them cost no more than a few.

Addresses are numbers of 128 bits, as `infra.peers.number` makes them. IPv4 addresses are in IPv4 networks only, whatever IPv6
networks would cover.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from typing import Generic, TypeVar

from infra.peers import MAPPED, is_v4

T = TypeVar("T")


def _place(text: str) -> tuple[int, int, int]:
    """A network's version, the bits that its prefix leaves free, and its prefix. Raises ValueError."""
    network = ipaddress.ip_network(text)
    free = network.max_prefixlen - network.prefixlen
    base = int(network.network_address)
    return network.version, free, (MAPPED | base if network.version == 4 else base) >> free


class Networks:
    """A set of CIDR networks."""

    __slots__ = ("_v4", "_v6")

    def __init__(self, networks: Iterable[str]) -> None:
        """Raises ValueError."""
        v4: dict[int, set[int]] = {}
        v6: dict[int, set[int]] = {}
        for version, free, prefix in map(_place, networks):
            (v4 if version == 4 else v6).setdefault(free, set()).add(prefix)
        self._v4 = tuple(v4.items())
        self._v6 = tuple(v6.items())

    def __contains__(self, address: int) -> bool:
        for free, prefixes in self._v4 if is_v4(address) else self._v6:  # noqa: SIM110 - for each socket: half the time of any()
            if address >> free in prefixes:
                return True
        return False

    def __bool__(self) -> bool:
        return bool(self._v4 or self._v6)


class NetworkTable(Generic[T]):
    """What holds for networks; of several that have an address, the smallest."""

    __slots__ = ("_v4", "_v6")

    def __init__(self, values: Mapping[str, T]) -> None:
        """Raises ValueError."""
        v4: dict[int, dict[int, T]] = {}
        v6: dict[int, dict[int, T]] = {}
        for text, value in values.items():
            version, free, prefix = _place(text)
            (v4 if version == 4 else v6).setdefault(free, {})[prefix] = value
        self._v4 = sorted(v4.items(), key=lambda item: item[0])
        self._v6 = sorted(v6.items(), key=lambda item: item[0])

    def get(self, address: int) -> T | None:
        """What holds for an address; None: nothing."""
        for free, values in self._v4 if is_v4(address) else self._v6:
            if (value := values.get(address >> free)) is not None:
                return value
        return None
