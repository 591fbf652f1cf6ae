"""What every owned job has, however it reaches its clients: it waits for its time and a place, obeys commands, is kept in
`push.jobs` each second and shown to readers, and ends.

A kind of job (`run.py`: slices to rooms; `listrun.py`: messages to a list) says how it goes on (`_drive`),
what its cursor is (`_cursors`) and how it looks (`view`). The life (`life.py`) says what may be.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

import msgspec
import structlog
from msgspec.structs import replace
from nats.js.kv import KeyValue
from prometheus_client import Counter

from infra.audiences import Audiences
from infra.bus import Bus, KvErrors
from infra.documents import Product
from infra.journal import Entry, Journal, JournalDown
from infra.keeper import Keeper
from infra.rooms import Rooms
from infra.wire import Counts, JobView
from schemas import names
from schemas.broadcasts import Audit, Broadcast, JobRecord, RoomCursor, Transition
from schemas.jobs import IDLE, JobState
from workers.broadcast import funnel
from workers.broadcast import life as joblife
from workers.broadcast.channel import Fallbacks
from workers.broadcast.funnel import Figures
from workers.broadcast.life import CanaryWatch
from workers.broadcast.pace import Pace, Pressure, ramped
from workers.broadcast.receiptcount import ReceiptCounts

TICK: Final = (0.02, 0.5)
"""A job looks around at least and at most so often, s; a reply or a command wakes it too."""
RETRY: Final = 0.5
SAVE: Final = 1.0
SHOW_AGAIN: Final = 10.0
"""A job that does not change is shown again so often, s: the readers' bucket may have been wiped."""

log = structlog.get_logger("jobrun")
waited = Counter("longwire_broadcast_waited_total", "Broadcasts that had to wait: so many of their product had not expired")
persons = Counter("longwire_broadcast_persons_total", "Persons that rooms confirmed to have written to, or of lists, sent to")
halts = Counter("longwire_broadcast_halted_total", "Broadcasts that their canary halted")


class Probes(Protocol):
    """Who follows a product's health (workers.broadcast.health.HealthProbes)."""

    async def watch(self, product: str, pressure: Pressure, moving: Callable[[], bool]) -> None:
        """Keep `pressure` true while `moving()`; runs until it is cancelled."""


@dataclass(frozen=True, slots=True)
class Tools:
    """What a run needs of the process."""

    bus: Bus
    journal: Journal
    keeper: Keeper
    rooms: Rooms
    probes: Probes
    audiences: Audiences
    receipts: ReceiptCounts
    fallbacks: Fallbacks


@dataclass(frozen=True, slots=True)
class Claim:
    """A job that this process owns under `term`; `old_keys` of former terms are removed with the first cursor."""

    record: JobRecord
    term: int
    content: Broadcast
    old_keys: frozenset[str]


@dataclass(slots=True)
class Shared:
    """What the jobs of one product share: its pace, what its servers bear, and its places in the rooms."""

    pace: Pace
    places: asyncio.Semaphore
    pressure: Pressure


