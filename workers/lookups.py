"""Look-ups of names, so that a name server that does not answer costs only those who asked for its names.

A look-up can't be cut: the library waits for as long as the resolver's configuration says, tens of seconds. It runs in a thread
of its own, one at a time for a name, and `THREADS` at a time for all; who gave up waiting leaves it behind. While no thread is
free, what was found lately is used: an address is judged for each connection, however it was found.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from threading import Thread
from typing import Final

from prometheus_client import Counter

THREADS: Final = 16
MAX_NAMES: Final = 256
"""Names that are looked up, or wait for a thread; further ones are refused."""
REMEMBERED: Final = 1024
LATELY: Final = 300.0
"""Seconds for which an answer may be used while no thread is free."""

refused = Counter("longwire_outside_lookups_refused_total", "Names that were not looked up: too many were waited for")
again = Counter("longwire_outside_lookups_again_total", "Connections by an earlier answer, while no thread was free")

Found = list[str] | Exception


class NoPlace(OSError):
    """Too many names are waited for."""


def resolved(host: str) -> list[str]:
    """Its addresses, as the system finds them; raises OSError, UnicodeError. Blocks."""
    return [str(item[4][0]) for item in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)]


class Lookups:
    """Those of one process."""

    def __init__(self, resolve: Callable[[str], list[str]] = resolved, *, clock: Callable[[], float] = time.monotonic) -> None:
        """`resolve` blocks."""
        self._resolve = resolve
        self._clock = clock
        self._free = asyncio.Semaphore(THREADS)
        self._running: dict[str, asyncio.Task[Found]] = {}
        self._found: OrderedDict[str, tuple[float, list[str]]] = OrderedDict()

    async def stop(self) -> None:
        """Nobody waits any more; threads end when their look-ups do, and hold nothing up."""
        running = list(self._running.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def addresses(self, host: str, port: int) -> list[str]:
        """Its addresses; raises OSError, UnicodeError."""
        if host not in self._running:
            if self._free.locked() and (known := self._lately(host)):
                again.inc()
                return known
            self._begin(host)
        found = await asyncio.shield(self._running[host])
        if isinstance(found, Exception):
            raise found.with_traceback(None)
        return found

    def _lately(self, host: str) -> list[str]:
        at, addresses = self._found.get(host, (0.0, []))
        return addresses if self._clock() - at < LATELY else []

    def _begin(self, host: str) -> None:
        if len(self._running) >= MAX_NAMES:
            refused.inc()
            raise NoPlace(f"{host} is not looked up: {MAX_NAMES} other names are")
        self._running[host] = task = asyncio.create_task(self._look(host))
        task.add_done_callback(lambda done: self._running.pop(host))

    async def _look(self, host: str) -> Found:
        async with self._free:
            loop = asyncio.get_running_loop()
            answer: asyncio.Future[Found] = loop.create_future()
            # an executor's threads are waited for when the process ends; these are not
            Thread(target=self._ask, args=(host, loop, answer), name=f"look-up of {host}"[:100], daemon=True).start()
            found = await answer
        if isinstance(found, list):
            self._found[host] = (self._clock(), found)
            self._found.move_to_end(host)
            if len(self._found) > REMEMBERED:
                self._found.popitem(last=False)
        return found

    def _ask(self, host: str, loop: asyncio.AbstractEventLoop, answer: asyncio.Future[Found]) -> None:
        try:
            found: Found = self._resolve(host)
        except Exception as error:  # whatever it is, it is for who asked
            found = error
        with suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(_set, answer, found)


def _set(answer: asyncio.Future[Found], found: Found) -> None:
    if not answer.done():
        answer.set_result(found)
