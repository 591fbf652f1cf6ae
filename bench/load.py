"""The other end: many connections on raw sockets and one epoll, in plain blocking code.

No device SDK and no event loop: what is measured is the server, so this side does as little as it can.
"""

from __future__ import annotations

import select
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Final

Address = tuple[str, int]

AT_ONCE: Final = 200
"""Connections that wait for their answer side by side."""
SOURCES: Final = 8
"""Local addresses to connect from, 127.0.0.1 up: one address has ports for some 28,000 connections, and is slow long before."""
ANSWER: Final = 15.0
READ: Final = 64 * 1024
CONNACK: Final = 0x20
SUBACK: Final = 0x90


class Failed(Exception):
    """The server did not do what the measurement needs; the text says what was seen."""


class Crowd:
    """Connections to one server. Use as a context manager: it closes them."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._sockets: dict[int, socket.socket] = {}
        self._epoll = select.epoll()

    def __len__(self) -> int:
        return len(self._sockets)

    def __enter__(self) -> Crowd:
        return self

    def __exit__(self, *exc: object) -> None:
        self._epoll.close()
        for item in self._sockets.values():
            item.close()

    # --- joining ------------------------------------------------------------------------------------------------------

    def join(self, count: int, hello: Callable[[int], bytes] | None = None) -> None:
        """Connect `count` more. `hello(i)`: CONNECT and SUBSCRIBE of connection i; both must be granted, at QoS 0.

        Raises Failed, OSError.
        """
        first, last = len(self), len(self) + count
        for low in range(first, last, AT_ONCE):
            batch = [self._open(i) for i in range(low, min(last, low + AT_ONCE))]
            if hello is not None:
                for i, item in enumerate(batch, low):
                    item.sendall(hello(i))
                for item in batch:
                    _granted(item)
            for item in batch:
                item.setblocking(False)
                self._sockets[item.fileno()] = item
                # Edge-triggered: an arrival is told once, also while it is left unread.
                self._epoll.register(item.fileno(), select.EPOLLIN | select.EPOLLET)

    def _open(self, number: int) -> socket.socket:
        item = socket.socket()
        item.settimeout(ANSWER)
        item.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        item.bind((f"127.0.0.{1 + number % SOURCES}", 0))
        item.connect(self._address)
        return item

    # --- broadcasts ---------------------------------------------------------------------------------------------------

    def parked(self) -> list[float]:
        """Wait until one broadcast is at every connection, and leave it unread.

        Returns when each came: seconds from the first, ascending. Raises Failed.
        """
        return self._arrivals(lambda fd: None)

    def drain(self) -> int:
        """Read what was left; returns how many bytes each connection had. Raises Failed if they differ."""
        return _same(len(item.recv(READ)) for item in self._sockets.values())

    def live(self) -> list[float]:
        """Read one broadcast as it comes; returns as `parked()` does. Raises Failed."""
        sizes: Counter[int] = Counter()

        def read(fd: int) -> None:
            sizes[fd] += len(self._sockets[fd].recv(READ))

        times = self._arrivals(read)
        _same(sizes.values())
        return times

    def _arrivals(self, arrived: Callable[[int], None]) -> list[float]:
        deadline = time.monotonic() + ANSWER
        times: dict[int, float] = {}
        while len(times) < len(self):
            events = self._epoll.poll(max(0.0, deadline - time.monotonic()), len(self))
            now = time.monotonic()
            for fd, _ in events:
                times.setdefault(fd, now)
                arrived(fd)
            if now >= deadline:
                raise Failed(f"a broadcast reached {len(times)} of {len(self)} connections within {ANSWER:.0f} s")
        begun = min(times.values())
        return sorted(at - begun for at in times.values())


def _same(sizes: Iterable[int]) -> int:
    """The size that all have; raises Failed if they differ: then something was lost, or came twice."""
    found = set(sizes)
    if len(found) != 1:
        raise Failed(f"connections got different numbers of bytes: {sorted(found)[:5]}")
    return found.pop()


# --- just enough MQTT 5 ------------------------------------------------------------------------------------------------


def _granted(connection: socket.socket) -> None:
    """Read CONNACK and SUBACK; raises Failed if either refuses."""
    data = bytearray()
    packets: list[tuple[int, bytes]] = []
    while len(packets) < 2:
        with suppress(TimeoutError):
            got = connection.recv(READ)
            data += got
            packets = list(_packets(bytes(data)))
            if got:
                continue
        raise Failed(f"the server ended the connection or did not answer within {ANSWER:.0f} s; it had sent {bytes(data[:64])!r}")
    (first, connack), (second, suback) = packets[:2]
    if first != CONNACK or connack[1] != 0:  # flags, then the reason code (MQTT 5 §3.2.2)
        raise Failed(f"CONNECT was refused: {connack[:64]!r}")
    if second != SUBACK or suback[-1] != 0:  # the reason codes come last (MQTT 5 §3.9.3)
        raise Failed(f"SUBSCRIBE was not granted at QoS 0: {suback[:64]!r}")


def _packets(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The whole packets in `data`: (type, body)."""
    at = 0
    while at + 1 < len(data):
        kind, at = data[at] & 0xF0, at + 1
        length = shift = 0
        while at < len(data):
            byte, at = data[at], at + 1
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        else:
            return
        if at + length > len(data):
            return
        yield kind, data[at : at + length]
        at += length
