"""A KV bucket, mirrored in a process.

A watch is a hint like everything on NATS: after a server restart it may come back late, after the store was wiped never
(PITFALLS). So every `REREAD` seconds, and at once after a reconnect, the bucket is read in full by a fresh watch; what the
full read no longer holds is gone. Readers see a plain dict.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import structlog
from nats.js.kv import KeyValue

from infra.bus import Bus, KvErrors
from infra.lifecycle import Loops

REREAD: Final = 30.0
IDLE: Final = 1.0

log = structlog.get_logger("mirror")


class Mirror:
    """The entries of one bucket as `{key: value}`, kept up to date.

    `on_change(key, value or None)` is called for every change, from the loop. With `keep_when_empty` a full read that finds
    nothing changes nothing: a wiped bucket must not wipe its readers (the last known good).
    """

    def __init__(
        self,
        bus: Bus,
        bucket: str,
        *,
        on_change: Callable[[str, bytes | None], None] = lambda key, value: None,
        keep_when_empty: bool = False,
        fail: Callable[[str], None] = lambda reason: None,
    ) -> None:
        self.entries: dict[str, bytes] = {}
        self._bus = bus
        self._bucket = bucket
        self._on_change = on_change
        self._keep_when_empty = keep_when_empty
        self._loops = Loops(fail)
        self._filled = asyncio.Event()
        self._again = asyncio.Event()

    async def start(self) -> None:
        """Return when the bucket was read once; raises BusDown if it can't be within 10 s."""
        self._bus.on_reconnect.append(self._again.set)
        await self._bus.bucket(self._bucket)
        self._loops.start(f"mirror-{self._bucket}", self._follow())
        async with asyncio.timeout(10):
            await self._filled.wait()

    async def stop(self) -> None:
        """Stop following."""
        await self._loops.stop()

    async def _follow(self) -> None:
        while True:
            self._again.clear()
            try:
                await self._watch_once(await self._bus.bucket(self._bucket))
            except KvErrors as error:
                log.warning("KV not readable, keeping what is known", bucket=self._bucket, error=type(error).__name__)
                await asyncio.sleep(1)

    async def _watch_once(self, bucket: KeyValue) -> None:
        """Read all, then follow updates until it is time to read all again.

        The library's own end marker is not used: it may come before the first entry. All is read when the revision is reached
        that the bucket had before, or when nothing more has come for a moment (that revision may have been replaced).
        """
        state = (await bucket.status()).stream_info.state
        goal = state.last_seq if state.messages else 0
        watcher = await bucket.watchall()
        seen: set[str] | None = set()
        try:
            async with asyncio.timeout(REREAD) as limit:
                while not self._again.is_set():
                    if seen is not None and goal == 0:
                        self._drop_unseen(seen)
                        seen = None
                        self._filled.set()
                    entry = await self._next(watcher)
                    if entry is None:
                        goal = 0
                        continue
                    gone = entry.operation in ("DEL", "PURGE")
                    if seen is not None and not gone:
                        seen.add(entry.key)
                    self._apply(entry.key, None if gone else entry.value or b"")
                    if (entry.revision or 0) >= goal:
                        goal = 0
        except TimeoutError:
            if not limit.expired():
                raise
        finally:
            try:
                await watcher.stop()  # type: ignore[no-untyped-call]
            except KvErrors:
                log.debug("watch not stopped", bucket=self._bucket)

    async def _next(self, watcher: KeyValue.KeyWatcher) -> KeyValue.Entry | None:
        """The next update, or None where none came for a moment."""
        try:
            async with asyncio.timeout(IDLE):
                while True:
                    entry = await watcher._updates.get()  # noqa: SLF001 - its own updates() leaks a wait_for cancellation
                    if isinstance(entry, KeyValue.Entry):
                        return entry
        except TimeoutError:
            return None

    def _drop_unseen(self, seen: set[str]) -> None:
        if not seen and self._keep_when_empty and self.entries:
            log.warning("KV bucket is empty, keeping what is known", bucket=self._bucket, entries=len(self.entries))
            return
        for key in [key for key in self.entries if key not in seen]:
            self._apply(key, None)

    def _apply(self, key: str, value: bytes | None) -> None:
        if self.entries.get(key) == value:
            return
        if value is None:
            del self.entries[key]
        else:
            self.entries[key] = value
        try:
            self._on_change(key, value)
        except Exception:
            log.exception("change not taken", bucket=self._bucket, key=key)
