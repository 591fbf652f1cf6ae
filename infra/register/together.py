"""Calls of one turn of the loop, as one pipeline: what several batches ask side by side costs one round trip."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

Calls = Sequence[tuple[str, list[str], list[Any]]]
Run = Callable[[Calls], Awaitable[list[Any]]]


class Together:
    """`run` is given the calls of all who asked in one turn, and returns their answers in order; what it raises, all get."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._waiting: list[tuple[Calls, asyncio.Future[list[Any]]]] = []
        self._running: set[asyncio.Task[None]] = set()

    async def ask(self, calls: Calls) -> list[Any]:
        """The answers to these calls. Cancelled, the calls may be done all the same."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[Any]] = loop.create_future()
        self._waiting.append((calls, future))
        if len(self._waiting) == 1:
            loop.call_soon(self._start)
        return await future

    def _start(self) -> None:
        waiting, self._waiting = self._waiting, []
        task = asyncio.ensure_future(self._serve(waiting))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _serve(self, waiting: list[tuple[Calls, asyncio.Future[list[Any]]]]) -> None:
        try:
            answers = await self._run([call for calls, _ in waiting for call in calls])
        except Exception as error:
            for _, future in waiting:
                if not future.done():
                    future.set_exception(error)
            return
        place = 0
        for calls, future in waiting:
            if not future.done():
                future.set_result(answers[place : place + len(calls)])
            place += len(calls)
