"""The KV bucket `jobs` as the API reads it: a fold of `push.jobs` that its owners write, for readers only."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import msgspec
import structlog
from nats.js.errors import KeyNotFoundError, KeyWrongLastSequenceError
from nats.js.kv import KeyValue

from infra.bus import Bus, BusDown, KvErrors
from infra.meant import target_of
from infra.mirror import Mirror
from infra.wire import Counts, Target
from schemas import names
from schemas.broadcasts import Broadcast
from schemas.jobs import OVER, JobState
from workers.center.web.problems import Problem, bus_down

HINT_TIMEOUT: Final = 1.0

COUNTS: Final = tuple(name for name in Counts.__struct_fields__ if name != "ack_times")
NO_PLACE: Final = OVER | {JobState.DRAFT, JobState.SCHEDULED}

log = structlog.get_logger("center")

Document = dict[str, Any]


class Row(msgspec.Struct, frozen=True):
    """What lists and counts need of a job's document; the rest of it may be large."""

    job: str
    product: str
    state: str
    started_ms: int | None = None
    expires_ms: int | None = None
    start_ms: int | None = None
    draft: bool = False
    target: Target | None = None

    @property
    def follows(self) -> str:
        """The state by which an action is judged: a job that its owner has not claimed yet will be in the first one that it
        was posted for. Whatever is asked of it lies behind it in Kafka."""
        if self.state != JobState.ACCEPTED:
            return self.state
        if self.draft:
            return JobState.DRAFT
        return JobState.RUNNING if self.start_ms is None else JobState.SCHEDULED

    @property
    def rank(self) -> tuple[float, str]:
        """Newest first in descending order; what has no start yet is the newest."""
        return float("inf") if self.started_ms is None else self.started_ms, self.job

    def record(self) -> Broadcast | None:
        """What is known of a draft's content: whom it means. None where its owner is of a version that does not tell."""
        if self.target is None:
            return None
        return Broadcast(id=self.job, product=self.product, **msgspec.structs.asdict(self.target))

    def has_place(self, now_ms: int) -> bool:
        """Does it take one of its product's places?"""
        return self.follows not in NO_PLACE and (self.expires_ms is None or self.expires_ms > now_ms)


def row_of(document: Document) -> Row:
    """The row of a document; raises a Problem (503) for one that can't be read."""
    try:
        return msgspec.convert(document, Row)
    except msgspec.ValidationError as error:
        log.error("job entry refused", error=str(error)[:200])
        raise Problem("bus-down", "the broadcast's entry can't be read; its owner writes it again each second") from None


class JobIndex:
    """The rows of all jobs, by their keys in the bucket, and who waits for a change of one."""

    def __init__(self) -> None:
        self._rows: dict[str, Row] = {}
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self._decode = msgspec.json.Decoder(Row).decode

    def take(self, key: str, value: bytes | None) -> None:
        """A change in the bucket (`infra.mirror.Mirror`)."""
        self._rows.pop(key, None)
        if value is not None:
            try:
                self._rows[key] = self._decode(value)
            except msgspec.MsgspecError as error:
                log.error("job entry refused", key=key, error=str(error)[:200])
        for event in self._waiting.get(key, ()):
            event.set()

    def page(
        self, sees: Callable[[str], bool], product: str, state: str, before: tuple[float, str] | None, limit: int
    ) -> tuple[list[str], bool]:
        """Keys of at most `limit` jobs of products that are seen, newest first, those after `before` in that order; and whether
        there are more."""
        fits = [
            (row.rank, key)
            for key, row in self._rows.items()
            if product in ("", row.product)
            and sees(row.product)
            and state in ("", row.state)
            and (before is None or row.rank < before)
        ]
        fits.sort(reverse=True)
        return [key for _, key in fits[:limit]], len(fits) > limit

    def active(self, product: str, now_ms: int, *, besides: str) -> int:
        """How many of a product's places are taken by other jobs than this one."""
        rows = (row for row in self._rows.values() if row.product == product and row.job != besides)
        return sum(row.has_place(now_ms) for row in rows)

    @contextmanager
    def changes(self, job: str) -> Iterator[asyncio.Event]:
        """An event that each change of the job sets; who has seen it clears it."""
        key, event = names.kv_job_key(job), asyncio.Event()
        self._waiting.setdefault(key, set()).add(event)
        try:
            yield event
        finally:
            self._waiting[key].discard(event)
            if not self._waiting[key]:
                del self._waiting[key]


def accepted_document(record: Broadcast, rate: int, expires_ms: int | None) -> Document:
    """A job that is in Kafka and not yet claimed, in the form in which its owner will write it; `draft` is only here."""
    return {
        "job": record.id,
        "product": record.product,
        "state": JobState.ACCEPTED,
        "rate": rate,
        "priority": record.priority,
        "ramp_s": record.ramp_s,
        "draft": record.draft,
        "start_ms": record.start_ms,
        "started_ms": None,
        "expires_ms": expires_ms,
        "completed_ms": None,
        "targeted": 0,
        "progress": 0.0,
        "uncertain": 0,
        "term": 0,
        "totals": dict.fromkeys(COUNTS, 0),
        "rooms": [],
        "target": msgspec.to_builtins(target_of(record)) if record.draft else None,
    }


class JobMirror:
    """All jobs, mirrored. `index` is told of each change by the mirror."""

    def __init__(self, bus: Bus, mirror: Mirror, index: JobIndex) -> None:
        self._bus = bus
        self._mirror = mirror
        self.index = index

    async def get(self, job: str) -> Document | None:
        """A job's document, or None. A job that the mirror does not have is looked up; raises a Problem (503) if NATS is away."""
        key = names.kv_job_key(job)
        value = self._mirror.entries.get(key) or await self._look_up(key)
        return None if value is None else _document(key, value)

    def known(self, key: str) -> Document | None:
        """What the mirror has under a key of the bucket."""
        value = self._mirror.entries.get(key)
        return None if value is None else _document(key, value)

    async def announce(self, document: Document) -> None:
        """Create the job's entry if there is none. Only a hint: what fails is logged, the owner writes the entry anyway."""
        try:
            async with asyncio.timeout(HINT_TIMEOUT):
                bucket = await self._bucket()
                await bucket.create(names.kv_job_key(document["job"]), json.dumps(document).encode())
        except KeyWrongLastSequenceError:
            return  # its owner was faster
        except KvErrors as error:
            log.warning("job not announced", job=document["job"], error=type(error).__name__)

    async def _look_up(self, key: str) -> bytes | None:
        try:
            async with asyncio.timeout(HINT_TIMEOUT):
                bucket = await self._bucket()
                return (await bucket.get(key)).value
        except KeyNotFoundError:
            return None
        except KvErrors as error:
            log.warning("job not looked up", error=type(error).__name__)
            raise bus_down() from None

    async def _bucket(self) -> KeyValue:
        if not self._bus.connected:
            raise BusDown(names.KV_JOBS)
        return await self._bus.bucket(names.KV_JOBS)


def _document(key: str, value: bytes) -> Document | None:
    try:
        document = json.loads(value)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        log.error("job entry refused", key=key)
        return None
    return document
