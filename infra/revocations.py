"""Revocations, live in every process that verifies tokens: the KV bucket `revocations`, mirrored, and kept on disk.

It is a bucket of its own: the keeper's documents are few and are saved together. What is known holds while NATS is away, and
where its store was wiped, until it has expired.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import structlog

from infra.bus import Bus
from infra.lifecycle import Loops
from infra.mirror import Mirror
from infra.revoked import Revoked
from infra.telemetry import write_json
from schemas import names

SAVE_EVERY: Final = 2.0
"""Seconds: so many changes are one write."""

log = structlog.get_logger("revocations")


class Revocations:
    """Keeps a `Revoked` true; a part of its process (infra.lifecycle.Part). `on_change` are called after a change."""

    def __init__(
        self,
        bus: Bus,
        *,
        disk: Path,
        refill: bool = False,
        fail: Callable[[str], None] = lambda reason: None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """`disk`: a folder of the process; `refill`: put them back where the store was wiped (a room may not write there)."""
        self.revoked = Revoked()
        self.on_change: list[Callable[[], None]] = []
        self._file = disk / "revocations.json"
        self._wall = wall
        self._changed = False
        self._saving: asyncio.Future[None] | None = None
        self._loops = Loops(fail)
        self._mirror = Mirror(
            bus,
            names.KV_REVOCATIONS,
            on_change=self._take,
            keep_when_empty=True,
            refill=refill,
            needed=False,
            fail=fail,
        )

    async def start(self) -> None:
        """Load what is on disk, then the bucket; where that can't be read what is on disk holds."""
        self._load()
        await self._mirror.start()
        self._loops.start("revocations", self._keep())

    async def stop(self) -> None:
        """Stop following. What was heard of is on disk when it returns."""
        await self._loops.stop()
        await self._mirror.stop()
        if self._saving is not None:
            await self._saving  # its thread is not stopped with the loop that waited for it
        if self._changed:
            self._save(self._values())

    def _take(self, key: str, value: bytes | None) -> None:
        if self.revoked.put(key, value):
            self._changed = True
            for call in self.on_change:
                call()

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(SAVE_EVERY)
            for key in self.revoked.expired(self._wall()):
                self.revoked.put(key, None)
                self._mirror.entries.pop(key, None)  # else the mirror would warn of a bucket that is rightly empty
                self._changed = True
            if self._changed:
                self._changed = False
                self._saving = asyncio.ensure_future(asyncio.to_thread(self._save, self._values()))
                await asyncio.shield(self._saving)

    def _values(self) -> dict[str, str]:
        return {key: value.decode() for key, value in self._mirror.entries.items() if key in self.revoked.entries}

    def _save(self, values: dict[str, str]) -> None:
        try:
            write_json(self._file, values)
        except OSError as error:
            log.warning("revocations not saved", file=str(self._file), error=str(error))

    def _load(self) -> None:
        try:
            saved: dict[str, Any] = json.loads(self._file.read_text())
        except (OSError, ValueError):
            return
        for key, value in saved.items():
            if self.revoked.put(key, str(value).encode()):
                self._mirror.entries[key] = str(value).encode()
