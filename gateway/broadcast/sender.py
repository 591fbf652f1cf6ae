"""One write to each of many sockets, of the same bytes or of its own to each: one call into C where that was built, else one
`os.write` after the other (docs/adr/0014, 0029)."""

from __future__ import annotations

import ctypes
import errno
import os
from array import array
from collections.abc import Callable, Iterable
from itertools import repeat
from typing import Final, Protocol

import structlog

from gateway.broadcast import native

DEPTH: Final = 256
"""Sockets of one call to the kernel. A walk has some 200 in a turn (gateway/broadcast/together.py)."""
AGAIN: Final = frozenset({errno.EAGAIN, errno.EWOULDBLOCK, errno.ENOBUFS, errno.EINTR})
"""The kernel takes nothing now; any other error is the end of the socket."""

log = structlog.get_logger("sender")

Short = tuple[int, int]
"""(place in the list, bytes that the kernel took, or −1 where the socket is broken)."""


class Sender(Protocol):
    """Does not block, and raises nothing."""

    name: str

    def send(self, fds: list[int], data: bytes) -> list[Short]:
        """Write to each; returns those that did not take all of it."""

    def send_each(self, fds: list[int], data: list[bytes]) -> list[Short]:
        """Write to each its own; returns those that did not take all of it."""


class Plain:
    """In Python."""

    name = "python"

    def send(self, fds: list[int], data: bytes) -> list[Short]:
        """See `Sender`."""
        return self.send_each(fds, [data] * len(fds))

    def send_each(self, fds: list[int], data: list[bytes]) -> list[Short]:
        """See `Sender`."""
        write = os.write
        short: list[Short] = []
        for place, fd in enumerate(fds):
            try:
                sent = write(fd, data[place])
            except BlockingIOError:
                sent = 0
            except OSError as error:
                sent = 0 if error.errno in AGAIN else -1
            if sent != len(data[place]):
                short.append((place, sent))
        return short


class Native:
    """In C: one `send` after the other, or a ring of io_uring, which saves the way into the kernel for all but one."""

    def __init__(self, library: ctypes.CDLL, *, ring: bool) -> None:
        """Raises OSError where a ring is wanted and the kernel gives none."""
        self._library = library
        self._ring: int | None = library.lw_open(DEPTH) if ring else None
        if ring and not self._ring:
            raise OSError("io_uring is not to be had here")
        self.name = "io_uring" if ring else "send"
        self._took = (ctypes.c_int * DEPTH)()

    def send(self, fds: list[int], data: bytes) -> list[Short]:
        """See `Sender`."""
        if len(fds) <= DEPTH:
            return self._send(fds, data, 0)
        parts = range(0, len(fds), DEPTH)
        return [short for start in parts for short in self._send(fds[start : start + DEPTH], data, start)]

    def _send(self, fds: list[int], data: bytes, first: int) -> list[Short]:
        where, took = array("i", fds), self._took
        bad = self._library.lw_send(self._ring, where.buffer_info()[0], len(where), data, len(data), ctypes.addressof(took))
        return self._short(bad, repeat(len(data), len(where)), first) if bad else []

    def send_each(self, fds: list[int], data: list[bytes]) -> list[Short]:
        """See `Sender`."""
        if len(fds) <= DEPTH:
            return self._send_each(fds, data, 0)
        parts = (slice(start, start + DEPTH) for start in range(0, len(fds), DEPTH))
        return [short for part in parts for short in self._send_each(fds[part], data[part], part.start)]

    def _send_each(self, fds: list[int], data: list[bytes], first: int) -> list[Short]:
        where, sizes, took = array("i", fds), array("I", map(len, data)), self._took
        bad = self._library.lw_send_each(
            self._ring, where.buffer_info()[0], len(where), b"".join(data), sizes.buffer_info()[0], ctypes.addressof(took)
        )
        return self._short(bad, sizes, first) if bad else []

    def _short(self, bad: int, sizes: Iterable[int], first: int) -> list[Short]:
        """Who did not take all, of a call for sockets from place `first` on."""
        if bad < 0:  # what was taken is not known of those that are not told of: they count as broken
            log.error("the ring failed, and is given up", error=errno.errorcode.get(-bad, str(bad)))
            self.close()
            self.name = "send"
        return [
            (first + place, _taken(took))
            for place, (took, size) in enumerate(zip(self._took, sizes, strict=False))
            if took != size
        ]

    def close(self) -> None:
        """Give the ring back."""
        if self._ring:
            self._library.lw_close(self._ring)
            self._ring = None


def _taken(took: int) -> int:
    if took >= 0:
        return took
    return 0 if -took in AGAIN else -1


def choose(wanted: str = "auto") -> Sender:
    """`auto`: the best of those that are here; else the one of that name. Raises OSError where it is not."""
    library = native.load() if wanted != "python" else None
    if wanted == "python" or (library is None and wanted == "auto"):
        return Plain()
    if library is None:
        raise OSError(f"room.sender is {wanted}, and the C sender was not built: python -m gateway.broadcast.native")
    tries: list[Callable[[], Sender]] = []
    if wanted in ("auto", "io_uring"):
        tries.append(lambda: Native(library, ring=True))
    if wanted in ("auto", "send"):
        tries.append(lambda: Native(library, ring=False))
    for make in tries[:-1]:
        try:
            return make()
        except OSError:
            continue
    return tries[-1]()