class JobBase(ABC):
    """One owned job. `run()` returns when it is over or belongs to somebody else; cancel it to let it go."""

    def __init__(self, claim: Claim, tools: Tools, shared: Shared, *, wall_ms: int, now: float) -> None:
        """`wall_ms` and `now` are the same moment, by the two clocks."""
        self.record = claim.record
        self._claim = claim
        self._content = claim.content
        self._tools = tools
        self._shared = shared
        self._pace = shared.pace
        self._old_keys = claim.old_keys
        self._wall_ms = wall_ms - now * 1000
        canary = claim.content.canary
        self._canary = None if canary is None else CanaryWatch(canary, passed=claim.record.canary_passed)
        self._moving_since = now
        self._superseded = False
        self._through = False
        self._changed = True
        self._woken = asyncio.Event()
        self._saving = asyncio.Lock()
        self._audits: list[Audit] = []
        self._kept = claim.record.applied
        self._bucket: KeyValue | None = None
        self._shown_at = now

    @property
    def job(self) -> str:
        """The job's id."""
        return self.record.job

    # --- what each kind of job does in its own way --------------------------------------------------------------------

    @abstractmethod
    def _begun(self, record: JobRecord) -> JobRecord:
        """Its time has come: `record`, which is running from now on, with what it begins with."""

    @abstractmethod
    async def _drive(self) -> None:
        """Go on until `_ended()`."""

    @abstractmethod
    def _idled(self) -> None:
        """It was paused or halted: what is under way stops."""

    @abstractmethod
    def _moved(self) -> None:
        """It is in another state: look at everything again."""

    @abstractmethod
    async def _let_go(self) -> None:
        """Nothing of it may be under way on return."""

    @abstractmethod
    async def _last_counts(self) -> None:
        """It is over: take the counts that its last word will show."""

    @abstractmethod
    def _cursors(self) -> tuple[RoomCursor, ...]:
        """What is kept of how far it is; () where it has not begun."""

    @abstractmethod
    def _sent(self) -> int:
        """Persons so far."""

    @abstractmethod
    def _figures(self, now: float) -> Figures:
        """How far it is."""

    # --- its life -----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Drive the job to its end."""
        try:
            async with asyncio.TaskGroup() as group:
                saving = group.create_task(self._save_each_second())
                try:
                    await self._live()
                finally:
                    self._through = True
                    saving.cancel()
        finally:
            self._pace.leave(self.job, time.monotonic())
            await self._let_go()
        if not self._superseded:
            await self._end()

    async def _live(self) -> None:
        if await self._its_time() and await self._its_place():
            try:
                await self._drive()
            finally:
                self._shared.places.release()

    async def _end(self) -> None:
        """The job is over: the last word is saved."""
        await self._last_counts()
        if not joblife.over(self.record):
            self.record = replace(self.record, state=JobState.EXPIRED)
        while True:
            if await self._save():
                break
            await asyncio.sleep(SAVE)
        log.info("broadcast over", job=self.job, state=self.record.state, sent=self._sent())

    # --- commands -----------------------------------------------------------------------------------------------------

    async def obey(self, command: Transition, offset: int) -> None:
        """Do what a command at this offset of `push.broadcasts` asks; it is in Kafka on return.

        A repeat changes nothing. Raises schemas.jobs.NotAllowed, and JournalDown where it could not be kept: then it comes again.
        """
        before, now_ms = self.record, self._now_ms()
        if offset > before.applied:
            after = joblife.moved(before, self._content, self._product(), command, offset=offset, now_ms=now_ms)
            self._become(after)
            self._audits.append(joblife.audit_of(before, after, command, now_ms))
            log.info("broadcast commanded", job=self.job, action=command.action, before=before.state, after=after.state)
            if after.state == JobState.PAUSED:
                self._idled()
        if offset > self._kept:
            await self._keep()

    def _become(self, record: JobRecord) -> None:
        """Another state, from now on; the ramp begins anew where it starts to move."""
        if self.record.state != JobState.RUNNING and record.state == JobState.RUNNING:
            self._moving_since = time.monotonic()
        if self.record.state == JobState.HALTED and self._content.canary is not None:
            self._canary = CanaryWatch(self._content.canary, passed=record.canary_passed)
        self.record = record
        self._changed = True
        self._moved()
        self._woken.set()

    def _change(self, record: JobRecord, action: str) -> None:
        """A change that nobody asked for: it is kept with the next cursor."""
        self._audits.append(joblife.audit_of(self.record, record, None, self._now_ms(), action=action))
        self._become(record)

    # --- before it begins ---------------------------------------------------------------------------------------------

    async def _its_time(self) -> bool:
        """A draft waits for its command, a schedule for its time; False if it ends before."""
        while self.record.state in (JobState.DRAFT, JobState.SCHEDULED):
            now_ms = self._now_ms()
            if now_ms >= self.record.expires_ms:
                return False
            if self.record.state == JobState.SCHEDULED and now_ms >= self.record.started_ms:
                self._become(self._begun(replace(self.record, state=JobState.RUNNING)))
                break
            await self._rest(TICK[1] if self.record.state == JobState.DRAFT else (self.record.started_ms - now_ms) / 1000)
        return not joblife.over(self.record)

    async def _its_place(self) -> bool:
        """A product has so many places in each room; False if the job ends before it has one."""
        if self._shared.places.locked():
            waited.inc()
            log.warning("broadcast waits for a place", job=self.job, product=self.record.product)
        getting = asyncio.ensure_future(self._shared.places.acquire())
        try:
            while not getting.done() and not self._ended():
                await asyncio.wait({getting}, timeout=TICK[1])
        finally:
            if not getting.done():
                getting.cancel()
        if not getting.done() or getting.cancelled():
            return False
        if self._ended():
            self._shared.places.release()
            return False
        return True

    def _ended(self) -> bool:
        return self._superseded or joblife.over(self.record) or self._now_ms() >= self.record.expires_ms

    def _now_ms(self) -> int:
        """The wall clock of when the run began, carried on monotonically."""
        return int(self._wall_ms + time.monotonic() * 1000)

    # --- while it goes on ---------------------------------------------------------------------------------------------

    def moving(self) -> bool:
        """Is it in a state in which it writes?"""
        return self.record.state not in IDLE

    def _product(self) -> Product | None:
        return self._tools.keeper.products.get(self.record.product)

    def _asked(self, now: float) -> float:
        """Persons a second that the job wants now, as far as its ramp is; the product's rate is what its health leaves."""
        product, rate = self._product(), float(self.record.rate)
        if product is not None:  # without one its jobs go on as they were accepted
            self._pace.set_rate(max(1.0, product.rate * self._shared.pressure.factor), now)
            rate = min(rate, product.rate)
        return ramped(rate, self._content.ramp_s, now - self._moving_since)

    def _canary_halts(self, canary: CanaryWatch, counts: Counts, *, walked: bool, now: float) -> bool:
        """Let the canary look at the counts; True if that halted the job."""
        passed = canary.passed
        reason = canary.look(counts, walked=walked, now=now)
        if reason:
            halts.inc()
            log.warning("broadcast halted", job=self.job, product=self.record.product, reason=reason)
            self._change(joblife.halted(self.record, reason), "halt")
            self._idled()
        elif canary.passed and not passed:
            self._change(replace(self.record, canary_passed=True), "canary-passed")
        return bool(reason)

    def _complete(self) -> None:
        """Everybody had it who could have it by now."""
        self._change(joblife.completed(self.record, self._now_ms()), "complete")
        log.info("broadcast completed", job=self.job, sent=self._sent())

    async def _rest(self, seconds: float) -> bool:
        """Wait so long, TICK at most, or until woken; True if woken."""
        left = max(0.0, (self.record.expires_ms - self._now_ms()) / 1000)
        try:
            async with asyncio.timeout(min(seconds, TICK[1], left)):
                await self._woken.wait()
        except TimeoutError:
            return False
        self._woken.clear()
        return True

    # --- what is kept -------------------------------------------------------------------------------------------------

    async def _save_each_second(self) -> None:
        while not self._through:
            if self._changed:
                self._changed = False
                if not await self._save():
                    self._changed = True
            elif time.monotonic() - self._shown_at >= SHOW_AGAIN:
                await self._show(time.monotonic())
            await asyncio.sleep(SAVE)

    async def _save(self) -> bool:
        """Cursor and counts to Kafka, then to the readers' bucket; False if either was not reached."""
        try:
            await self._keep()
        except JournalDown as error:
            log.warning("cursor not saved", job=self.job, error=str(error)[:200])
            return False
        return await self._show(time.monotonic())

    async def _keep(self) -> None:
        """The record, and what is to be written down of its changes, to Kafka; raises JournalDown."""
        async with self._saving:  # one after the other, so that the last one is the latest
            cursors = self._cursors()
            if cursors:
                self.record = replace(self.record, rooms=cursors)
            record, audits = self.record, list(self._audits)
            key, by = names.job_key(self.job, self._claim.term), record.product
            entries = [Entry(names.JOBS, key, record, by=by)]
            entries += [Entry(names.JOBS, old, None, by=by) for old in sorted(self._old_keys)]
            entries += [Entry(names.AUDIT, by, audit) for audit in audits]
            await self._tools.journal.produce(entries)
            self._old_keys, self._kept = frozenset(), record.applied
            del self._audits[: len(audits)]

    async def _show(self, now: float) -> bool:
        try:
            if self._bucket is None:
                self._bucket = await self._tools.bus.bucket(names.KV_JOBS)
            await self._bucket.put(names.kv_job_key(self.job), msgspec.json.encode(self.view(now)))
        except KvErrors as error:
            self._bucket = None
            log.warning("job not shown", job=self.job, error=type(error).__name__)
            return False
        self._shown_at = now
        return True

    def view(self, now: float) -> JobView:
        """The job as readers see it."""
        return funnel.view(
            self.record,
            self._content,
            self._figures(now),
            term=self._claim.term,
            pace=self._pace.share(self.job) if self.moving() else 0.0,
            pressure=self._shared.pressure.factor,
            canary=funnel.canary_view(self._canary, halted=self.record.state == JobState.HALTED),
        )
