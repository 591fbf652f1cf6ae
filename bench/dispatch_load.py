"""Asks center's dispatcher as devices do, and takes little for it: a process beside the one that is measured.

`python -m bench.dispatch_load URL`: reads an `Order` a line (JSON), does it, and answers a `Done` a line.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from typing import Final, cast
from urllib.parse import urlsplit

import msgspec
import uvloop

CONNECTIONS: Final = 32
NETWORKS: Final = ("wifi", "4g", "3g", "5g")


class Order(msgspec.Struct):
    """`count` questions, `rate` of them a second (0: as fast as answers come). `anew`: a connection for each. `rooms`: most say
    that they were in one of these rooms, some that one of `failed` did not work. `first`: tell the first room of each client."""

    count: int
    rate: float = 0.0
    anew: bool = False
    rooms: list[str] = []
    failed: list[str] = []
    first: bool = False


class Done(msgspec.Struct):
    """`statuses`: how many of each; `took_ms`: from the moment when each was due to its answer, ascending."""

    statuses: dict[str, int]
    seconds: float
    took_ms: list[float]
    first: list[str] = []


class Load:
    """One order."""

    def __init__(self, url: str, order: Order) -> None:
        parts = urlsplit(url)
        self.host, self.port = parts.hostname or "", parts.port or 80
        self.order = order
        self.statuses: Counter[str] = Counter()
        self.took: list[float] = []
        self.first = [""] * (order.count if order.first else 0)
        self.done = asyncio.Event()
        self._ends = f" HTTP/1.1\r\nHost: {parts.netloc}\r\nAccept: application/json\r\n".encode()
        self._ends += b"Connection: close\r\n\r\n" if order.anew else b"\r\n"
        self._numbers = iter(range(order.count))
        self._began = time.monotonic()

    def next(self) -> tuple[int, float, bytes] | None:
        """The next question: its number, when it is due, its bytes."""
        number = next(self._numbers, None)
        if number is None:
            return None
        due = self._began + number / self.order.rate if self.order.rate else time.monotonic()
        return number, due, self._question(number)

    def answered(self, number: int, due: float, data: bytes) -> None:
        """Note an answer."""
        self.took.append(time.monotonic() - due)
        self.statuses[data[9:12].decode()] += 1
        if self.order.first and data[9:12] == b"200":
            self.first[number] = json.loads(data.partition(b"\r\n\r\n")[2])["addresses"][0]["room"]
        if len(self.took) == self.order.count:
            self.done.set()

    def _question(self, number: int) -> bytes:
        order = self.order
        more = ""
        if order.rooms and number % 10 < 7:
            more = f"&last={order.rooms[number % len(order.rooms)]}"
        elif order.failed and number % 10 == 7:
            more = f"&failed={order.failed[number % len(order.failed)]}"
        attempt = int(more.startswith("&failed"))
        text = f"GET /v1/dispatch?client=device-{number:08}&network={NETWORKS[number % 4]}&product=crowd&attempt={attempt}{more}"
        return text.encode() + self._ends

    async def run(self) -> Done:
        """All of it."""
        loop = asyncio.get_running_loop()
        askers = [Asker(self) for _ in range(CONNECTIONS)]
        for asker in askers:
            await loop.create_connection(lambda asker=asker: asker, self.host, self.port)  # type: ignore[misc]
        self._began = time.monotonic()
        for asker in askers:
            asker.go()
        await self.done.wait()
        seconds = time.monotonic() - self._began
        for asker in askers:
            asker.close()
        return Done(dict(self.statuses), seconds, sorted(1000 * took for took in self.took), self.first)


class Asker(asyncio.Protocol):
    """A connection, or one after the other: one question at a time."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._loop = asyncio.get_running_loop()
        self._data = b""
        self._open = False
        self._asked: tuple[int, float, bytes] | None = None
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask what waits."""
        self._transport = cast("asyncio.Transport", transport)
        self._open = True
        if self._asked is not None:
            self._transport.write(self._asked[2])

    def connection_lost(self, exc: Exception | None) -> None:
        """Not ours to lose."""
        self._open = False

    def data_received(self, data: bytes) -> None:
        """An answer, perhaps a part of it."""
        self._data += data
        head, found, body = self._data.partition(b"\r\n\r\n")
        if not found or len(body) < _length(head):
            return
        assert self._asked is not None
        number, due, _ = self._asked
        self._load.answered(number, due, self._data)
        self._data, self._asked = b"", None
        if self._load.order.anew:
            self._transport.abort()
            self._open = False
        self.go()

    def go(self) -> None:
        """The next question, when it is due."""
        self._asked = self._load.next()
        if self._asked is None:
            return
        wait = self._asked[1] - time.monotonic()
        if wait > 0:
            self._loop.call_later(wait, self._ask)
        else:
            self._ask()

    def close(self) -> None:
        """Leave."""
        self._transport.abort()

    def _ask(self) -> None:
        if self._open:
            assert self._asked is not None
            self._transport.write(self._asked[2])
        else:
            self._connecting = self._loop.create_task(
                self._loop.create_connection(lambda: self, self._load.host, self._load.port)
            )


def _length(head: bytes) -> int:
    _, _, rest = head.lower().partition(b"content-length:")
    return int(rest.partition(b"\r\n")[0])


def _orders() -> Iterator[Order]:
    for line in sys.stdin:
        yield msgspec.json.decode(line.encode(), type=Order)


def main(url: str) -> None:
    """Order after order, until stdin ends."""
    for order in _orders():

        async def run(order: Order = order) -> Done:
            return await Load(url, order).run()

        sys.stdout.write(msgspec.json.encode(uvloop.run(run())).decode() + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1])
