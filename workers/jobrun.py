"""One broadcast while this process owns it: it waits for its time and a place, slices go out, replies come in, commands are
obeyed, and its record is kept in `push.jobs`.

The plan (`workers/pacing.py`) decides what is next and the life (`workers/joblife.py`) what may be; this file sends, saves and
ends. A room that does not answer gets the same slice again, and delays nobody else. An answer `old-term` means that another
process owns the job now: this one stops, without a word.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, Protocol

import msgspec
import structlog
from nats.js.kv import KeyValue
from prometheus_client import Counter

from infra.bus import Bus, KvErrors
from infra.journal import Entry, Journal, JournalDown
from infra.keeper import Keeper, Product
from infra.lifecycle import end
from infra.rooms import Rooms, RoomView
from infra.wire import JobView
from schemas import names
from schemas.broadcasts import Audit, Broadcast, JobRecord, Transition
from schemas.jobs import IDLE, JobState
from workers import funnel, joblife
from workers.jobcursor import cursor, first_cursors, plans
from workers.joblife import CanaryWatch
from workers.jobrooms import UNREACHED, JobRooms
from workers.pace import WEIGHTS, Pace, Pressure, ramped
from workers.pacing import JobPlan, Order, RoomKey, RoomPlan

TICK: Final = (0.02, 0.5)
"""The loop looks at its rooms at least and at most so often, s; a reply or a command wakes it too."""
RETRY: Final = 0.5
SAVE: Final = 1.0
SHOW_AGAIN: Final = 10.0
"""A job that does not change is shown again so often, s: the readers' bucket may have been wiped."""

log = structlog.get_logger("jobrun")
persons = Counter("longwire_broadcast_persons_total", "Persons that rooms confirmed to have written to")
orders = Counter("longwire_broadcast_slices_total", "Slices by answer", ["status"])
waited = Counter("longwire_broadcast_waited_total", "Broadcasts that had to wait: so many of their product had not expired")
halts = Counter("longwire_broadcast_halted_total", "Broadcasts that their canary halted")


class Probes(Protocol):
    """Who follows a product's health (workers.health.HealthProbes)."""

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


