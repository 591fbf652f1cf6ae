"""Who waits at a listening socket: some at a time, by one call into C where that was built (docs/adr/0030), else one by one."""

from __future__ import annotations

import ctypes
import os
import socket
import struct
from collections.abc import Callable
from typing import Final

from gateway.edge import native
from infra.peers import number

Accepted = tuple[list[tuple[int, int]], int]
"""(descriptor, which does not block, and address (`infra.peers`) of each; errno of what stopped it, 0 where nobody waits or there
are as many as were asked for)."""
Accept = Callable[[socket.socket, int], Accepted]
"""Accept from a socket that listens, so many at most."""

_EACH: Final = struct.Struct("=i16s")


class Accepting:
    """Accepts in C, up to `most` in a call."""

    def __init__(self, library: ctypes.CDLL, most: int) -> None:
        self._accept = library.lw_accept
        self._data = bytearray(_EACH.size * most)
        self._buffer = (ctypes.c_char * len(self._data)).from_buffer(self._data)
        self._error = ctypes.c_int()
        self._told = ctypes.byref(self._error)

    def accept(self, listening: socket.socket, most: int) -> Accepted:
        """See `Accept`; `most` is no more than was said."""
        count = self._accept(listening.fileno(), most, self._buffer, self._told)
        rows = memoryview(self._data)[: count * _EACH.size]
        return [(fd, int.from_bytes(address)) for fd, address in _EACH.iter_unpack(rows)], self._error.value


def accept(listening: socket.socket, most: int) -> Accepted:
    """See `Accept`."""
    found: list[tuple[int, int]] = []
    while len(found) < most:
        try:
            accepted, address = listening.accept()
        except BlockingIOError:
            break
        except OSError as error:
            return found, error.errno or 0
        fd = accepted.detach()
        os.set_blocking(fd, False)
        found.append((fd, number(address[0])))
    return found, 0


def accepting(most: int, *, use_c: bool) -> Accept:
    """What accepts up to `most` at a time: in C, where that was built and is wanted."""
    library = native.load() if use_c else None
    return accept if library is None else Accepting(library, most).accept
