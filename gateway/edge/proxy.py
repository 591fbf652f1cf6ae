"""The header of the PROXY protocol, version 2: whom a balancer's connection carries. Bytes in, an address out, no I/O.

The source is "The PROXY protocol, versions 1 & 2" by Willy Tarreau, §2.2. Version 1 is refused. What follows the addresses (TLVs)
is skipped.
"""

from __future__ import annotations

from typing import Final

from infra.peers import packed

FIXED: Final = 16
"""Bytes of the part that tells how long the rest is."""
LIMIT: Final = 2 * 1024
"""Bytes of the rest, at most."""

_SIGNATURE: Final = b"\r\n\r\n\x00\r\nQUIT\n"
_LOCAL, _PROXY = 0x20, 0x21
_ADDRESSES: Final = {0x11: (12, 4), 0x21: (36, 16)}
"""TCP over IPv4 and IPv6: bytes of all addresses, bytes of the first, which is the source."""
_OTHERS: Final = frozenset({0x00, 0x12, 0x22, 0x31, 0x32})
"""Unspecified, UDP, Unix sockets: no address of a TCP client."""


class BadHeader(Exception):
    """What came is no header of version 2."""


def following(start: bytes) -> int:
    """Bytes that follow the first `FIXED`; 0 while fewer than these are here. Raises BadHeader as soon as a byte is wrong."""
    if start[: len(_SIGNATURE)] != _SIGNATURE[: len(start)]:
        raise BadHeader("no PROXY header of version 2")
    if len(start) > 12 and start[12] not in (_LOCAL, _PROXY):
        raise BadHeader(f"version and command {start[12]:#04x}")
    if len(start) > 13 and start[13] not in _OTHERS and start[13] not in _ADDRESSES:
        raise BadHeader(f"family and transport {start[13]:#04x}")
    if len(start) < FIXED:
        return 0
    size = int.from_bytes(start[14:16])
    if size > LIMIT:
        raise BadHeader(f"a header of {size} bytes, more than {LIMIT}")
    return size


def source(header: bytes) -> int | None:
    """The client (`infra.peers`) of a whole header; None where it is the connection's own peer. Raises BadHeader."""
    if len(header) != FIXED + following(header) or len(header) < FIXED:
        raise BadHeader(f"a header of {len(header)} bytes")
    if header[12] == _LOCAL or header[13] in _OTHERS:  # a health check of the balancer, or a peer that has no address for us
        return None
    needed, size = _ADDRESSES[header[13]]
    if len(header) < FIXED + needed:
        raise BadHeader("addresses that end too soon")
    return packed(header[FIXED : FIXED + size])
