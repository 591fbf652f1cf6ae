"""One broadcast to whoever is in the rooms, while this process owns it: slices go out, replies come in.

The plan (`pacing.py`) decides what is next, `job.py` has the rest of its life. A room that does not answer
gets the same slice again, and delays nobody else. An answer `old-term` means that another process owns the job now: this one
stops, without a word.
"""

from __future__ import annotations

import asyncio
import time
from functools import partial

import structlog
from msgspec.structs import replace
from prometheus_client import Counter

from infra.lifecycle import end
from infra.meant import of_registry
from infra.rooms import RoomView
from schemas.broadcasts import JobRecord, RoomCursor
from schemas.jobs import JobState
from workers.broadcast import funnel
from workers.broadcast.channel import JobChannel
from workers.broadcast.cursor import cursor, first_cursors, plans
from workers.broadcast.funnel import Figures
from workers.broadcast.job import RETRY, TICK, Claim, JobBase, Shared, Tools, persons
from workers.broadcast.pace import WEIGHTS
from workers.broadcast.pacing import JobPlan, Order, RoomKey, RoomPlan
from workers.broadcast.rooms import UNREACHED, JobRooms
from workers.broadcast.unreached import Due

log = structlog.get_logger("jobrun")
orders = Counter("longwire_broadcast_slices_total", "Slices by answer", ["status"])


class JobRun(JobBase):
    """One owned job whose clients are found in the rooms."""

    def __init__(self, claim: Claim, tools: Tools, shared: Shared, *, wall_ms: int, now: float) -> None:
        """`wall_ms` and `now` are the same moment, by the two clocks."""
        super().__init__(claim, tools, shared, wall_ms=wall_ms, now=now)
        self._rooms = JobRooms(tools.bus, tools.keeper, claim.content, term=claim.term)
        self._plan = JobPlan(claim.record.job, {item.key: item for item in plans(claim.record, now)})
        self._sending: dict[RoomKey, asyncio.Task[None]] = {}
        self._retry_at: dict[RoomKey, float] = {}
        self._pausing: set[asyncio.Task[None]] = set()
        self._channel = JobChannel(tools.fallbacks, rate=claim.record.rate, moving=self.moving)
        self._handing: asyncio.Task[int] | None = None

    # --- what the job does in its own way -----------------------------------------------------------------------------

    def _begun(self, record: JobRecord) -> JobRecord:
        """With the rooms of now."""
        found = replace(record, rooms=first_cursors(self._tools.rooms, record.product))
        self._plan.rooms = {item.key: item for item in plans(found, time.monotonic())}
        return found

    def _idled(self) -> None:
        """What is being written stops at once; nobody waits for who does not answer."""
        for plan in self._plan.live():
            if plan.announced:
                task = asyncio.ensure_future(self._rooms.pause(plan, self.job))
                self._pausing.add(task)
                task.add_done_callback(self._pausing.discard)

    def _moved(self) -> None:
        self._plan.hurry(time.monotonic())

    async def _let_go(self) -> None:
        await end([*self._sending.values(), *self._pausing, *([self._handing] if self._handing is not None else [])])

    def _cursors(self) -> tuple[RoomCursor, ...]:
        return tuple(cursor(item) for item in self._plan.rooms.values())

    def _sent(self) -> int:
        return self._plan.totals(time.monotonic()).sent

    async def _last_counts(self) -> None:
        """Rooms forget the job (they stop by themselves when it has expired)."""
        if self._plan.rooms:  # else it never began, and nobody knows of it
            self._look(time.monotonic())
            await asyncio.gather(*(self._rooms.end(plan, self.job) for plan in self._plan.live()))

    def _figures(self, now: float) -> Figures:
        handed = self._channel.handed if self.record.handed is None else self.record.handed
        return funnel.in_rooms(self._plan, now, handed=handed)

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
            if not self.moving():
                self._plan.withdraw(self._sending)
            self._plan.due(self._pace, now, hold=not self.moving())
            self._send(views, now)
            self._judge(now)
            self._hand_over()
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
        if self._canary is not None:
            walked = self._plan.walked(now)
            if self._canary_halts(self._canary, self._plan.totals(now), walked=walked, now=now):
                return
        if self.record.state == JobState.RUNNING and (self._canary is None or self._canary.passed) and self._plan.done(now):
            self._complete()

    async def _rest_until(self, when: float) -> None:
        if await self._rest(max(when - time.monotonic(), TICK[0])):
            await asyncio.sleep(TICK[0])  # replies come in flocks

    def _hand_over(self) -> None:
        """Its fallback is due: beside everything else, who has not settled it goes to another channel, once."""
        after = self._content.fallback_after_s
        if after is None or self.record.handed is not None or not self.moving():
            return
        if self._handing is None and self._now_ms() >= self.record.started_ms + 1000 * after:
            content = self._rooms.content(self.record, 0)
            due = Due(job=self._content, number=content.number, started_ms=self.record.started_ms, matches=of_registry(content))
            self._handing = asyncio.ensure_future(self._channel.run(due))
            self._handing.add_done_callback(lambda done: self._woken.set())
        elif self._handing is not None and self._handing.done():
            self._change(replace(self.record, handed=self._handing.result()), "fallback")

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
