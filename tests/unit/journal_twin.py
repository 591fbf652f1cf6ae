"""A journal in memory: records go through the real codec, and it can be down."""

from __future__ import annotations

from collections.abc import Sequence

from infra.journal import Entry, JournalDown, Position
from schemas import codec
from schemas.partition import partition_of
from schemas.records import Record

PARTITIONS = 6
APPEND_MS = 1_700_000_000_000


class JournalTwin:
    """Acknowledges at once and keeps what it took, in order; raises JournalDown while `down`."""

    def __init__(self) -> None:
        self.down = False
        self.entries: list[Entry] = []

    @property
    def records(self) -> list[Record]:
        """All records, decoded from their bytes."""
        return [codec.decode(codec.encode(entry.record)) for entry in self.entries if entry.record is not None]

    async def produce(self, entries: Sequence[Entry], *, timeout: float | None = None) -> list[Position]:
        """Take all entries or none."""
        if self.down:
            raise JournalDown("the twin is down")
        for entry in entries:
            if entry.record is not None:
                codec.encode(entry.record)
        first = len(self.entries)
        self.entries.extend(entries)
        return [Position(partition_of(e.by or e.key, PARTITIONS), first + i, APPEND_MS + i) for i, e in enumerate(entries)]
