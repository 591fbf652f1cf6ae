"""How a process lives: ordered start, one reason to end, reverse stop within one deadline, a second signal forces the exit."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, Final, Protocol

import structlog
import uvloop

STOP_DEADLINE: Final = 15.0
EXIT_FAILED: Final = 1
CANCEL_AGAIN: Final = 3.0
"""Seconds that a cancelled task may take to end before it is cancelled once more."""

log = structlog.get_logger("lifecycle")


class Part(Protocol):
    """Something that is started once and stopped once. `stop()` is idempotent, and safe after a failed `start()`."""

    async def start(self) -> None:
        """Return when it works; raise if it can't."""

    async def stop(self) -> None:
        """Give back what it holds."""


class Lifecycle:
    """The parts of a process in their start order, and the event that ends it.

    `main()` builds the parts, adds them, and awaits `run()`. Whatever can end the process on its own (a closed broker
    connection, a fatal error in a loop) calls `fail(reason)`.
    """

    def __init__(self, name: str, *, stop_within: float = STOP_DEADLINE) -> None:
        """`stop_within`: seconds for an orderly stop; then what is left is let go."""
        self.name = name
        self._stop_within = stop_within
        self._parts: list[tuple[str, Part]] = []
        self._ended = asyncio.Event()
        self._failure = ""

    def add(self, name: str, part: Part) -> None:
        """Append a part: started after those before it, stopped before them."""
        self._parts.append((name, part))

    def end(self) -> None:
        """Ask for an orderly stop."""
        self._ended.set()

    def fail(self, reason: str) -> None:
        """Ask for an orderly stop with exit status 1; the first reason is kept."""
        self._failure = self._failure or reason
        self._ended.set()

    async def run(self, *, ready: Callable[[], None] = lambda: None) -> int:
        """Start all parts, wait for the end, stop them in reverse; returns the exit status."""
        self._catch_signals()
        started: list[tuple[str, Part]] = []
        try:
            for name, part in self._parts:
                started.append((name, part))
                await part.start()
            ready()
            _rest_the_collector()
            log.info("started", process=self.name)
            await self._ended.wait()
        except Exception as error:
            self.fail(f"{name}: {type(error).__name__}: {error}")
            log.exception("start failed", process=self.name, part=name)
        await self._stop(started)
        if self._failure:
            log.error("ended", process=self.name, reason=self._failure)
            return EXIT_FAILED
        log.info("ended", process=self.name)
        return 0

    async def _stop(self, started: list[tuple[str, Part]]) -> None:
        try:
            async with asyncio.timeout(self._stop_within):
                for name, part in reversed(started):
                    try:
                        await part.stop()
                    except Exception:
                        log.exception("stop failed", process=self.name, part=name)
        except TimeoutError:
            log.error("stop took too long", process=self.name, seconds=self._stop_within)

    def _catch_signals(self) -> None:
        loop = asyncio.get_running_loop()

        def caught() -> None:
            if self._ended.is_set():
                os._exit(EXIT_FAILED)  # asked twice: the operator does not want to wait
            self.end()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, caught)


def _rest_the_collector() -> None:
    """What a process has built by now stays for its life: the collector need not look at it again, nor look so often.

    By default it ran every 700 allocations, a fifth of a delivery worker's time (docs/benchmarks.md).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def run(main: Callable[[], Coroutine[Any, Any, int]]) -> int:
    """Run a process's `main()` on uvloop and return its exit status."""
    return uvloop.run(main())


class Awake:
    """Has this process run all the time? One that was stopped finds requests that others have answered meanwhile.

    `tick()` it every `within` / 5 s at least. A gap of more than `within` s makes it doubtful for `settle` s more: what had come
    by then has been read.
    """

    def __init__(self, *, within: float, settle: float = 1.0, clock: Callable[[], float] = time.monotonic) -> None:
        self.within = within
        self._settle = settle
        self._clock = clock
        self._seen = clock()
        self._doubtful_until = self._seen

    def tick(self) -> bool:
        """We run now; True unless there was a gap just before."""
        now = self._clock()
        if now - self._seen > self.within:
            self._doubtful_until = now + self._settle
        self._seen = now
        return now >= self._doubtful_until

    async def run(self) -> None:
        """Tick for ever."""
        while True:
            self.tick()
            await asyncio.sleep(self.within / 5)


async def end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel tasks, and wait until all have ended; what they raise is theirs to tell.

    A cancellation can get lost: `asyncio.wait_for`, which nats-py uses, swallows one that comes with its result (cpython#86296).
    Who goes on all the same is cancelled again.
    """
    left = set(tasks)
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=CANCEL_AGAIN)
        if left:
            log.warning("cancelled again", tasks=len(left))


class Loops:
    """The long-running tasks of one part: strong references, and none ends unseen.

    A loop that raises is reported to `fail` and so ends the process: a worker without its loop would only look alive.
    """

    def __init__(self, fail: Callable[[str], None]) -> None:
        self._fail = fail
        self._stopping = False
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, name: str, loop: Awaitable[None]) -> None:
        """Run `loop` until `stop()`."""
        task = asyncio.ensure_future(loop)
        assert isinstance(task, asyncio.Task)
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._ended(name, done))

    def _ended(self, name: str, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if self._stopping:
            return
        if task.cancelled():  # nobody asked for it: a library's stray CancelledError must not end a loop unseen
            log.error("loop was cancelled", loop=name)
            self._fail(f"{name}: cancelled from inside")
        elif (error := task.exception()) is not None:
            log.error("loop failed", loop=name, exc_info=error)
            self._fail(f"{name}: {type(error).__name__}: {error}")

    async def stop(self) -> None:
        """Cancel all loops and wait until they have ended. A library may swallow a cancellation (PITFALLS): it is repeated."""
        self._stopping = True
        await end(self._tasks)
