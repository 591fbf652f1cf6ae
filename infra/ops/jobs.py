"""Broadcasts as the commands watch them: asked for again and again, measured in between, drawn anew or told line by line."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

from rich.console import Console
from rich.live import Live

from infra.ops.http import CenterClient, NotFound
from infra.ops.job_text import Document, plain_line, watch_view

DONE: Final = ("completed", "expired", "cancelled", "halted")
BADLY: Final = ("cancelled", "halted")
"""Ends that a script must not take for a success."""
POLL: Final = 0.25
WINDOW: Final = 5.0
"""The rate now is measured over so many seconds."""
FRESH: Final = 5.0
"""How long a broadcast that was accepted may be unknown, s: then it is not there."""


class Meter:
    """Persons a second, by the counts that came in the last `WINDOW` seconds."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def take(self, sent: int, now: float) -> float:
        """The rate, with one more count."""
        if not self._seen or self._seen[-1][1] != sent or now - self._seen[-1][0] >= 1:
            self._seen.append((now, sent))
        while len(self._seen) > 2 and now - self._seen[0][0] > WINDOW:
            self._seen.popleft()
        (since, before), (until, after) = self._seen[0], self._seen[-1]
        return max(0, after - before) / (until - since) if until > since else 0.0


async def follow(center: CenterClient, job: str) -> AsyncIterator[tuple[Document, float]]:
    """A job's document and its rate now, again and again until it is done; raises NotFound for one that never was."""
    meter, born = Meter(), time.monotonic()
    while True:
        document = await _get(center, job, patient=time.monotonic() - born < FRESH)
        sent = int((document.get("totals") or {}).get("sent", 0))
        yield document, meter.take(sent, time.monotonic())
        if document["state"] in DONE:
            return
        await asyncio.sleep(POLL)


async def watch(center: CenterClient, job: str, console: Console, *, timeout: float = 0) -> Document:
    """Show a job until it is done, and return its last document. On a terminal it is drawn anew in its place, elsewhere there
    is a line for each change. TimeoutError after `timeout` seconds (0: never)."""
    if not console.is_terminal:
        return await tell(center, job, lambda document, rate: _print(console, plain_line(document, rate)), timeout=timeout)
    document: Document = {}
    with Live(console=console, auto_refresh=False) as live:
        async with asyncio.timeout(timeout or None):
            async for document, rate in follow(center, job):
                live.update(watch_view(document, rate), refresh=True)
    return document


def _print(console: Console, line: str) -> None:
    console.print(line, soft_wrap=True)


async def tell(center: CenterClient, job: str, say: Callable[[Document, float], None], *, timeout: float = 0) -> Document:
    """Call `say` with each document that differs from the one before, until the job is done; returns the last. TimeoutError
    after `timeout` seconds (0: never)."""
    shown: Document = {}
    async with asyncio.timeout(timeout or None):
        async for document, rate in follow(center, job):
            if document != shown:
                say(document, rate)
                shown = document
    return shown


async def _get(center: CenterClient, job: str, *, patient: bool) -> Document:
    try:
        found: dict[str, Any] = await center.get(f"/v1/broadcasts/{job}")
    except NotFound:
        if not patient:
            raise
        return {"id": job, "state": "accepted"}  # accepted, and not mirrored yet
    return found
