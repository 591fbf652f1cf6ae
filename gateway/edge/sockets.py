"""All sockets of a room on one epoll of its own, which the loop watches as a single descriptor (docs/adr/0013).

A transport of the loop costs 1,300 bytes a connection, and hides the descriptor; here a connection is a `Link` and a number.
"""

from __future__ import annotations

import asyncio
import os
import select
import selectors
from array import array
from collections.abc import Callable
from typing import Final, Protocol, cast

import structlog

from gateway.edge.reading import Reading, reading

READ: Final = 1
"""EPOLLIN, as on every system here."""
WRITE: Final = 4
"""EPOLLOUT."""
AT_ONCE: Final = 256
"""Sockets that are served in one turn of the loop: then pings of others, timers and NATS have theirs."""
MANY: Final = 8
"""With so many in a turn the next one reads in C: for a few, the call costs more than it saves."""

log = structlog.get_logger("sockets")


class Ready(Protocol):
    """Something with a socket."""

    def ready(self, events: int) -> None:
        """It may be read, or written (`READ`, `WRITE`), or has an error: any other bit."""


class Reads(Ready, Protocol):
    """One whose socket may be read in a turn, for it (`Sockets.let_read`)."""

    def acked(self, packet_id: int) -> None:
        """It has sent a PUBACK that says success, in its short form, and nothing else."""

    def came(self, data: bytes) -> None:
        """It has sent these bytes; empty: it has closed its side."""


class Poller(Protocol):
    """What is used of `select.epoll`."""

    def fileno(self) -> int:
        """A descriptor that is readable while something is ready."""

    def register(self, fd: int, events: int, /) -> None:
        """Watch a socket, for errors in any case."""

    def modify(self, fd: int, events: int, /) -> None:
        """Watch it for something else."""

    def unregister(self, fd: int, /) -> None:
        """Watch it no more."""

    def poll(self, timeout: float, maxevents: int, /) -> list[tuple[int, int]]:
        """(descriptor, events) of what is ready."""

    def close(self) -> None:
        """Over."""


class Sockets:
    """Who is to be told when a descriptor is ready. At most `AT_ONCE` in a turn of the loop; the others have the next one."""

    __slots__ = ("_ahead", "_loop", "_many", "_may", "_poller", "_reading", "_reads", "_who")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        poller: Poller | None = None,
        *,
        native: bool = True,
        many: int = MANY,
        ahead: Callable[[list[Ready | None]], None] | None = None,
    ) -> None:
        """`native`: read in C, where that was built; never with a `poller` of the caller's. After a turn with `many` it does.
        `ahead`: called with those whose acknowledgements are told next, where they are many."""
        self._loop = loop
        self._ahead = ahead
        self._reading: Reading | None = None
        if poller is None:
            poller = system_poller()
            if native:
                self._reading = reading(poller.fileno(), AT_ONCE)
        self._poller = poller
        self._many = many
        self._reads = not many  # the next turn
        self._who: list[Ready | None] = []
        self._may = array("B")
        loop.add_reader(self._poller.fileno(), self._turn)

    @property
    def native(self) -> bool:
        """Is it read in C?"""
        return self._reading is not None

    def add(self, fd: int, who: Ready, events: int) -> None:
        """Watch a socket of ours, which does not block."""
        while len(self._who) <= fd:
            self._who.extend([None] * 1024)
            self._may.extend([0] * 1024)
        self._who[fd] = who
        self._poller.register(fd, events)

    def watch(self, fd: int, events: int) -> None:
        """Watch it for these events from now on; 0: for errors alone."""
        self._poller.modify(fd, events)

    def let_read(self, fd: int, *, may: bool) -> None:
        """May its bytes be read in a turn, and told by `Reads`? At first they may not: then it is told that it is ready."""
        self._may[fd] = may

    def close(self, fd: int) -> None:
        """Watch it no more, and close it. What was ready of it in this turn is not told any more."""
        self.release(fd)
        os.close(fd)

    def release(self, fd: int) -> None:
        """Watch it no more; somebody else will."""
        self._who[fd] = None
        self._may[fd] = 0
        self._poller.unregister(fd)

    def soon(self, who: Ready, events: int) -> None:
        """Tell it with the next turn of the loop, as if it were ready."""
        self._loop.call_soon(who.ready, events)

    def stop(self) -> None:
        """Watch nothing any more. The sockets are their owners'."""
        self._loop.remove_reader(self._poller.fileno())
        self._poller.close()

    def _turn(self) -> None:
        if self._reads and self._reading is not None:
            self._reads = self._read(self._reading) >= self._many
            return
        who = self._who
        ready = self._poller.poll(0, AT_ONCE)
        self._reads = len(ready) >= self._many
        for fd, events in ready:
            owner = who[fd]
            if owner is not None:
                owner.ready(events)

    def _read(self, reading: Reading) -> int:
        """A turn that reads; returns how many were ready. Whose the bytes are is found before anybody is told: an owner may close
        another's socket, and the next that comes have its descriptor. What one raises is ours to log: nobody tells the others of
        their bytes again."""
        who = self._who
        count, acks, others = reading.turn(self._may)
        owners = [who[ack >> 16] for ack in acks]
        rest = [who[fd] for fd, _, _ in others]
        if self._ahead is not None and len(owners) >= MANY:
            self._ahead(owners)
        for owner, ack in zip(owners, acks, strict=True):
            if owner is not None:
                try:
                    cast("Reads", owner).acked(ack & 0xFFFF)
                except Exception:
                    log.exception("acknowledgement not taken")
        for owner, (fd, events, data) in zip(rest, others, strict=True):
            if owner is None:
                continue
            try:
                if data is not None:
                    cast("Reads", owner).came(data)
                elif who[fd] is owner:
                    owner.ready(events)
            except Exception:
                log.exception("bytes not taken")
        return count


class Portable:
    """`Poller` where there is no epoll: the same words on what the system has (kqueue)."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._watched: dict[int, int] = {}

    def fileno(self) -> int:
        """See `Poller`."""
        return int(self._selector.fileno())

    def register(self, fd: int, events: int, /) -> None:
        """See `Poller`."""
        self._watched[fd] = events
        if wanted := _selector_events(events):
            self._selector.register(fd, wanted)

    def modify(self, fd: int, events: int, /) -> None:
        """See `Poller`."""
        self.unregister(fd)
        self.register(fd, events)

    def unregister(self, fd: int, /) -> None:
        """See `Poller`."""
        if _selector_events(self._watched.pop(fd)):
            self._selector.unregister(fd)

    def poll(self, timeout: float, maxevents: int, /) -> list[tuple[int, int]]:
        """See `Poller`. What is not told now is told the next time."""
        return [(key.fd, _events(got)) for key, got in self._selector.select(timeout)[:maxevents]]

    def close(self) -> None:
        """See `Poller`."""
        self._selector.close()


def _selector_events(events: int) -> int:
    return (selectors.EVENT_READ if events & READ else 0) | (selectors.EVENT_WRITE if events & WRITE else 0)


def _events(got: int) -> int:
    return (READ if got & selectors.EVENT_READ else 0) | (WRITE if got & selectors.EVENT_WRITE else 0)


def system_poller() -> Poller:
    """epoll where there is one."""
    return select.epoll() if hasattr(select, "epoll") else Portable()
