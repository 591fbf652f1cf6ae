"""A KV bucket as a process knows it: mirrored, and kept on disk. What is known holds while NATS is away, and where its store was
wiped."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

import structlog

from infra.bus import Bus
from infra.lifecycle import Loops
from infra.mirror import Mirror
from infra.telemetry import write_json

SAVE_EVERY: Final = 2.0
"""Seconds: so many changes are one write."""

log = structlog.get_logger("kept")


class KeptMirror:
    """Tells a table of everything in a bucket; a part of its process (infra.lifecycle.Part)."""

    def __init__(
        self,
        bus: Bus,
        bucket: str,
        *,
        file: Path,
        put: Callable[[str, bytes | None], bool],
        holds: Callable[[str], bool],
        on_change: Callable[[], None] = lambda: None,
        ended: Callable[[], Iterable[str]] = tuple,
        refill: bool,
        fail: Callable[[str], None],
    ) -> None:
        """The table: `put(key, value)` takes an entry, None for one that is gone, and returns whether it did; `holds(key)`: is
        this one in it? `ended()` lets go of what is over by itself, and names it.

        `on_change()`: after what NATS told was taken; `refill`: put entries back where the store was wiped.
        """
        self._bucket = bucket
        self._file = file
        self._put = put
        self._holds = holds
        self._on_change = on_change
        self._ended = ended
        self._changed = False
        self._saving: asyncio.Future[None] | None = None
        self._loops = Loops(fail)
        self._mirror = Mirror(bus, bucket, on_change=self._take, keep_when_empty=True, refill=refill, needed=False, fail=fail)

    async def start(self) -> None:
        """Load what is on disk, then the bucket; where that can't be read what is on disk holds."""
        self._load()
        await self._mirror.start()
        self._loops.start(self._bucket, self._keep())

    async def stop(self) -> None:
        """Stop following. What was heard of is on disk when it returns."""
        await self._loops.stop()
        await self._mirror.stop()
        if self._saving is not None:
            await self._saving  # its thread is not stopped with the loop that waited for it
        if self._changed:
            self._save(self._values())

    def _take(self, key: str, value: bytes | None) -> None:
        if self._put(key, value):
            self._changed = True
            self._on_change()

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(SAVE_EVERY)
            for key in self._ended():
                self._mirror.entries.pop(key, None)  # else the mirror would warn of a bucket that is rightly empty
                self._changed = True
            if self._changed:
                self._changed = False
                self._saving = asyncio.ensure_future(asyncio.to_thread(self._save, self._values()))
                await asyncio.shield(self._saving)

    def _values(self) -> dict[str, str]:
        return {key: value.decode() for key, value in self._mirror.entries.items() if self._holds(key)}

    def _save(self, values: dict[str, str]) -> None:
        try:
            write_json(self._file, values)
        except OSError as error:
            log.warning("not saved", bucket=self._bucket, file=str(self._file), error=str(error))

    def _load(self) -> None:
        try:
            saved: dict[str, Any] = json.loads(self._file.read_text())
        except (OSError, ValueError):
            return
        for key, value in saved.items():
            if self._put(key, str(value).encode()):
                self._mirror.entries[key] = str(value).encode()
