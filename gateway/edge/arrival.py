"""A connection of a balancer, until its PROXY header has told whom it carries. Then it is gone, and a link has the socket."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from gateway.edge import proxy
from gateway.edge.sockets import READ, Sockets
from gateway.edge.stages import failures
from gateway.wheel import IDLE, NEVER

if TYPE_CHECKING:
    from gateway.room import Room

STAGE = "proxy"


class Arrival:
    """Reads the header and not a byte more: what follows stays in the kernel for the link."""

    __slots__ = ("_arrivals", "_data", "_deadline", "_fd", "_peer", "_sockets", "_take", "due_tick")

    def __init__(
        self, room: Room, sockets: Sockets, fd: int, peer: int, *, arrivals: set[Arrival], take: Callable[[int, int], object]
    ) -> None:
        """`arrivals`: all of the room; `take(fd, peer)`: has the socket from then on, with the client's address."""
        self.due_tick = IDLE
        self._arrivals = arrivals
        self._sockets = sockets
        self._fd = fd
        self._peer = peer
        self._take = take
        self._data = b""
        self._deadline = room.clock() + room.settings.connect_timeout
        arrivals.add(self)
        sockets.add(fd, self, READ)
        room.wheel.at(self, self._deadline)

    def ready(self, events: int) -> None:
        """See `gateway.edge.sockets.Ready`."""
        try:
            while wanted := self._wanted():
                got = os.read(self._fd, wanted)
                if not got:
                    self.end("left")
                    return
                self._data += got
            carried = proxy.source(self._data)
        except BlockingIOError:
            return
        except OSError:
            self.end("left")
        except proxy.BadHeader:
            self.end("malformed")
        else:
            self._arrivals.discard(self)
            self._deadline = NEVER
            self._sockets.release(self._fd)
            self._take(self._fd, self._peer if carried is None else carried)

    def _wanted(self) -> int:
        """Bytes of the header that are not here."""
        following = proxy.following(self._data)
        return proxy.FIXED + following - len(self._data)

    def check(self, now: float) -> float:
        """See `gateway.wheel.Entry`."""
        if now >= self._deadline:
            self.end("timeout")
        return self._deadline

    def end(self, reason: str) -> None:
        """Close it; `reason` is the counter's."""
        failures.labels(STAGE, reason).inc()
        self._arrivals.discard(self)
        self._deadline = NEVER
        self._sockets.close(self._fd)
