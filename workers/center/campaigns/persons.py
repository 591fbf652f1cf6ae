"""How many persons a broadcast is for: by the live rooms, by the registry, or by its list."""

from __future__ import annotations

import asyncio
import time
from typing import Final, NamedTuple

from infra.journal import JournalDown
from infra.segments import BadSegment
from infra.wire import JobContent
from schemas.broadcasts import Broadcast
from workers.center.campaigns.audiences import LOOK
from workers.center.campaigns.census import Known, RoomAnswer
from workers.center.ports import Parts


async def counted(parts: Parts, record: Broadcast) -> tuple[list[RoomAnswer], Known | None]:
    """What each live room says, and the registry; None where Kafka did not answer. Raises a Problem while others count."""
    content = _content(record, time.time_ns() // 1_000_000)
    live = [view.entry.room for view in parts.rooms.live()]
    answers, known = await asyncio.gather(parts.census.online(live, content), _known(parts, content))
    return answers, known


class Persons(NamedTuple):
    """How many, None where that can't be told. `sure`: nobody was left out, no room and no record of the registry."""

    number: int | None
    sure: bool


async def persons_of(parts: Parts, record: Broadcast) -> Persons:
    """Connected or not. Raises a Problem while others count."""
    if record.audience is not None:
        try:
            found = await parts.audiences.find(record.product, record.audience, deadline=LOOK)
        except JournalDown:
            return UNKNOWN
        return UNKNOWN if found is None else Persons(found.clients, sure=True)
    answers, known = await counted(parts, record)
    if known is None:
        return UNKNOWN
    number = max(known.meant, sum(answer.persons or 0 for answer in answers))
    return Persons(number, sure=known.exact and all(answer.persons is not None for answer in answers))


UNKNOWN: Final = Persons(None, sure=False)


async def _known(parts: Parts, content: JobContent) -> Known | None:
    try:
        return await parts.census.known(content)
    except (JournalDown, BadSegment):  # of a draft that came to Kafka another way: its owner has the last word
        return None


def _content(record: Broadcast, at_ms: int) -> JobContent:
    """What a room needs to decide, without the payload. Whoever is bound now would be when it starts: with `include_new` no two
    clocks are compared."""
    return JobContent(
        job=record.id,
        number=(-1, -1),
        product=record.product,
        groups=list(record.groups),
        payload=b"",
        expires_in_ms=60_000,
        started_ms=at_ms,
        include_new=True,
        every_group=record.every_group,
        segment=record.segment or "",
        sample_bp=record.sample_bp,
        sample_seed=record.sample_seed or record.id,
    )
