"""Revocations, live in every process that verifies tokens: the KV bucket `revocations`, mirrored, and kept on disk.

It is a bucket of its own: the keeper's documents are few and are saved together. What is known holds while NATS is away, and
where its store was wiped, until it has expired.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path

from infra.bus import Bus
from infra.kept import KeptMirror
from infra.revoked import Revoked
from schemas import names


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
        self._wall = wall
        self._kept = KeptMirror(
            bus,
            names.KV_REVOCATIONS,
            file=disk / "revocations.json",
            put=self.revoked.put,
            holds=lambda key: key in self.revoked.entries,
            on_change=self._tell,
            ended=self._ended,
            refill=refill,
            fail=fail,
        )

    async def start(self) -> None:
        """See `infra.kept.KeptMirror`."""
        await self._kept.start()

    async def stop(self) -> None:
        """See `infra.kept.KeptMirror`."""
        await self._kept.stop()

    def _tell(self) -> None:
        for call in self.on_change:
            call()

    def _ended(self) -> Iterable[str]:
        expired = list(self.revoked.expired(self._wall()))
        for key in expired:
            self.revoked.put(key, None)
        return expired
