"""Rooms as the pacing's tests need them: clients in slots, slices that take time, replies that may be late. Simulated time."""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass, field

from infra.wire import Counts, SliceReply
from schemas.codes import SLOTS, Priority
from workers.broadcast.pace import WEIGHTS, Pace
from workers.broadcast.pacing import JobPlan, Order, RoomPlan

TICK = 0.02


@dataclass
class SimRoom:
    """`eligible` of the clients match; `delay`: seconds that a reply takes beyond the slice."""

    slots: list[int]
    delay: float = 0.005
    waiting: int = 0
    cursor: int = 0
    sent: int = 0

    def take(self, order: Order, began: float) -> tuple[list[float], float, SliceReply]:
        """When each person is written to, when the reply is there, and the reply (gateway/broadcast/fanout.py in small)."""
        spread = order.spread_ms / 1000
        times: list[float] = []
        first, last = self.cursor, max(self.cursor, order.hi)
        while self.cursor < last and not (order.most and len(times) >= order.most):
            self.cursor += 1
            part = (len(times) + 1) / order.most if order.most else (self.cursor - first) / max(1, last - first)
            times += [began + spread * min(1.0, part)] * self.slots[self.cursor - 1]
        late = min(order.late, self.waiting)
        times += [began + spread * (i + 1) / max(1, order.late) for i in range(late)]
        self.waiting -= late
        self.sent += len(times)
        end = max(times, default=began) if (order.most and self.cursor < last) or late == order.late else began + spread
        counts = Counts(sent=self.sent, waiting=self.waiting)
        return times, end + self.delay, SliceReply("ok", order.seq, self.cursor, len(times), counts)


def room_of(count: int, rng: random.Random, **more: float) -> SimRoom:
    slots = [0] * SLOTS
    for _ in range(count):
        slots[rng.randrange(SLOTS)] += 1
    return SimRoom(slots, **more)  # type: ignore[arg-type]


@dataclass
class World:
    """Jobs over the same or different rooms, one product."""

    pace: Pace
    now: float = 0.0
    hold: bool = False
    jobs: dict[str, tuple[JobPlan, dict[str, SimRoom], float, int]] = field(default_factory=dict)
    written: dict[str, list[float]] = field(default_factory=dict)
    orders: int = 0
    _replies: list[tuple[float, int, str, Order, SliceReply]] = field(default_factory=list)

    def add(
        self,
        job: str,
        rate: float,
        rooms: dict[str, SimRoom],
        *,
        bound: dict[str, int] | None = None,
        priority: int = Priority.NORMAL,
    ) -> JobPlan:
        plan = JobPlan(job)
        for name, room in rooms.items():
            count = (bound or {}).get(name, sum(room.slots))
            plan.rooms[name, 1] = RoomPlan(name, 1, slot=room.cursor, bound=count, start=count, next_at=self.now)
        self.jobs[job] = plan, rooms, rate, priority
        self.written[job] = []
        return plan

    def step(self) -> None:
        while self._replies and self._replies[0][0] <= self.now:
            _, _, job, order, reply = heapq.heappop(self._replies)
            self.jobs[job][0].confirmed(order, reply, self.pace)
        for job, (plan, rooms, rate, priority) in self.jobs.items():
            self.pace.ask(job, rate if plan.busy() and not self.hold else 0.0, self.now, weight=WEIGHTS[priority])
            for order in plan.due(self.pace, self.now, hold=self.hold):
                times, at, reply = rooms[order.room].take(order, self.now)
                self.written[job] += times
                self.orders += 1
                heapq.heappush(self._replies, (at, self.orders, job, order, reply))
        self.now += TICK

    def run(self, until: float, *, stop_when_walked: bool = True) -> None:
        while self.now < until:
            self.step()
            if stop_when_walked and all(plan.walked(self.now) and not plan.busy() for plan, _, _, _ in self.jobs.values()):
                return


def most_in_window(times: list[float], width: float) -> int:
    """The greatest number of `times` in any half-open window of that width."""
    ordered, best, start = sorted(times), 0, 0
    for end, when in enumerate(ordered):
        while ordered[start] <= when - width:
            start += 1
        best = max(best, end - start + 1)
    return best
