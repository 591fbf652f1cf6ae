"""The load client in Python, where there is no C compiler: the orders and answers of `bench/clients.py`, on one thread.

It is slower than what it measures where it has to read while the server writes; `native_client` in the results says so.
"""

from __future__ import annotations

import fcntl
import json
import select
import socket
import struct
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, Final

from bench.load import (
    ANSWER,
    CONNACK,
    PINGREQ,
    PINGRESP,
    PUBLISH,
    READ,
    SOURCES,
    SUBACK,
    Failed,
    granted,
    header,
    packets,
)
from bench.process import raise_descriptor_limit

LOOK: Final = 0.002
STILL: Final = 3
PONG: Final = b"PONG\r\n"

Answer = dict[str, Any]


class Connection:
    """One connection; `rest` is what came of a packet that is not whole, `pinged` when a PINGREQ left that has no answer."""

    __slots__ = ("pinged", "rest", "size", "socket")

    def __init__(self, opened: socket.socket) -> None:
        self.socket = opened
        self.rest = b""
        self.size = 0
        self.pinged = 0.0

    def unread(self) -> int:
        """Bytes that wait."""
        found: int = struct.unpack("i", fcntl.ioctl(self.socket, termios.FIONREAD, b"\0" * 4))[0]
        return found

    def read(self) -> bytes:
        """What waits. Raises Failed if the server ended the connection."""
        with suppress(BlockingIOError):
            data = self.socket.recv(READ)
            if not data:
                raise Failed("a connection was ended")
            return data
        return b""


class Connections:
    """All of them, and what can be ordered. Methods return the answer; they raise Failed, OSError."""

    def __init__(self, say: Callable[[Answer], None]) -> None:
        self._say = say
        self._all: list[Connection] = []
        self.orders: dict[str, Callable[..., Answer]] = {
            "join": self.join,
            "leave": self.leave,
            "learn": self.learn,
            "parked": self.parked,
            "discard": self.discard,
            "drain": self.drain,
            "acknowledge": self.acknowledge,
            "live": self.live,
            "follow": self.follow,
        }

    def join(self, host: str, port: str, kind: str, at_once: str, file: str) -> Answer:
        """See bench/clients.py, also for the others."""
        hellos = _hellos(Path(file).read_bytes())
        while batch := list(islice(hellos, int(at_once))):
            opened = [self._open((host, int(port)), hello) for hello in batch]
            for item in opened:
                _await_grant(item.socket, kind)
                item.socket.setblocking(False)
        return self._count()

    def _open(self, address: tuple[str, int], hello: bytes) -> Connection:
        item = socket.socket()
        item.settimeout(ANSWER)
        item.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        item.bind((f"127.0.0.{1 + len(self._all) % SOURCES}", 0))
        item.connect(address)
        item.sendall(hello)
        self._all.append(Connection(item))
        return self._all[-1]

    def leave(self, number: str) -> Answer:
        """Close the last `number`."""
        for _ in range(min(int(number), len(self._all))):
            self._all.pop().socket.close()
        return self._count()

    def _count(self) -> Answer:
        return {"connections": len(self._all)}

    # --- what is parked -----------------------------------------------------------------------------------------------

    def learn(self) -> Answer:
        """The size of a broadcast."""
        deadline, still, before = time.monotonic() + ANSWER, 0, [0]
        while still < STILL:
            sizes = [item.unread() for item in self._all]
            still = still + 1 if min(sizes) and sizes == before else 0
            before = sizes
            if time.monotonic() > deadline:
                raise Failed(f"after {ANSWER:.0f} s one has {min(sizes)} bytes of a broadcast, all together {sum(sizes)}")
            time.sleep(0.1)
        if len(set(before)) > 1:
            raise Failed(f"connections have different numbers of bytes: {min(before)} and {max(before)}")
        return {"bytes": before[0]}

    def parked(self, size: str) -> Answer:
        """Wait; one connection at a time is looked at."""
        deadline = time.monotonic() + ANSWER
        for place, item in enumerate(self._all):
            while item.unread() < int(size):
                if time.monotonic() > deadline:
                    raise Failed(f"connection {place} of {len(self._all)} has {item.unread()} of {size} bytes")
                time.sleep(LOOK)
        return self._count()

    def drain(self, size: str) -> Answer:
        """Read, and compare."""
        for place, item in enumerate(self._all):
            if (got := len(item.read())) != int(size):
                raise Failed(f"connection {place} of {len(self._all)} had {got} bytes and not {size}")
        return self._count()

    def discard(self) -> Answer:
        """Read, and look at nothing."""
        for item in self._all:
            item.read()
        return self._count()

    def acknowledge(self, number: str) -> Answer:
        """Read, compare, and answer."""
        for place, item in enumerate(self._all):
            data = item.read()
            acks = [_puback(packet) for packet in _split(data) if packet[0] & 0xF6 == PUBLISH | 2]
            if len(acks) != int(number) or sum(map(len, _split(data))) != len(data):
                raise Failed(f"connection {place} had {len(acks)} PUBLISH at QoS 1 in {len(data)} bytes, and not {number}")
            item.socket.sendall(b"".join(acks))
        return self._count()

    # --- what is read as it comes -------------------------------------------------------------------------------------

    def live(self, size: str) -> Answer:
        """Read until everyone has it."""
        epoll, by_fd = self._watch()
        times: list[float] = []
        deadline = time.monotonic() + ANSWER
        while len(times) < len(self._all):
            events = epoll.poll(0.1)
            now = time.monotonic()
            if now > deadline:
                raise Failed(f"a broadcast reached {len(times)} of {len(self._all)} connections")
            for fd, _ in events:
                item = by_fd[fd]
                got = len(item.read())
                item.size += got
                if item.size > int(size):
                    raise Failed(f"a connection got {item.size} bytes and not {size}")
                if got and item.size == int(size):
                    times.append(now)
        epoll.close()
        return {"arrivals_ms": [1000 * (at - times[0]) for at in times]}

    def follow(self, *values: str) -> Answer:
        """Read, acknowledge, ping."""
        wanted, acknowledge, sample, every_us, look_us, seconds = map(int, values)
        epoll, by_fd = self._watch()
        following = _Following(acknowledging=bool(acknowledge))
        next_ping = begun = time.monotonic()
        turn, step = 0, len(self._all) // max(1, sample)
        while following.publishes < wanted or following.waiting:
            now = time.monotonic()
            if now > begun + seconds:
                raise Failed(f"{following.publishes} of {wanted} PUBLISH came, {following.waiting} pings have no answer")
            if sample and following.publishes < wanted and now >= next_ping:
                following.ping(self._all[turn * step % len(self._all)], now)
                turn += 1
                next_ping = max(next_ping + every_us / 1e6, now - 0.1)
            time.sleep(look_us / 1e6)
            events = epoll.poll(0.0 if look_us else 0.001)
            now = time.monotonic()
            for fd, _ in events:
                following.take(by_fd[fd], now)
        epoll.close()
        if following.publishes != wanted:
            raise Failed(f"{following.publishes} PUBLISH came and not {wanted}")
        return {"publishes": following.publishes, "pings_ms": following.taken}

    def _watch(self) -> tuple[select.epoll, dict[int, Connection]]:
        epoll, by_fd = select.epoll(), {item.socket.fileno(): item for item in self._all}
        for fd, item in by_fd.items():
            item.size = 0
            epoll.register(fd, select.EPOLLIN)
        self._say({"ready": True})
        return epoll, by_fd