class JobRun:
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
        self._rooms = JobRooms(tools.bus, tools.keeper, claim.content, term=claim.term)
        self._plan = JobPlan(claim.record.job, {item.key: item for item in plans(claim.record, now)})
        canary = claim.content.canary
        self._canary = None if canary is None else CanaryWatch(canary, passed=claim.record.canary_passed)
        self._moving_since = now
        self._superseded = False
        self._through = False
        self._changed = True
        self._woken = asyncio.Event()
        self._saving = asyncio.Lock()
        self._sending: dict[RoomKey, asyncio.Task[None]] = {}
        self._retry_at: dict[RoomKey, float] = {}
        self._pausing: set[asyncio.Task[None]] = set()
        self._audits: list[Audit] = []
        self._kept = claim.record.applied
        self._bucket: KeyValue | None = None
        self._shown_at = now

    @property
    def job(self) -> str:
        """The job's id."""
        return self.record.job

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
            await self._drop_orders()
        if not self._superseded:
            await self._end()

    async def _live(self) -> None:
        if await self._its_time() and await self._its_place():
            try:
                await self._drive()
            finally:
                self._shared.places.release()

    async def _drop_orders(self) -> None:
        await end([*self._sending.values(), *self._pausing])

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
                self._pause_rooms()
        if offset > self._kept:
            await self._keep()

    def _pause_rooms(self) -> None:
        """What is being written stops at once; nobody waits for who does not answer."""
        for plan in self._plan.live():
            if plan.announced:
                task = asyncio.ensure_future(self._rooms.pause(plan, self.job))
                self._pausing.add(task)
                task.add_done_callback(self._pausing.discard)

    def _become(self, record: JobRecord) -> None:
        """Another state, from now on; the ramp begins anew where it starts to move."""
        if self.record.state != JobState.RUNNING and record.state == JobState.RUNNING:
            self._moving_since = time.monotonic()
        if self.record.state == JobState.HALTED and self._content.canary is not None:
            self._canary = CanaryWatch(self._content.canary, passed=record.canary_passed)
        self.record = record
        self._changed = True
        self._plan.hurry(time.monotonic())
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
                self._begin()
                break
            await self._rest(TICK[1] if self.record.state == JobState.DRAFT else (self.record.started_ms - now_ms) / 1000)
        return not joblife.over(self.record)

    def _begin(self) -> None:
        rooms = first_cursors(self._tools.rooms, self.record.product)
        now = time.monotonic()
        self._plan.rooms = {item.key: item for item in plans(replace(self.record, rooms=rooms), now)}
        self._become(replace(self.record, state=JobState.RUNNING, rooms=rooms))

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

    # --- the loop -----------------------------------------------------------------------------------------------------

    async def _drive(self) -> None:
        while not self._ended():
            self._woken.clear()
            now = time.monotonic()
            views = self._look(now)
            if self._canary is not None:
                self._plan.stop_at(self._canary.stop)
            asked = self._asked(now) if self.moving() and self._plan.busy() else 0.0
            self._pace.ask(self.job, asked, now, weight=WEIGHTS[self._content.priority])
            self._plan.due(self._pace, now, hold=not self.moving())
            self._send(views, now)
            self._judge(now)
            await self._rest_until(self._plan.next_at(now))

    def _look(self, now: float) -> dict[RoomKey, RoomView]:
        """Which rooms there are. While NATS is away nobody's lease comes: that says nothing of the rooms."""
        if not self._tools.bus.connected:
            return {}
        product = self.record.product
        views = {(view.lease.room, view.lease.epoch): view for view in self._tools.rooms.live()}
        self._changed |= self._plan.see({key: view.lease.bound.get(product, 0) for key, view in views.items()}, now)
        self._plan.forget_dead(now)
        return views

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

    def _send(self, views: dict[RoomKey, RoomView], now: float) -> None:
        """Every order that is not answered is on its way, once at a time."""
        for plan in self._plan.live():
            view = views.get(plan.key)
            if plan.order is None or view is None or plan.key in self._sending or self._retry_at.get(plan.key, 0.0) > now:
                continue
            task = asyncio.ensure_future(self._deliver(plan, plan.order, view))
            self._sending[plan.key] = task
            task.add_done_callback(partial(self._delivered, plan.key))

    def _delivered(self, key: RoomKey, task: asyncio.Task[None]) -> None:
        self._sending.pop(key, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("slice failed", job=self.job, room=key[0], exc_info=error)
            self._retry_at[key] = time.monotonic() + RETRY
        self._woken.set()

    def _judge(self, now: float) -> None:
        """Has the canary something to say, is every slot walked?"""
        if self.record.state not in (JobState.RUNNING, JobState.COMPLETED) or not self._tools.bus.connected:
            return
        if self._canary is not None and self._canary_halts(self._canary, now):
            return
        if self.record.state == JobState.RUNNING and (self._canary is None or self._canary.passed) and self._plan.done(now):
            self._change(joblife.completed(self.record, self._now_ms()), "complete")
            log.info("broadcast completed", job=self.job, sent=self._plan.totals(now).sent)

    def _canary_halts(self, canary: CanaryWatch, now: float) -> bool:
        passed = canary.passed
        reason = canary.look(self._plan.totals(now), walked=self._plan.walked(now), now=now)
        if reason:
            halts.inc()
            log.warning("broadcast halted", job=self.job, product=self.record.product, reason=reason)
            self._change(joblife.halted(self.record, reason), "halt")
            self._pause_rooms()
        elif canary.passed and not passed:
            self._change(replace(self.record, canary_passed=True), "canary-passed")
        return bool(reason)

    async def _rest_until(self, when: float) -> None:
        if await self._rest(max(when - time.monotonic(), TICK[0])):
            await asyncio.sleep(TICK[0])  # replies come in flocks

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

    # --- rooms --------------------------------------------------------------------------------------------------------

    async def _deliver(self, plan: RoomPlan, order: Order, view: RoomView) -> None:
        try:
            if not plan.announced and not await self._announce(plan):
                return
            reply = await self._rooms.slice(self.record, order, view)
        except UNREACHED as error:
            orders.labels(type(error).__name__).inc()
            self._later(plan)
            return
        orders.labels(reply.status).inc()
        if reply.status == "ok":
            if self._plan.confirmed(order, reply, self._pace) is not None:
                persons.inc(reply.persons)
                self._changed = True
        elif reply.status == "unknown":
            plan.announced = False
        elif reply.status == "old-term":
            self._supersede()
        else:
            self._later(plan)

    async def _announce(self, plan: RoomPlan) -> bool:
        """Make the job known in a room; False if it can't be now."""
        reply = await self._rooms.announce(plan, self.record, left_ms=self.record.expires_ms - self._now_ms())
        if reply.status == "old-term":
            self._supersede()
        elif reply.status != "ok":
            log.warning("broadcast not taken by a room", job=self.job, room=plan.room, status=reply.status)
            self._later(plan)
        plan.announced = reply.status == "ok"
        return plan.announced

    def _later(self, plan: RoomPlan) -> None:
        self._retry_at[plan.key] = time.monotonic() + RETRY

    def _supersede(self) -> None:
        self._superseded = True
        self._woken.set()
        log.warning("broadcast belongs to another owner now", job=self.job, term=self._claim.term)

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
            if self._plan.rooms:
                self.record = replace(self.record, rooms=tuple(cursor(item) for item in self._plan.rooms.values()))
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
            self._plan,
            term=self._claim.term,
            now=now,
            pace=self._pace.share(self.job) if self.moving() else 0.0,
            pressure=self._shared.pressure.factor,
            canary=funnel.canary_view(self._canary, halted=self.record.state == JobState.HALTED),
        )

    async def _end(self) -> None:
        """The job is over: rooms forget it (they stop by themselves when it has expired), and the last word is saved."""
        if self._plan.rooms:  # else it never began, and nobody knows of it
            self._look(time.monotonic())
            await asyncio.gather(*(self._rooms.end(plan, self.job) for plan in self._plan.live()))
        if not joblife.over(self.record):
            self.record = replace(self.record, state=JobState.EXPIRED)
        while True:
            if await self._save():
                break
            await asyncio.sleep(SAVE)
        log.info("broadcast over", job=self.job, state=self.record.state, sent=self._plan.totals(time.monotonic()).sent)
