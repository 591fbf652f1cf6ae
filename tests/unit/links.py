"""Links on socket pairs, with a poller that is asked by hand."""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mqtt5

from gateway.edge.link import Link
from gateway.edge.sockets import Sockets
from gateway.room import Room
from infra.peers import UNKNOWN


class Turns:
    """What `Sockets` needs of a loop: `call_soon`, and a reader that is called by `turn()`."""

    def __init__(self) -> None:
        self._reader: Any = None
        self._soon: deque[tuple[Any, tuple[Any, ...]]] = deque()

    def add_reader(self, fd: int, call: Any) -> None:
        self._reader = call

    def remove_reader(self, fd: int) -> None:
        self._reader = None

    def call_soon(self, call: Any, *arguments: Any) -> None:
        self._soon.append((call, arguments))

    def turn(self) -> None:
        """What was to be called soon, and then whoever is ready."""
        for _ in range(len(self._soon)):
            call, arguments = self._soon.popleft()
            call(*arguments)
        self._reader()


@contextmanager
def linked(
    room: Room, turns: Turns | None = None, poller: Any = None, sockets: Sockets | None = None
) -> Iterator[tuple[Link, socket.socket]]:
    """A link of the room, and its peer, which blocks for a second at most."""
    sockets = sockets or Sockets(turns or Turns(), poller)  # type: ignore[arg-type]
    ours, peer = socket.socketpair()
    peer.settimeout(1)
    fd = ours.detach()
    os.set_blocking(fd, False)
    assert room.let_in(UNKNOWN)
    link = Link(room, sockets, fd, UNKNOWN)
    try:
        with peer:
            yield link, peer
    finally:
        link.abort()
        sockets.stop()


def packets(peer: socket.socket) -> list[mqtt5.Packet]:
    """What has come."""
    found, rest = [], memoryview(peer.recv(1 << 20))
    while rest:
        packet, size = mqtt5.read(rest)
        found.append(packet)
        rest = rest[size:]
    return found
