"""Explicit lists of clients in `push.audiences`, as they are read: found by their name, then read chunk by chunk.

All chunks of an audience have one key, so they lie in one partition, in order. An audience may be uploaded several times (an
upload broke off, its sender tries again): chunks of one upload belong together, and the first upload that was sealed is the
audience, for good. So whoever holds an offset of it may go on there at any time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError

from infra.journal import JournalDown
from infra.scratch import close, scratch_consumer
from infra.settings import KafkaSettings
from schemas import codec, names
from schemas.broadcasts import AudienceChunk, Broadcast
from schemas.partition import partition_of

SEARCH: Final = 60.0
"""Seconds that a search through a partition may take."""
STALL: Final = 15.0
"""Seconds without a record before a read counts as failed."""
STEP: Final = 50
"""Records looked at before others get a turn: a chunk has about 20 KB."""
MAX_UPLOADS: Final = 100
"""Unsealed uploads of one audience that a search keeps in mind; the oldest is forgotten."""

log = structlog.get_logger("audiences")


@dataclass(slots=True)
class Audience:
    """An audience as a search found it: its first sealed upload, or else what is there of the latest one.

    `first`: offset of its first chunk; `clients` and `chunks`: how many there are.
    """

    name: str
    product: str
    realm: str
    upload: str
    first: int
    clients: int = 0
    chunks: int = 0
    sealed: bool = False


@dataclass(frozen=True, slots=True)
class Chunk:
    """A chunk where it lies."""

    offset: int
    record: AudienceChunk


def unusable(content: Broadcast, audience: Audience | None) -> str:
    """Why a broadcast can't go to what was found under its audience's name, or ""."""
    name = content.audience
    if audience is None:
        return f"product {content.product} has no audience {name}: upload it first"
    if not audience.sealed:
        return f"audience {name} is not sealed: its upload has not ended, or broke off after {audience.clients} ids"
    if audience.realm != content.realm:
        return f"audience {name} has clients of realm {audience.realm}, the broadcast is for realm {content.realm}"
    return ""


class Audiences:
    """The topic's reading side. Each call has a consumer of its own, without a group: it only looks."""

    def __init__(self, settings: KafkaSettings, partitions: Callable[[str], Awaitable[int]], *, name: str) -> None:
        """`partitions`: how many a topic has (infra.journal.Journal.partitions)."""
        self._settings = settings
        self._partitions = partitions
        self._name = name

    async def find(self, product: str, audience: str, *, deadline: float = SEARCH) -> Audience | None:
        """The audience of a product under this name, sealed or not, None if there is nothing of it.

        Reads the audience's whole partition, comparing keys only. Raises JournalDown, also where `deadline` (s) is not kept.
        """
        fold = _Fold()
        try:
            async with asyncio.timeout(deadline), self._consumer(product, audience) as (consumer, where):
                end = (await consumer.end_offsets([where]))[where]
                await consumer.seek_to_beginning(where)
                while await consumer.position(where) < end:
                    found = await consumer.getmany(where, timeout_ms=200, max_records=STEP)
                    for chunk in _chunks(found.get(where, ()), product, audience):
                        if fold.take(chunk):
                            return fold.sealed
        except TimeoutError as error:
            raise JournalDown(f"audience {audience}: {names.AUDIENCES} not searched within {deadline:g} s") from error
        return fold.latest

    async def read(self, product: str, audience: str, offset: int) -> AsyncGenerator[Chunk]:
        """Chunks of the upload that has one at `offset`, from there on; ends after its seal, or where there is none at `offset`.

        To be closed (`contextlib.aclosing`). Raises JournalDown: begin anew where you were.
        """
        async with self._consumer(product, audience) as (consumer, where):
            begin, end = (await consumer.beginning_offsets([where]))[where], (await consumer.end_offsets([where]))[where]
            if not begin <= offset < end:
                return
            consumer.seek(where, offset)
            before: Chunk | None = None
            while before is None or before.record.sealed is None:
                for chunk in _chunks(await _next(consumer, where), product, audience):
                    if before is None and chunk.offset != offset:
                        return
                    if before is None or _follows(chunk.record, before.record):
                        before = chunk
                        yield chunk
                if before is None:
                    return

    @asynccontextmanager
    async def _consumer(self, product: str, audience: str) -> AsyncIterator[tuple[AIOKafkaConsumer, TopicPartition]]:
        """A consumer of the partition in which the audience lies."""
        consumer = scratch_consumer(self._settings, name=self._name, fetch_max_wait_ms=100)
        try:
            await consumer.start()
            partition = partition_of(names.audience_key(product, audience), await self._partitions(names.AUDIENCES))
            where = TopicPartition(names.AUDIENCES, partition)
            consumer.assign([where])
            yield consumer, where
        except (KafkaError, OSError) as error:  # TimeoutError is an OSError
            raise JournalDown(f"{names.AUDIENCES}: {type(error).__name__}: {error}") from error
        finally:
            await close(consumer)


class _Fold:
    """The uploads of one audience, chunk by chunk."""

    def __init__(self) -> None:
        self._uploads: dict[str, Audience] = {}
        self.sealed: Audience | None = None

    @property
    def latest(self) -> Audience | None:
        """The upload that began last."""
        return next(reversed(self._uploads.values()), None)

    def take(self, chunk: Chunk) -> bool:
        """Take note of a chunk; True if it sealed its upload. What does not follow the one before (a repeat) is left out."""
        record = chunk.record
        found = self._uploads.get(record.upload)
        if found is None and record.number == 0:
            while len(self._uploads) >= MAX_UPLOADS:
                del self._uploads[next(iter(self._uploads))]
            found = Audience(record.audience, record.product, record.realm, record.upload, chunk.offset)
            self._uploads[record.upload] = found
        if found is None or record.number != found.chunks:
            return False
        found.clients += len(record.clients)
        found.chunks += 1
        found.sealed = record.sealed is not None and record.sealed == found.clients
        if found.sealed:
            self.sealed = found
        return found.sealed


def _follows(record: AudienceChunk, before: AudienceChunk) -> bool:
    return record.upload == before.upload and record.number == before.number + 1


def _chunks(records: Iterable[ConsumerRecord], product: str, audience: str) -> list[Chunk]:
    """Which of these are chunks of this audience; what does not decode is logged and left out."""
    key, found = names.audience_key(product, audience).encode(), []
    for item in records:
        if item.key != key or item.value is None:
            continue
        try:
            found.append(Chunk(item.offset, codec.decode_as(AudienceChunk, item.value)))
        except codec.Undecodable as error:
            log.error("audience chunk not readable", partition=item.partition, offset=item.offset, error=str(error)[:200])
    return found


async def _next(consumer: AIOKafkaConsumer, where: TopicPartition) -> list[ConsumerRecord]:
    """The next record; raises TimeoutError after STALL."""
    async with asyncio.timeout(STALL):
        while not (found := (await consumer.getmany(where, timeout_ms=200, max_records=1)).get(where)):
            pass
    return list(found)
