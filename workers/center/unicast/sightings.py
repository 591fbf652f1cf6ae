"""Where a message was seen in Kafka: its record, and what receipts say of it. Read on demand, nothing is kept (docs/adr/0024).

A record is sought by the time at which its id was made, and by the key that it has (a client's, a user's) if that is known: then
in one partition of each topic, else in all of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, TypeVar

import structlog
from aiokafka import ConsumerRecord, TopicPartition
from prometheus_client import Counter, Histogram

from infra.settings import KafkaSettings
from schemas import codec, names
from schemas.partition import partition_of
from schemas.records import PushMessage, Receipt, Record
from workers.center.unicast.seeking import End, Seeker, seeking
from workers.center.web.problems import RETRY_AFTER_S, Problem

MOST_READ: Final = 100_000
"""Records that are looked at for one part of an answer: of messages, and of receipts."""
READERS: Final = 2
WAITING: Final = 8
"""Questions that are read for at a time, and that wait for one of them; those beyond are told to come again."""
NEAR_MS: Final = (2_000, 3_000)
"""Before and after its id was made a record lies nearly always: clocks of hosts differ, Kafka takes a moment."""
BEFORE_MS: Final = 60_000
"""How far clocks may differ at most. After it there is no limit: a request may be repeated with its id."""

log = structlog.get_logger("center")
looked_at = Counter("longwire_center_seek_records_total", "Records of Kafka looked at to tell the state of a message", ["topic"])
took = Histogram("longwire_center_seek_seconds", "Time that Kafka was read to tell the state of a message", ["topic"])

R = TypeVar("R", bound=Record)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A message that is looked for. `topics`: where it may be; `key`: of the client or user that is named; `times_ms`: about when
    it may have been produced, if that is known."""

    id: str
    products: frozenset[str]
    topics: tuple[str, ...]
    realm: str | None = None
    client: str | None = None
    user: str | None = None
    times_ms: tuple[int, ...] = ()

    @property
    def key(self) -> str | None:
        """The key of its record, if that is known."""
        return self.client or self.user

    def is_it(self, message: PushMessage) -> bool:
        """Is it this message?"""
        return (
            message.id == self.id
            and message.product in self.products
            and self.realm in (None, message.realm)
            and self.client in (None, message.client)
            and self.user in (None, message.user)
        )


@dataclass(frozen=True, slots=True)
class Sighting:
    """A message's record and its time (ms), if it was found; `whole`: else there is none that Kafka still keeps."""

    message: PushMessage | None
    accepted_ms: int
    whole: bool


@dataclass(frozen=True, slots=True)
class Receipts:
    """What receipts say, in the order of each partition; `whole`: there are no others, as far as they are wanted."""

    found: list[Receipt]
    whole: bool


Wanted = Mapping[str, int | None]
"""Key of receipts (a client's id) → since when, ms; None: not known."""


class Sightings:
    """`workers.center.ports.MessageLog` on Kafka. `partitions(topic)`: how many it has."""

    def __init__(self, settings: KafkaSettings, partitions: Callable[[str], Awaitable[int]], *, most: int = MOST_READ) -> None:
        self._settings = settings
        self._partitions = partitions
        self._most = most
        self._readers = asyncio.Semaphore(READERS)
        self._free = READERS + WAITING

    async def find(self, asked: Asked) -> Sighting:
        """See the port."""
        search = _Search(asked)
        async with self._seeker(names.MESSAGES) as seeker:
            places = [place for topic in asked.topics for place in await self._places(topic, asked.key)]
            whole = await _sought(seeker, places, asked.times_ms, search.take)
        return Sighting(search.message, search.accepted_ms, whole)

    async def receipts(self, message_id: str, wanted: Wanted, enough: Callable[[list[Receipt]], bool]) -> Receipts:
        """See the port."""
        found: list[Receipt] = []
        text = message_id.encode()

        def take(record: ConsumerRecord) -> bool:
            receipt = _read(Receipt, record) if text in (record.value or b"") else None
            if receipt is None or receipt.id != message_id or (receipt.client not in wanted and receipt.client):
                return False
            found.append(receipt)
            return enough(found)

        timed: dict[TopicPartition, int] = {}
        timeless: set[TopicPartition] = set()
        for key, since in wanted.items():
            [place] = await self._places(names.RECEIPTS, key)
            if since is None:
                timeless.add(place)
            else:
                timed[place] = min(since, timed.get(place, since))
        whole = True
        async with self._seeker(names.RECEIPTS) as seeker:
            if timeless:
                whole = await seeker.read_last(sorted(timeless), take) is not End.BOUND
            if since_of := {place: since for place, since in timed.items() if place not in timeless}:
                whole &= await seeker.read(since_of, take) is not End.BOUND
        return Receipts(found, whole)

    async def _places(self, topic: str, key: str | None) -> list[TopicPartition]:
        count = await self._partitions(topic)
        chosen: Iterable[int] = range(count) if key is None else [partition_of(key, count)]
        return [TopicPartition(topic, partition) for partition in chosen]

    @asynccontextmanager
    async def _seeker(self, topic: str) -> AsyncIterator[Seeker]:
        if self._free <= 0:
            raise Problem("busy", "others are asking for states of messages; ask again", retry_after_s=RETRY_AFTER_S)
        self._free -= 1
        try:
            async with self._readers, seeking(self._settings, most=self._most) as seeker:
                with took.labels(topic).time():
                    yield seeker
                looked_at.labels(topic).inc(self._most - seeker.left)
        finally:
            self._free += 1


class _Search:
    """The first record of a message. A copy (it names when its original was accepted) counts where no original is found."""

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._text = asked.id.encode()
        self.message: PushMessage | None = None
        self.accepted_ms = 0

    def take(self, record: ConsumerRecord) -> bool:
        """Look at a record; True: it is the one."""
        message = _read(PushMessage, record) if self._text in (record.value or b"") else None
        if message is None or not self._asked.is_it(message):
            return False
        self.message, self.accepted_ms = message, message.accepted_ms or record.timestamp
        return message.accepted_ms is None or self._asked.key is not None


async def _sought(
    seeker: Seeker, places: list[TopicPartition], times_ms: Iterable[int], take: Callable[[ConsumerRecord], bool]
) -> bool:
    """Look near each of the times, then from a while before the first one on. Returns False if the bound was hit."""
    times = sorted(times_ms)
    if not times:
        return await seeker.read_last(places, take) is not End.BOUND
    before, after = NEAR_MS
    for at in times:
        end = await seeker.read(dict.fromkeys(places, at - before), take, until_ms=at + after)
        if end is not End.READ:
            return end is End.FOUND
    return await seeker.read(dict.fromkeys(places, times[0] - BEFORE_MS), take) is not End.BOUND


def _read(kind: type[R], record: ConsumerRecord) -> R | None:
    """The record, if it is of this kind: what is not was a dead letter, or is about to be one."""
    try:
        found = codec.decode(record.value)
    except codec.Undecodable as error:
        log.debug("record not readable", topic=record.topic, partition=record.partition, error=str(error)[:200])
        return None
    return found if isinstance(found, kind) else None
