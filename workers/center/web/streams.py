"""The places for answers that go on: bounded, and ended together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AbstractContextManager, aclosing
from typing import Any, Final

import structlog
from prometheus_client import Gauge
from starlette.types import Receive, Send

from workers.center.callers.auth import Caller
from workers.center.callers.places import Places
from workers.center.web.problems import Problem

MAX_STREAMS: Final = 100
MAX_OF_ONE: Final = 25
"""Of one key's."""
KEEP_ALIVE: Final = 15.0
"""A comment so often, s, where nothing changes: proxies close what is silent."""

FULL_S: Final = 30
"""After which one may be free, s."""

log = structlog.get_logger("center")
open_streams = Gauge("longwire_center_streams", "Streams of server-sent events that are open")


class Streams:
    """The places for streams of this process; a part of its life, stopped before the server, so that nobody waits for them."""

    def __init__(self, *, most: int = MAX_STREAMS, of_one: int = MAX_OF_ONE, keep_alive: float = KEEP_ALIVE) -> None:
        self._places = Places("streams", most=most, of_one=of_one)
        self._full = Problem("too-many-streams", f"{most} streams are open; ask without one, or later", retry_after_s=FULL_S)
        self.keep_alive = keep_alive
        self._ended = asyncio.Event()

    async def start(self) -> None:
        """Nothing to do."""

    async def stop(self) -> None:
        """End all streams."""
        self._ended.set()

    @property
    def free(self) -> int:
        """Places that are left."""
        return self._places.free

    def place(self, who: Caller) -> AbstractContextManager[None]:
        """A place as long as the block; raises a Problem (429)."""
        return self._places.take(who, self._full)

    async def serve(self, events: AsyncGenerator[bytes], receive: Receive, send: Send) -> None:
        """Send events until there are no more, the reader has left, or the process ends. Call it with a place."""
        open_streams.inc()
        tasks = [asyncio.ensure_future(each) for each in (_write(events, send), _left(receive), self._ended.wait())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            await _ended(tasks[0])
            if not tasks[1].done():
                await send({"type": "http.response.body", "body": b""})
        finally:
            open_streams.dec()
            await asyncio.gather(*(_ended(task) for task in tasks))


async def _write(events: AsyncGenerator[bytes], send: Send) -> None:
    async with aclosing(events):
        async for event in events:
            await send({"type": "http.response.body", "body": event, "more_body": True})


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _ended(task: asyncio.Future[Any]) -> None:
    """Cancel what has not ended, and wait for it. A stream that failed ends there: its reader asks again."""
    task.cancel()
    outcome: object = (await asyncio.gather(task, return_exceptions=True))[0]
    if isinstance(outcome, Exception):
        log.warning("stream ended", error=type(outcome).__name__, text=str(outcome)[:200])
