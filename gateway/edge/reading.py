"""Who is ready and what they have sent, by one call into C where that was built (docs/adr/0030)."""

from __future__ import annotations

import ctypes
import errno
from array import array
from typing import Final

from gateway.edge import native

CHUNK: Final = 4 * 1024
"""Bytes of one read, at most."""
BUFFER: Final = 16 * CHUNK
"""Bytes of all reads of a turn that are no acknowledgements. Who finds no room there reads for itself."""
UNREAD: Final = -(1 << 31)
BROKEN: Final = 8
"""EPOLLERR."""

Came = tuple[int, int, bytes | None]
"""(descriptor, events, what it has sent): empty bytes where the peer closed its side, None where nothing was read."""


class Reading:
    """One turn of an epoll at a time."""

    def __init__(self, library: ctypes.CDLL, poller: int, most: int) -> None:
        """`poller`: the epoll's descriptor; `most`: sockets of a turn."""
        self._library = library
        self._poller = poller
        self._most = most
        self._data = bytearray(BUFFER)
        self._buffer = (ctypes.c_char * BUFFER).from_buffer(self._data)
        self._acks = (ctypes.c_uint64 * most)()
        self._others = (ctypes.c_int * (3 * most))()
        self._counts = (ctypes.c_int * 2)()

    def turn(self, may: array[int]) -> tuple[int, list[int], list[Came]]:
        """Read once from each that is ready and may be read (a byte for each descriptor). Returns how many were ready; of those
        who sent one acknowledgement of four bytes and nothing else, descriptor << 16 | packet id; and what all others sent.
        Raises OSError."""
        address, known = may.buffer_info()
        count = self._library.lw_turn(
            self._poller, self._most, address, known, self._buffer, BUFFER, CHUNK, self._acks, self._others, self._counts
        )
        if count < 0:
            raise OSError(-count, errno.errorcode.get(-count, "epoll failed"))
        acks, others = self._counts
        return count, self._acks[:acks], self._rest(others) if others else []

    def _rest(self, count: int) -> list[Came]:
        found: list[Came] = []
        at, flat = 0, self._others[: 3 * count]
        for fd, events, size in zip(flat[::3], flat[1::3], flat[2::3], strict=True):
            if size >= 0:
                found.append((fd, events, bytes(self._data[at : at + size])))
                at += size
            else:
                found.append((fd, events if size == UNREAD else BROKEN, None))
        return found


def reading(poller: int, most: int) -> Reading | None:
    """For this epoll, where the library was built."""
    library = native.load()
    return None if library is None else Reading(library, poller, most)
