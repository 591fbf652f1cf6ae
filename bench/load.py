"""The other end: many connections on raw sockets and one epoll, in plain blocking code.

No device SDK and no event loop: what is measured is the server, so this side does as little as it can.
"""

from __future__ import annotations

import random
import select
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

Address = tuple[str, int]

AT_ONCE: Final = 200
"""Connections that wait for their answer side by side."""
SOURCES: Final = 8
"""Local addresses to connect from, 127.0.0.1 up: one address has ports for some 28,000 connections, and is slow long before."""
ANSWER: Final = 15.0
READ: Final = 64 * 1024
CONNACK: Final = 0x20
PUBLISH: Final = 0x30
PUBACK: Final = 0x40
SUBACK: Final = 0x90
PINGRESP: Final = 0xD0
PINGREQ: Final = b"\xc0\x00"


class Failed(Exception):
    """The server did not do what the measurement needs; the text says what was seen."""


@dataclass(slots=True)
class Followed:
    """One broadcast as it came, and pings meanwhile. `arrivals`: monotonic times, ascending; `pings`: round trips, s.

    `stood_still`: the longest that this side did not run beyond what it had asked for, s: no server's doing.
    """

    arrivals: list[float] = field(default_factory=list)
    pings: list[float] = field(default_factory=list)
    stood_still: float = 0.0

    def gap(self) -> float:
        """The longest time between two arrivals, s."""
        return max((after - before for before, after in pairwise(self.arrivals)), default=0.0)


class Crowd:
    """Connections to servers, to each address in turn. Use as a context manager: it closes them."""

    def __init__(self, *addresses: Address) -> None:
        self._addresses = addresses
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

    def join(self, count: int, hello: Callable[[int], bytes] | None = None, *, qos: int = 0) -> None:
        """Connect `count` more. `hello(i)`: CONNECT and SUBSCRIBE at `qos` of connection i; both must be granted.

        Raises Failed, OSError.
        """
        first, last = len(self), len(self) + count
        for low in range(first, last, AT_ONCE):
            batch = [self._open(i) for i in range(low, min(last, low + AT_ONCE))]
            if hello is not None:
                for i, item in enumerate(batch, low):
                    item.sendall(hello(i))
                for item in batch:
                    granted(item, (CONNACK, SUBACK), qos=qos)
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
        item.connect(self._addresses[number % len(self._addresses)])
        return item

    def subscribe_again(self, packet: bytes, *, qos: int) -> None:
        """Send this SUBSCRIBE on every connection; it must be granted at `qos`. Raises Failed, OSError."""
        items = list(self._sockets.values())
        for low in range(0, len(items), AT_ONCE):
            batch = items[low : low + AT_ONCE]
            for item in batch:
                item.sendall(packet)
            for item in batch:
                item.settimeout(ANSWER)
                granted(item, (SUBACK,), qos=qos)
                item.setblocking(False)

    # --- broadcasts ---------------------------------------------------------------------------------------------------

    def parked(self, *, look_every: float = 0.0) -> list[float]:
        """Wait until one broadcast is at every connection, and leave it unread.

        Returns when each came: seconds from the first, ascending. Raises Failed. With `look_every`, s, it sleeps between two
        looks: who waits in a poll costs the writer, since each write has to wake it.
        """
        deadline = time.monotonic() + ANSWER
        times: dict[int, float] = {}
        while len(times) < len(self):
            time.sleep(look_every)
            events = self._epoll.poll(0.0 if look_every else max(0.0, deadline - time.monotonic()), len(self))
            now = time.monotonic()
            for fd, _ in events:
                times.setdefault(fd, now)
            if now >= deadline:
                raise Failed(f"a broadcast reached {len(times)} of {len(self)} connections within {ANSWER:.0f} s")
        begun = min(times.values())
        return sorted(at - begun for at in times.values())

    def drain(self) -> int:
        """Read what was left; returns how many bytes each connection had. Raises Failed if they differ."""
        return _same(len(item.recv(READ)) for item in self._sockets.values())

    def acknowledge(self) -> int:
        """Read one PUBLISH at QoS 1 that was left at each connection, and acknowledge it; returns as `drain()` does."""
        return _same(_acknowledged(item) for item in self._sockets.values())

    def follow(self, *, sample: int, ping_every: float, within: float) -> Followed:
        """Read one broadcast as it comes, and ping meanwhile, so often, one of a sample of the connections after the other.

        Raises Failed if a connection has it not within `within` seconds, or twice, or a ping is not answered.
        """
        found, pinging = Followed(), _Pinging(random.sample(list(self._sockets.values()), sample), ping_every)
        left, rests, deadline = set(self._sockets), dict[int, bytes](), time.monotonic() + within
        while left or pinging.sent:
            now = time.monotonic()
            if now > deadline:
                raise Failed(f"{len(left)} of {len(self)} connections have no broadcast, {len(pinging.sent)} no PINGRESP")
            pause = pinging.send(now) if left else ping_every
            events = self._epoll.poll(pause, len(self))
            found.stood_still = max(found.stood_still, time.monotonic() - now - pause)
            for fd, _ in events:
                data = rests.pop(fd, b"") + self._sockets[fd].recv(READ)
                now = time.monotonic()
                for kind, body in packets(data):
                    data = data[len(body) + header(data) :]
                    if kind == PINGRESP:
                        found.pings.append(now - pinging.sent.pop(fd))
                    elif kind == PUBLISH and fd in left:
                        left.remove(fd)
                        found.arrivals.append(now)
                    else:
                        raise Failed(f"a connection got an unexpected packet of type {kind:#x}, or a broadcast twice")
                if data:
                    rests[fd] = data
        return found

    # --- uplinks ------------------------------------------------------------------------------------------------------

    def publish(self, data: bytes) -> None:
        """Send these PUBLISH on every connection. Raises OSError."""
        for item in self._sockets.values():
            item.sendall(data)

    def accepted(self, acks: int, *, within: float) -> None:
        """Read so many PUBACK of success on every connection, and nothing else. Raises Failed, OSError."""
        left, rests, deadline = dict.fromkeys(self._sockets, acks), dict[int, bytes](), time.monotonic() + within
        while left:
            if time.monotonic() > deadline:
                raise Failed(f"{len(left)} of {len(self)} connections lack {sum(left.values())} PUBACK after {within:.0f} s")
            for fd, _ in self._epoll.poll(1.0, len(self)):
                got = self._sockets[fd].recv(READ)
                if not got:
                    raise Failed("a connection was ended by the room")
                missing = left.pop(fd, 0) - _accepted(rests, fd, got)
                if missing < 0:
                    raise Failed("a connection got a PUBACK too many")
                if missing:
                    left[fd] = missing


