"""What was done, to a broadcast or to anything else, by whom and why: read from `push.audit` when it is asked for."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import structlog

from infra.settings import KafkaSettings
from schemas import codec, names
from schemas.broadcasts import Audit
from schemas.partition import partition_of
from workers.center.campaigns.tail import read_back, read_tail
from workers.center.web.problems import RETRY_AFTER_S, Problem

MOST_READ: Final = 10_000
"""Records of the product's partition that are looked at, the last ones."""
MOST_SHOWN: Final = 500
READERS: Final = 4

log = structlog.get_logger("center")


@dataclass(frozen=True, slots=True)
class AuditPage:
    """A job's audit, newest last. `whole`: nothing that is older was left out."""

    records: list[Audit]
    whole: bool


@dataclass(frozen=True, slots=True)
class TrailPage:
    """Records, newest first. `older`: the offset before which the next page begins, None where there is nothing older."""

    records: list[Audit]
    older: int | None


class Trail:
    """`workers.center.ports.AuditTrail` on Kafka. `partitions(topic)`: how many it has."""

    def __init__(self, settings: KafkaSettings, partitions: Callable[[str], Awaitable[int]]) -> None:
        self._settings = settings
        self._partitions = partitions
        self._readers = asyncio.Semaphore(READERS)

    async def of(self, product: str, job: str) -> AuditPage:
        """See the port."""
        self._check_free()
        found: deque[Audit] = deque(maxlen=MOST_SHOWN)
        taken = 0

        def take(key: bytes | None, value: bytes | None) -> None:
            nonlocal taken
            record = _decoded(value) if key == product.encode() else None
            if record is not None and record.subject == job:
                found.append(record)
                taken += 1

        async with self._readers:
            place = partition_of(product, await self._partitions(names.AUDIT))
            covered = await read_tail(self._settings, names.AUDIT, [place], most=MOST_READ, take=take)
        return AuditPage(list(found), covered.whole and taken <= MOST_SHOWN)

    async def page(self, product: str, subject: str, limit: int, before: int | None) -> TrailPage:
        """See the port. Looks at `MOST_READ` records: where they bring less than a page, the next one goes on behind them."""
        self._check_free()
        found: deque[tuple[int, Audit]] = deque(maxlen=limit + 1)

        def take(offset: int, key: bytes | None, value: bytes | None) -> None:
            record = _decoded(value) if key == product.encode() else None
            if record is not None and subject in ("", record.subject):
                found.append((offset, record))

        async with self._readers:
            place = partition_of(product, await self._partitions(names.AUDIT))
            begin, first = await read_back(self._settings, names.AUDIT, place, before=before, most=MOST_READ, take=take)
        shown = list(found)[-limit:]
        if len(found) > limit:
            return TrailPage([record for _, record in reversed(shown)], shown[0][0])
        return TrailPage([record for _, record in reversed(shown)], begin if begin > first else None)

    def _check_free(self) -> None:
        if self._readers.locked():
            raise Problem("busy", "others are reading the audit; ask again", retry_after_s=RETRY_AFTER_S)


def _decoded(value: bytes | None) -> Audit | None:
    try:
        return codec.decode_as(Audit, value or b"")
    except codec.Undecodable as error:
        log.warning("audit record not readable", error=str(error)[:200])
        return None
