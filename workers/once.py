"""Uplinks by their ids: what a coordinator has taken is not taken again, as far as it remembers.

A device resends under its id, a room repeats a batch whose answer it did not get. The memory is bounded and the process's own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Final, Protocol

from prometheus_client import Counter

from infra.journal import Entry, JournalDown, Position
from infra.lifecycle import end

REMEMBERED: Final = 50_000
WITHIN: Final = 2.5
"""Seconds that an asker waits for Kafka, less than a room waits for us; what is under way goes on."""
PATIENCE: Final = 60.0
"""Seconds for which what is under way may go on: a repeat waits for it, instead of producing a second record."""
MAX_UNDER_WAY: Final = 100_000

repeats = Counter("longwire_coordinator_repeats_total", "Uplinks that were known by their id, and skipped", ["where"])


class Producer(Protocol):
    """Where records go (infra.journal.Journal)."""

    async def produce(self, entries: Sequence[Entry], *, timeout: float | None = None) -> list[Position]:
        """Return when every entry is acknowledged; raises JournalDown."""


def digest_of(product: str, key: str, uplink: str) -> bytes:
    """An uplink in 16 bytes: two clients may use one id."""
    return blake2b("\0".join((product, key, uplink)).encode(), digest_size=16).digest()


class Recent:
    """The last `most` digests."""

    def __init__(self, most: int = REMEMBERED) -> None:
        self._most = most
        self._known: dict[bytes, None] = {}

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._known

    def add(self, digest: bytes) -> None:
        """Remember one; the oldest goes when there are too many."""
        self._known[digest] = None
        if len(self._known) > self._most:
            del self._known[next(iter(self._known))]


class Once:
    """Produces what was not produced before."""

    def __init__(self, journal: Producer, *, within: float = WITHIN) -> None:
        self._journal = journal
        self._within = within
        self._done = Recent()
        self._under_way: dict[bytes, asyncio.Task[None]] = {}

    async def produce(self, entries: Mapping[bytes, Entry]) -> None:
        """Return when Kafka has all of them. Raises JournalDown: then ask again, which joins what is under way."""
        new = {digest: entry for digest, entry in entries.items() if digest not in self._done and digest not in self._under_way}
        repeats.labels("ingress").inc(len(entries) - len(new))
        if len(self._under_way) + len(new) > MAX_UNDER_WAY:
            raise JournalDown(f"{len(self._under_way)} uplinks wait for Kafka")
        waiting = {task for digest in entries if (task := self._under_way.get(digest)) is not None}
        if new:
            task = asyncio.create_task(self._run(new))
            task.add_done_callback(_seen)
            self._under_way |= dict.fromkeys(new, task)
            waiting.add(task)
        if not waiting:
            return
        done, late = await asyncio.wait(waiting, timeout=self._within)
        if late:
            raise JournalDown(f"Kafka has not acknowledged within {self._within:g} s")
        for task in done:
            task.result()

    async def stop(self) -> None:
        """Wait no longer: whoever asked has no answer, and asks another."""
        await end(self._under_way.values())

    async def _run(self, entries: Mapping[bytes, Entry]) -> None:
        try:
            await self._journal.produce(list(entries.values()), timeout=PATIENCE)
            for digest in entries:
                self._done.add(digest)
        finally:
            for digest in entries:
                del self._under_way[digest]


def _seen(task: asyncio.Task[None]) -> None:
    """Who asked may have given up: the failure is told to the next who asks, or to nobody."""
    if not task.cancelled():
        task.exception()