def _accepted(rests: dict[int, bytes], fd: int, got: bytes) -> int:
    """PUBACKs in what came; the rest of a packet waits for the next. Raises Failed for anything else (MQTT 5 §3.4.2.1)."""
    data, found = rests.pop(fd, b"") + got, 0
    for kind, body in packets(data):
        if kind != PUBACK or (len(body) > 2 and body[2]):
            raise Failed(f"a packet of type {kind:#x} came for an uplink: {body[:64]!r}")
        data, found = data[len(body) + header(data) :], found + 1
    if data:
        rests[fd] = data
    return found


def _same(sizes: Iterable[int]) -> int:
    """The size that all have; raises Failed if they differ: then something was lost, or came twice."""
    found = set(sizes)
    if len(found) != 1:
        raise Failed(f"connections got different numbers of bytes: {sorted(found)[:5]}")
    return found.pop()


# --- just enough MQTT 5 ------------------------------------------------------------------------------------------------


def _acknowledged(connection: socket.socket) -> int:
    """Read a PUBLISH at QoS 1, answer it with a PUBACK (MQTT 5 §3.4); returns its bytes."""
    data = connection.recv(READ)
    at = header(data)
    at += 2 + int.from_bytes(data[at : at + 2], "big")  # the topic, then the packet id (MQTT 5 §3.3.2)
    connection.sendall(b"\x40\x02" + data[at : at + 2])
    return len(data)


def header(data: bytes) -> int:
    """Bytes of the fixed header that `data` begins with."""
    size = 2
    while data[size - 1] & 0x80:
        size += 1
    return size


class _Pinging:
    """Who is pinged next. `sent`: file descriptor → when, of those that are not answered."""

    def __init__(self, sample: list[socket.socket], every: float) -> None:
        self.sent: dict[int, float] = {}
        self._sample = sample
        self._every = every
        self._turn = 0
        self._next = 0.0

    def send(self, now: float) -> float:
        """Ping the next one if it is time; returns the seconds to the next time."""
        if now >= self._next:
            item = self._sample[self._turn % len(self._sample)]
            if item.fileno() not in self.sent:
                item.sendall(PINGREQ)
                self.sent[item.fileno()] = now
            self._turn += 1
            self._next = max(self._next + self._every, now)
        return max(0.0, self._next - now)


def granted(connection: socket.socket, wanted: tuple[int, ...], *, qos: int) -> None:
    """Read CONNACK and SUBACK, or the SUBACK alone; raises Failed if either refuses."""
    data = bytearray()
    answers: list[tuple[int, bytes]] = []
    while len(answers) < len(wanted):
        with suppress(TimeoutError):
            got = connection.recv(READ)
            data += got
            answers = list(packets(bytes(data)))
            if got:
                continue
        raise Failed(f"the server ended the connection or did not answer within {ANSWER:.0f} s; it had sent {bytes(data[:64])!r}")
    for kind, (found, body) in zip(wanted, answers, strict=False):
        if found != kind or (kind == CONNACK and body[1] != 0):  # flags, then the reason code (MQTT 5 §3.2.2)
            raise Failed(f"CONNECT was refused, or something else came: type {found:#x}, {body[:64]!r}")
        if kind == SUBACK and body[-1] != qos:  # the reason codes come last (MQTT 5 §3.9.3)
            raise Failed(f"SUBSCRIBE was not granted at QoS {qos}: {body[:64]!r}")


def packets(data: bytes) -> Iterator[tuple[int, bytes]]:
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
