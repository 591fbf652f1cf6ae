"""Addresses of peers as numbers: small to keep for every connection, quick to compare with networks."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network
from typing import Final

MAPPED: Final = 0xFFFF << 32
"""IPv4 addresses are numbered as IPv4-mapped IPv6 addresses, ::ffff:a.b.c.d (RFC 4291 §2.5.5.2)."""
UNKNOWN: Final = 0
"""The peer of what is no IP socket."""


def packed(address: bytes) -> int:
    """Of 4 or 16 bytes in network order."""
    return MAPPED | int.from_bytes(address) if len(address) == 4 else int.from_bytes(address)


def number(host: str) -> int:
    """An address, as `accept` tells it, as a number of 128 bits; `UNKNOWN` for what is none."""
    try:
        return packed(socket.inet_pton(socket.AF_INET6, host.partition("%")[0]) if ":" in host else socket.inet_aton(host))
    except OSError:
        return UNKNOWN


class Networks:
    """Some networks, of both versions."""

    def __init__(self, networks: Iterable[IPv4Network | IPv6Network]) -> None:
        self._parts = [(packed(item.network_address.packed), item.max_prefixlen - item.prefixlen) for item in networks]

    def __contains__(self, peer: int) -> bool:
        return any((peer ^ base) >> free == 0 for base, free in self._parts)
