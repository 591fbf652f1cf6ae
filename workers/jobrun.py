"""One broadcast while this process owns it: slices go out, replies come in, the cursor is kept in `push.jobs`.

The plan (`workers/pacing.py`) decides; this file sends, saves and ends. A room that does not answer gets the same slice again,
and delays nobody else. An answer `old-term` means that another process owns the job now: this one stops, without a word.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import msgspec
import structlog
from nats.js.kv import KeyValue
from prometheus_client import Counter

from infra import wire
from infra.bus import Bus, BusError, KvErrors
from infra.journal import Entry, Journal, JournalDown
from infra.keeper import Keeper
from infra.rooms import Rooms, RoomView
from schemas import names
from schemas.broadcasts import Broadcast, JobRecord, RoomCursor
from schemas.jobs import JobState
from workers.jobfold import number_of
from workers.pacing import JobPlan, Order, Pace, RoomKey, RoomPlan

TICK: Final = (0.02, 0.5)
"""The loop looks at its rooms at least and at most so often, s; a reply wakes it too."""
SLICE_AGE_MS: Final = 3_000
"""A slice is refused by its room when it is older."""
ANSWER: Final = 3.0
"""How long a room may take beyond the slice's own time, s."""
RETRY: Final = 0.5
SAVE: Final = 1.0
MAX_VIEWED_ROOMS: Final = 1_000
"""Rooms listed in a job's KV entry, whose size is bounded; the totals have them all."""

log = structlog.get_logger("jobrun")
persons = Counter("longwire_broadcast_persons_total", "Persons that rooms confirmed to have written to")
orders = Counter("longwire_broadcast_slices_total", "Slices by answer", ["status"])

START: Final = "start"
"""Beside a room's counts in its cursor: how many clients it had when the job began."""


@dataclass(frozen=True, slots=True)
class Tools:
    """What a run needs of the process."""

    bus: Bus
    journal: Journal
    keeper: Keeper
    rooms: Rooms


@dataclass(frozen=True, slots=True)
class Claim:
    """A job that this process owns under `term`; `old_keys` of former terms are removed with the first cursor."""

    record: JobRecord
    term: int
    content: Broadcast
    old_keys: frozenset[str]


