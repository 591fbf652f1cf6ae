"""All sockets of a room on one epoll of its own, which the loop watches as a single descriptor (docs/adr/0013).

A transport of the loop costs 1,300 bytes a connection, and hides the descriptor; here a connection is a `Link` and a number.
"""

from __future__ import annotations

import asyncio
import os
import select
import selectors
from typing import Final, Protocol

READ: Final = 1
"""EPOLLIN, as on every system here."""
WRITE: Final = 4
"""EPOLLOUT."""
AT_ONCE: Final = 256
"""Sockets that are served in one turn of the loop: then pings of others, timers and NATS have theirs."""


class Ready(Protocol):
    """Something with a socket."""

    def ready(self, events: int) -> None:
        """It may be read, or written (`READ`, `WRITE`), or has an error: any other bit."""


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

    __slots__ = ("_loop", "_poller", "_who")

    def __init__(self, loop: asyncio.AbstractEventLoop, poller: Poller | None = None) -> None:
        self._loop = loop
        self._poller = poller if poller is not None else system_poller()
        self._who: list[Ready | None] = []
        loop.add_reader(self._poller.fileno(), self._turn)

    def add(self, fd: int, who: Ready, events: int) -> None:
        """Watch a socket of ours, which does not block."""
        while len(self._who) <= fd:
            self._who.extend([None] * 1024)
        self._who[fd] = who
        self._poller.register(fd, events)

    def watch(self, fd: int, events: int) -> None:
        """Watch it for these events from now on; 0: for errors alone."""
        self._poller.modify(fd, events)

    def close(self, fd: int) -> None:
        """Watch it no more, and close it. What was ready of it in this turn is not told any more."""
        self.release(fd)
        os.close(fd)

    def release(self, fd: int) -> None:
        """Watch it no more; somebody else will."""
        self._who[fd] = None
        self._poller.unregister(fd)

    def soon(self, who: Ready, events: int) -> None:
        """Tell it with the next turn of the loop, as if it were ready."""
        self._loop.call_soon(who.ready, events)

    def stop(self) -> None:
        """Watch nothing any more. The sockets are their owners'."""
        self._loop.remove_reader(self._poller.fileno())
        self._poller.close()

    def _turn(self) -> None:
        who = self._who
        for fd, events in self._poller.poll(0, AT_ONCE):
            owner = who[fd]
            if owner is not None:
                owner.ready(events)


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
