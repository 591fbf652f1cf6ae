"""A KV bucket, mirrored in a process.

A watch is a hint like everything on NATS: after a server restart it may come back late, after the store was wiped never
(PITFALLS). So every `REREAD` seconds, and at once after a reconnect, the bucket is read in full by a fresh watch; what the
full read no longer holds is gone. Readers see a plain dict.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

import structlog
from nats.js.errors import KeyWrongLastSequenceError
from nats.js.kv import KeyValue

from infra.bus import Bus, KvErrors
from infra.lifecycle import Loops

REREAD: Final = 30.0
IDLE: Final = 1.0
FILLED_WITHIN: Final = 10.0
"""Seconds for the first full read of a bucket that is needed to start."""
WAITED: Final = 3.0
"""Seconds for which a start waits for one that is not."""

log = structlog.get_logger("mirror")


class Mirror:
    """The entries of one bucket as `{key: value}`, kept up to date.

    `on_change(key, value or None)` is called for every change, from the loop. With `keep_when_empty` a full read that finds
    nothing changes nothing: a wiped bucket must not wipe its readers (the last known good). With `refill` what is known is put
    into a bucket that never had an entry, for those who start next; an entry that somebody else has put there stays. What is not
    `needed` to start is read when it can be: the KV may be away while all the rest is up.
    """

    def __init__(
        self,
        bus: Bus,
        bucket: str,
        *,
        on_change: Callable[[str, bytes | None], None] = lambda key, value: None,
        keep_when_empty: bool = False,
        refill: bool = False,
        needed: bool = True,
        fail: Callable[[str], None] = lambda reason: None,
    ) -> None:
        self.entries: dict[str, bytes] = {}
        self._bus = bus
        self._bucket = bucket
        self._on_change = on_change
        self._keep_when_empty = keep_when_empty
        self._refill = refill
        self._needed = needed
        self._loops = Loops(fail)
        self._filled = asyncio.Event()
        self._again = asyncio.Event()
        self._read_at: float | None = None

    async def start(self) -> None:
        """Return when the bucket was read once, or a moment later where it is not needed.

        Raises TimeoutError where it is and can't be within `FILLED_WITHIN` seconds (it is tried on, all the same).
        """
        self._bus.on_reconnect.append(self._again.set)
        self._loops.start(f"mirror-{self._bucket}", self._follow())
        try:
            async with asyncio.timeout(FILLED_WITHIN if self._needed else WAITED):
                await self._filled.wait()
        except TimeoutError:
            if self._needed:
                raise
            log.warning("KV not readable, going on without it", bucket=self._bucket)

    @property
    def current(self) -> bool:
        """Was the bucket read in full lately? Only then what is not in `entries` is known not to be in the bucket."""
        return self._read_at is not None and time.monotonic() - self._read_at < 2 * REREAD

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
        that the bucket had before, or as many keys were seen as it had. A read that stalls is given up, and nothing is dropped.
        """
        state = (await bucket.status()).stream_info.state
        if self._refill and not state.last_seq:
            await self._fill(bucket)
            state = (await bucket.status()).stream_info.state
        watcher = await bucket.watchall()
        try:
            async with asyncio.timeout(REREAD) as limit:
                if not await self._read_all(watcher, goal=state.last_seq, keys=state.messages):
                    return
                while not self._again.is_set():
                    if (entry := await self._next(watcher)) is not None:
                        self._apply(entry.key, _value(entry))
        except TimeoutError:
            if not limit.expired():
                raise
        finally:
            try:
                await watcher.stop()  # type: ignore[no-untyped-call]
            except KvErrors:
                log.debug("watch not stopped", bucket=self._bucket)

    async def _fill(self, bucket: KeyValue) -> None:
        """A store that was wiped has it again. Several do it at once, and the first one's entry counts."""
        for key, value in list(self.entries.items()):
            try:
                await bucket.create(key, value)
            except KeyWrongLastSequenceError:
                continue
            log.warning("KV bucket was empty, entry put back", bucket=self._bucket, key=key)

    async def _read_all(self, watcher: KeyValue.KeyWatcher, *, goal: int, keys: int) -> bool:
        """Take every entry that the bucket had; False if they did not all come."""
        seen: set[str] = set()
        present: set[str] = set()
        revision = 0
        while len(seen) < keys and revision < goal:
            entry = await self._next(watcher)
            if entry is None or self._again.is_set():
                log.warning("KV read stalled, keeping what is known", bucket=self._bucket, seen=len(seen), of=keys)
                return False
            revision = entry.revision or 0
            seen.add(entry.key)
            (present.discard if _value(entry) is None else present.add)(entry.key)
            self._apply(entry.key, _value(entry))
        self._drop_unseen(present)
        self._read_at = time.monotonic()
        self._filled.set()
        return True

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


def _value(entry: KeyValue.Entry) -> bytes | None:
    """What the entry sets its key to; None where it removes it."""
    return None if entry.operation in ("DEL", "PURGE") else entry.value or b""