class _Following:
    """What came. `taken`: round trips of pings, ms; `waiting`: pings without an answer."""

    def __init__(self, *, acknowledging: bool) -> None:
        self.publishes = self.waiting = 0
        self.taken: list[float] = []
        self._acknowledging = acknowledging

    def ping(self, item: Connection, now: float) -> None:
        """Unless it waits for an answer."""
        if not item.pinged:
            item.pinged = now
            self.waiting += 1
            item.socket.sendall(PINGREQ)

    def take(self, item: Connection, now: float) -> None:
        """Read what waits at a connection."""
        data = item.rest + item.read()
        acks = b""
        used = 0
        for packet in _split(data):
            used += len(packet)
            kind = packet[0] & 0xF0
            if kind == PUBLISH:
                self.publishes += 1
                if self._acknowledging and packet[0] & 0x06:
                    acks += _puback(packet)
            elif kind == PINGRESP and item.pinged:
                self.taken.append(1000 * (now - item.pinged))
                self.waiting -= 1
                item.pinged = 0.0
            else:
                raise Failed(f"a packet of type {packet[0]:#x} came")
        item.rest = data[used:]
        if acks:
            item.socket.sendall(acks)


def _split(data: bytes) -> Iterator[bytes]:
    """The whole packets in `data`, each with its header."""
    at = 0
    for _, body in packets(data):
        size = header(data[at : at + 5]) + len(body)
        yield data[at : at + size]
        at += size


def _puback(publish: bytes) -> bytes:
    """For a PUBLISH at QoS 1 (MQTT 5 §3.4): the packet id comes after the topic (§3.3.2)."""
    at = header(publish)
    at += 2 + int.from_bytes(publish[at : at + 2], "big")
    return b"\x40\x02" + publish[at : at + 2]


def _hellos(data: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], sys.byteorder)
        yield data[at + 4 : at + 4 + size]
        at += 4 + size


def _await_grant(connection: socket.socket, kind: str) -> None:
    if kind.startswith("mqtt"):
        granted(connection, (CONNACK, SUBACK), qos=int(kind[4:]))
    if kind == "nats":
        data = b""
        while not data.endswith(PONG):
            got = connection.recv(READ)
            data += got
            if not got or b"-ERR" in data:
                raise Failed(f"NATS refused the subscription: {data[-80:]!r}")


def main() -> int:
    """Do what stdin says; returns the exit status."""
    raise_descriptor_limit()

    def say(answer: Answer) -> None:
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()

    connections = Connections(say)
    for line in sys.stdin:
        name, *values = line.split()
        try:
            say(connections.orders[name](*values))
        except (Failed, OSError) as error:
            say({"error": str(error)})
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