class JobRun:
    """One owned job. `run()` returns when it has expired or belongs to somebody else; cancel it to let it go."""

    def __init__(self, claim: Claim, tools: Tools, pace: Pace, *, wall_ms: int, now: float) -> None:
        """`wall_ms` and `now` are the same moment, by the two clocks."""
        self._claim = claim
        self._tools = tools
        self._pace = pace
        self._record = claim.record
        self._state = JobState(claim.record.state)
        self._old_keys = claim.old_keys
        self._expires_at = now + (claim.record.expires_ms - wall_ms) / 1000
        self._plan = JobPlan(claim.record.job, {item.key: item for item in plans(claim.record, now)})
        self._superseded = False
        self._changed = True
        self._woken = asyncio.Event()
        self._sending: dict[RoomKey, asyncio.Task[None]] = {}
        self._retry_at: dict[RoomKey, float] = {}
        self._encoder = wire.encoder()
        self._reply = msgspec.msgpack.Decoder(wire.SliceReply)
        self._answer = msgspec.msgpack.Decoder(wire.ControlReply)
        self._bucket: KeyValue | None = None

    @property
    def job(self) -> str:
        """The job's id."""
        return self._record.job

    async def run(self) -> None:
        """Drive the job to its expiry."""
        try:
            async with asyncio.TaskGroup() as group:
                saving = group.create_task(self._save_each_second())
                await self._drive()
                saving.cancel()
        finally:
            self._pace.leave(self.job, time.monotonic())
            await self._drop_orders()
        if not self._superseded:
            await self._end()

    async def _drop_orders(self) -> None:
        tasks = list(self._sending.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- the loop -----------------------------------------------------------------------------------------------------

    async def _drive(self) -> None:
        while (now := time.monotonic()) < self._expires_at and not self._superseded:
            self._woken.clear()
            views = self._look(now)
            self._pace.ask(self.job, self._rate() if self._plan.busy() else 0.0, now)
            self._plan.due(self._pace, now)
            self._send(views, now)
            self._judge(now)
            await self._rest(now)

    def _look(self, now: float) -> dict[RoomKey, RoomView]:
        """Which rooms there are. While NATS is away nobody's lease comes: that says nothing of the rooms."""
        if not self._tools.bus.connected:
            return {}
        product = self._record.product
        views = {(view.lease.room, view.lease.epoch): view for view in self._tools.rooms.live()}
        self._changed |= self._plan.see({key: view.lease.bound.get(product, 0) for key, view in views.items()}, now)
        self._plan.forget_dead(now)
        return views

    def _rate(self) -> float:
        product = self._tools.keeper.products.get(self._record.product)
        if product is None:  # its jobs go on as they were accepted
            return self._record.rate
        self._pace.set_rate(product.rate, time.monotonic())
        return min(self._record.rate, product.rate)

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
        if self._state == JobState.RUNNING and self._tools.bus.connected and self._plan.walked(now):
            self._state = JobState.COMPLETED
            self._record = replace(self._record, completed_ms=int(time.time() * 1000))
            self._changed = True
            log.info("broadcast completed", job=self.job, sent=self._plan.totals(now).sent)

    async def _rest(self, now: float) -> None:
        pause = min(max(self._plan.next_at(now) - now, TICK[0]), TICK[1], max(0.0, self._expires_at - now))
        try:
            async with asyncio.timeout(pause):
                await self._woken.wait()
        except TimeoutError:
            return
        await asyncio.sleep(TICK[0])  # replies come in flocks

    # --- rooms --------------------------------------------------------------------------------------------------------

    async def _deliver(self, plan: RoomPlan, order: Order, view: RoomView) -> None:
        try:
            if not plan.announced and not await self._announce(plan):
                return
            reply = await self._slice(order, view)
        except (BusError, msgspec.MsgspecError) as error:
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

    async def _slice(self, order: Order, view: RoomView) -> wire.SliceReply:
        message = wire.Slice(
            self.job, number_of(self._record), self._claim.term, order.seq, order.lo, order.hi, order.spread_ms, order.late,
            view.clock_ms(time.monotonic()) + SLICE_AGE_MS, order.most,
        )  # fmt: skip
        timeout = order.spread_ms / 1000 + ANSWER
        subject = names.room_slice(order.room)
        return self._reply.decode(await self._tools.bus.request(subject, self._encoder.encode(message), timeout=timeout))

    async def _announce(self, plan: RoomPlan) -> bool:
        """Make the job known in a room; False if it can't be now."""
        left = int((self._expires_at - time.monotonic()) * 1000)
        content, record = self._claim.content, self._record
        message = wire.Announce(
            wire.JobContent(
                record.job, number_of(record), record.product, list(content.groups), content.payload, left, record.started_ms,
                content.include_new, content.content_type or "", list(content.properties.items()),
            ),
            self._claim.term,
            plan.slot,
        )  # fmt: skip
        reply = await self._control(plan.room, message)
        if reply.status == "old-term":
            self._supersede()
        elif reply.status != "ok":
            log.warning("broadcast not taken by a room", job=self.job, room=plan.room, status=reply.status)
            self._later(plan)
        plan.announced = reply.status == "ok"
        return plan.announced

    async def _control(self, room: str, message: wire.Control) -> wire.ControlReply:
        return self._answer.decode(await self._tools.bus.request(names.room_control(room), self._encoder.encode(message)))

    def _later(self, plan: RoomPlan) -> None:
        self._retry_at[plan.key] = time.monotonic() + RETRY

    def _supersede(self) -> None:
        self._superseded = True
        self._woken.set()
        log.warning("broadcast belongs to another owner now", job=self.job, term=self._claim.term)

    # --- what is kept -------------------------------------------------------------------------------------------------

    async def _save_each_second(self) -> None:
        while True:
            if self._changed:
                self._changed = False
                if not await self._save():
                    self._changed = True
            await asyncio.sleep(SAVE)

    async def _save(self) -> bool:
        """Cursor and counts to Kafka, then to the readers' bucket; False if either was not reached."""
        now = time.monotonic()
        self._record = replace(self._record, state=self._state, rooms=tuple(cursor(item) for item in self._plan.rooms.values()))
        key, by = names.job_key(self.job, self._claim.term), self._record.product
        entries = [Entry(names.JOBS, key, self._record, by=by)]
        entries += [Entry(names.JOBS, old, None, by=by) for old in sorted(self._old_keys)]
        try:
            await self._tools.journal.produce(entries)
        except JournalDown as error:
            log.warning("cursor not saved", job=self.job, error=str(error)[:200])
            return False
        self._old_keys = frozenset()
        return await self._show(now)

    async def _show(self, now: float) -> bool:
        try:
            if self._bucket is None:
                self._bucket = await self._tools.bus.bucket(names.KV_JOBS)
            await self._bucket.put(names.kv_job_key(self.job), msgspec.json.encode(self.view(now)))
        except KvErrors as error:
            self._bucket = None
            log.warning("job not shown", job=self.job, error=type(error).__name__)
            return False
        return True

    def view(self, now: float) -> wire.JobView:
        """The job as readers see it."""
        record, plan = self._record, self._plan
        rooms = list(plan.rooms.values())
        return wire.JobView(
            job=record.job,
            product=record.product,
            state=self._state,
            rate=record.rate,
            started_ms=record.started_ms,
            expires_ms=record.expires_ms,
            completed_ms=record.completed_ms,
            totals=numbers(plan.totals(now)),
            rooms=[wire.JobRoom(item.room, item.epoch, item.slot, numbers(item.counts)) for item in rooms[:MAX_VIEWED_ROOMS]],
            targeted=sum(item.start for item in rooms),
            progress=plan.progress(),
            term=self._claim.term,
            uncertain=plan.uncertain(now),
        )

    async def _end(self) -> None:
        """The job has expired: rooms forget it (they stopped by themselves), and the last word is saved."""
        self._look(time.monotonic())
        await asyncio.gather(*(self._end_in(plan) for plan in self._plan.live()))
        self._state = JobState.EXPIRED
        while True:
            if await self._save():
                break
            await asyncio.sleep(SAVE)
        log.info("broadcast expired", job=self.job, sent=self._plan.totals(time.monotonic()).sent)

    async def _end_in(self, plan: RoomPlan) -> None:
        try:
            reply = await self._control(plan.room, wire.EndJob(self.job, self._claim.term))
        except (BusError, msgspec.MsgspecError) as error:
            log.info("room not told of the end", job=self.job, room=plan.room, error=type(error).__name__)
            return
        if reply.status == "ok":
            plan.counts = msgspec.structs.replace(reply.counts, waiting=0)


# --- cursors ------------------------------------------------------------------------------------------------------------


def cursor(plan: RoomPlan) -> RoomCursor:
    """What is kept of a room."""
    return RoomCursor(
        room=plan.room,
        epoch=plan.epoch,
        slot=plan.slot,
        counts={START: plan.start, **numbers(plan.counts)},
    )


def numbers(counts: wire.Counts) -> dict[str, int]:
    """The counts that are plain numbers, by name."""
    return {name: value for name, value in msgspec.structs.asdict(counts).items() if isinstance(value, int)}


def plans(record: JobRecord, now: float) -> list[RoomPlan]:
    """The rooms of a record as a plan, each gone until its lease is seen."""
    found = []
    for item in record.rooms:
        counts = dict(item.counts)
        start = counts.pop(START, 0)
        plan = RoomPlan(item.room, item.epoch, slot=item.slot, bound=start, start=start, next_at=now, gone_since=now)
        plan.counts = wire.Counts(**{name: value for name, value in counts.items() if name in wire.Counts.__struct_fields__})
        found.append(plan)
    return found


def first_cursors(rooms: Rooms, product: str) -> tuple[RoomCursor, ...]:
    """All live rooms from slot 0: the plan that a job starts with."""
    return tuple(
        RoomCursor(room=view.lease.room, epoch=view.lease.epoch, slot=0, counts={START: view.lease.bound.get(product, 0)})
        for view in rooms.live()
    )
