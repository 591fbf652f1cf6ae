"""Addresses of peers as numbers: small to keep for every connection, quick to compare with networks."""

from __future__ import annotations

import socket
from typing import Final

MAPPED: Final = 0xFFFF << 32
"""IPv4 addresses are numbered as IPv4-mapped IPv6 addresses, ::ffff:a.b.c.d (RFC 4291 §2.5.5.2)."""
UNKNOWN: Final = 0
"""The peer of what is no IP socket."""
_V6: Final = 1 << 64


def packed(address: bytes) -> int:
    """Of 4 or 16 bytes in network order."""
    return MAPPED | int.from_bytes(address) if len(address) == 4 else int.from_bytes(address)


def number(host: str) -> int:
    """An address, as `accept` tells it, as a number of 128 bits; `UNKNOWN` for what is none."""
    try:
        return packed(socket.inet_pton(socket.AF_INET6, host.partition("%")[0]) if ":" in host else socket.inet_aton(host))
    except OSError:
        return UNKNOWN


def is_v4(peer: int) -> bool:
    """Is it an IPv4 address?"""
    return peer >> 32 == 0xFFFF


def customer(peer: int) -> int:
    """What counts as one address: an IPv4 address, or an IPv6 /64, which is what one customer has at least."""
    return peer if is_v4(peer) or peer == UNKNOWN else peer >> 64 | _V6
