"""The sockets that a room listens on: what comes is accepted, some at a time, and handed over as a descriptor."""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from collections.abc import Callable
from typing import Final

import structlog
from prometheus_client import Counter

from gateway.edge.accepting import accepting

BACKLOG: Final = 4096
AT_ONCE: Final = 64
"""Accepts in one turn of the loop: those who are connected have the next."""
PAUSE: Final = 1.0
"""Seconds without accepting where the system has no descriptor or memory left."""
RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER of a socket that is closed by a reset: the kernel keeps nothing of it either."""
EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

log = structlog.get_logger("listener")
failed = Counter("longwire_gateway_accept_failures_total", "Connections that could not be accepted", ["reason"])


def reset(fd: int) -> None:
    """Close a socket so that its peer is told at once, and nothing of it is kept."""
    with socket.socket(fileno=fd) as item:
        item.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)


class Listener:
    """One port, on every address that a host name has: IPv4, IPv6, or for the host "" all of both."""

    def __init__(self, take: Callable[[int, int], object], *, shared: bool = False, native: bool = True) -> None:
        """`take(fd, peer)`: a connection's descriptor, which does not block, and its address (`infra.peers`). `shared`:
        other processes listen on the same port, and the system deals connections out (SO_REUSEPORT). `native`: accept in C,
        where that was built."""
        self._shared = shared
        self._accepting = accepting(AT_ONCE, use_c=native)
        self._take = take
        self._sockets: list[socket.socket] = []
        self._paused: asyncio.TimerHandle | None = None
        self._resting = False
        self._loop: asyncio.AbstractEventLoop

    def start(self, host: str, port: int) -> int:
        """Listen; returns the port. Port 0: the system's choice. Raises OSError where an address is taken, or there is none."""
        self._loop = asyncio.get_running_loop()
        try:
            for address in _addresses(host, port):
                where = address if not self._sockets or port else (address[0], self.port, *address[2:])
                self._sockets.append(_listening(where, shared=self._shared))
        except OSError:
            self._close()
            raise
        self._watch()
        return self.port

    @property
    def port(self) -> int:
        """Where we listen."""
        return int(self._sockets[0].getsockname()[1])

    def stop(self) -> None:
        """Listen no more. Who waits to be accepted is accepted now: the system would reset it, also where others listen too."""
        if self._paused is not None:
            self._paused.cancel()
        elif not self._resting:
            self._unwatch()
            for item in self._sockets:
                self._accept_waiting(item, BACKLOG)
        self._close()

    def rest(self, rest: bool) -> None:
        """Accept nobody while it rests: who connects waits in the kernel, and costs this process nothing."""
        if rest == self._resting:
            return
        self._resting = rest
        if self._paused is None:
            (self._unwatch if rest else self._watch)()

    def _close(self) -> None:
        for item in self._sockets:
            item.close()
        self._sockets.clear()

    def _watch(self) -> None:
        self._paused = None
        if self._resting:
            return
        for item in self._sockets:
            self._loop.add_reader(item.fileno(), self._accept, item)

    def _unwatch(self) -> None:
        for item in self._sockets:
            self._loop.remove_reader(item.fileno())

    def _accept(self, listening: socket.socket) -> None:
        if not self._accept_waiting(listening, AT_ONCE):
            log.error("nobody can be accepted for a while")
            self._unwatch()
            self._paused = self._loop.call_later(PAUSE, self._watch)

    def _accept_waiting(self, listening: socket.socket, most: int) -> bool:
        """Accept up to `most`; False if the system has no place for any. All of them are ours already: what goes wrong with one
        is logged, and the others are handed over."""
        while most > 0:
            wanted = min(most, AT_ONCE)
            accepted, error = self._accepting(listening, wanted)
            for fd, peer in accepted:
                try:
                    self._take(fd, peer)
                except Exception:
                    log.exception("connection not taken")
            if error:  # of one connection alone, or the system has no place for any
                failed.labels(errno.errorcode.get(error, "unknown")).inc()
                if error in EXHAUSTED:
                    return False
            elif len(accepted) < wanted:
                return True
            most -= len(accepted) + (1 if error else 0)
        return True


def _addresses(host: str, port: int) -> list[tuple[str, int] | tuple[str, int, int, int]]:
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return list(dict.fromkeys(address for *_, address in found))  # type: ignore[misc]


def _listening(address: tuple[str, int] | tuple[str, int, int, int], *, shared: bool) -> socket.socket:
    made = socket.socket(socket.AF_INET6 if len(address) == 4 else socket.AF_INET)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # who is accepted inherits it
        if made.family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.setblocking(False)
        made.bind(address)
        made.listen(BACKLOG)
    except OSError as error:
        made.close()
        raise OSError(error.errno, f"{address[0]}:{address[1]}: {error.strerror}") from error
    return made
