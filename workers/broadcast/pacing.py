"""Where and when a broadcast goes on: the plan of one job over its rooms. No I/O, no clock: `now` is passed in.

An order to a room *reserves* the persons that it may write to at most (`pace.py`), and what the room did not use comes
back with its reply; so the pace holds however unevenly clients fall into slots. A plan may end early (`stop`: a canary's share)
or hold (a paused job: only counts are asked for).
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Final

import msgspec

from infra.wire import Counts, SliceReply
from schemas.codes import SLOTS
from workers.broadcast.pace import PERIOD, Pace

SPREAD: Final = 0.9
"""The part of the period in which a slice is written: the rest is for its way."""
WORTHWHILE: Final = 0.5
"""A slice is not ordered for less than so many seconds of a room's rate, unless it needs no more: slices are not free."""
SLOW: Final = 2 * PERIOD
"""A room that has not answered for so long has no share until it does."""
GONE: Final = 5.0
"""A room without a lease for so long no longer holds up the job's completion."""
POLL: Final = (1.0, 5.0)
"""How often a walked room is asked for counts: more rarely while nothing changes."""
_PRIOR: Final = 20.0
"""Persons of a room by which the guess of who is eligible outweighs what was seen."""

MAX_DEAD: Final = 200
"""Dead rooms that a job remembers by name."""

RoomKey = tuple[str, int]
"""(room, epoch): one boot of a room."""
FOLDED: Final[RoomKey] = ("*", 0)
"""What stands for dead rooms that are no longer remembered by name; no room can have this id."""


@dataclass(frozen=True, slots=True)
class Order:
    """What one room does next; `infra.wire.Slice` without the clock of the room."""

    room: str
    epoch: int
    seq: int
    lo: int
    hi: int
    spread_ms: int
    late: int
    most: int

    @property
    def reserved(self) -> int:
        """Persons that this may reach at most (but for the rest of one slot)."""
        return self.late + self.most


@dataclass(slots=True)
class RoomPlan:
    """One boot of a room in a job. `bound`: clients of the product there; `start`: that number when the job began; `stop`: the
    walk goes no farther for now; `expired`: who still waited when the job was over."""

    room: str
    epoch: int
    slot: int
    bound: int
    start: int
    next_at: float
    counts: Counts = field(default_factory=Counts)
    announced: bool = False
    seq: int = 0
    order: Order | None = None
    ordered_at: float = 0.0
    stop: int = SLOTS
    expired: int = 0
    poll: float = POLL[0]
    gone_since: float | None = None
    _walked_bound: float = 0.0
    _walked_persons: float = 0.0

    @property
    def key(self) -> RoomKey:
        """(room, epoch)."""
        return self.room, self.epoch

    @property
    def walked(self) -> bool:
        """Is every slot of it done?"""
        return self.slot >= SLOTS

    def dead(self, now: float) -> bool:
        """Has it been without a lease for longer than GONE?"""
        return self.gone_since is not None and now - self.gone_since >= GONE

    def density(self) -> float:
        """Persons expected in a slot: the clients there, corrected by how many of them were eligible so far."""
        eligible = (self._walked_persons + _PRIOR) / (self._walked_bound + _PRIOR)
        return self.bound / SLOTS * eligible

    def wants(self) -> tuple[int, int]:
        """Persons that it could take at most: (ahead of the cursor, waiting). Generous: what is not used comes back."""
        ahead = _generous(self.density() * (self.stop - self.slot)) if self.slot < self.stop else 0
        return ahead, self.counts.waiting if self.stop == SLOTS else 0

    def reach(self, most: int) -> int:
        """The slot up to which about `most` persons are, on the generous side."""
        if not most:
            return self.slot
        density = max(self.density(), 1 / SLOTS)
        return min(self.stop, self.slot + math.ceil(_generous(most) / density))

    def learn(self, reply: SliceReply, order: Order) -> None:
        """Take the reply's cursor and counts; the room's cursor is the truth."""
        slots = max(0, reply.slot - self.slot)
        if slots:
            self._walked_bound += self.bound * slots / SLOTS
            self._walked_persons += min(reply.persons, order.most)
        changed = reply.slot != self.slot or reply.counts != self.counts
        self.poll = POLL[0] if changed or self.stop < SLOTS else min(POLL[1], self.poll * 1.5)
        self.slot, self.counts, self.order = reply.slot, reply.counts, None


def _generous(persons: float) -> int:
    return math.ceil(1.1 * persons + 2 * math.sqrt(persons) + 4)


@dataclass(slots=True)
class JobPlan:
    """All rooms of one job."""

    job: str
    rooms: dict[RoomKey, RoomPlan] = field(default_factory=dict)
    stop: int = SLOTS

    def see(self, live: Mapping[RoomKey, int], now: float) -> bool:
        """Take note of the live rooms and their clients; True if one is new. Whoever is in a new one is late."""
        found = False
        for (room, epoch), bound in live.items():
            plan = self.rooms.get((room, epoch))
            if plan is None:
                plan = self.rooms[room, epoch] = RoomPlan(room, epoch, slot=SLOTS, bound=bound, start=0, next_at=now)
                plan.stop = self.stop
                found = True
            plan.bound, plan.gone_since = bound, None
        for key, plan in self.rooms.items():
            if key not in live and plan.gone_since is None:
                plan.gone_since = now
        return found

    def live(self) -> list[RoomPlan]:
        """The rooms that have a lease."""
        return [plan for plan in self.rooms.values() if plan.gone_since is None]

    def walked(self, now: float) -> bool:
        """Is every slot of every room done as far as the plan goes for now, but for rooms that are dead?"""
        return all(plan.slot >= plan.stop or plan.dead(now) for plan in self.rooms.values())

    def done(self, now: float) -> bool:
        """Is every slot of every room done, but for rooms that are dead?"""
        return all(plan.walked or plan.dead(now) for plan in self.rooms.values())

    def hurry(self, now: float) -> None:
        """Look at every room at once: it may be written to again."""
        for plan in self.rooms.values():
            plan.next_at, plan.poll = min(plan.next_at, now), POLL[0]

    def withdraw(self, under_way: Container[RoomKey]) -> None:
        """Forget orders that no room is at work on, and that would write to somebody: the job is on hold.

        A room may have done one, whose answer was lost: it tells its cursor and counts with the next answer. What was reserved
        for it stays taken.
        """
        for plan in self.rooms.values():
            if plan.order is not None and plan.order.reserved and plan.key not in under_way:
                plan.order = None

    def stop_at(self, slot: int) -> None:
        """Go no farther than this slot in any room, and leave who waits alone, until told another one; SLOTS: to the end."""
        self.stop = slot
        for plan in self.rooms.values():
            plan.stop = slot

    def busy(self) -> bool:
        """Is there anything to write to now?"""
        return any(sum(plan.wants()) for plan in self.live())

    def progress(self) -> float:
        """0…1 of the slots, weighted by the clients that were there."""
        weights = [(plan.slot / SLOTS, plan.start) for plan in self.rooms.values() if plan.start]
        total = sum(weight for _, weight in weights)
        if not total:
            return float(all(plan.walked for plan in self.rooms.values()))
        return sum(done * weight for done, weight in weights) / total

    def forget_dead(self, now: float) -> None:
        """Fold the dead rooms into one, once there are many: their numbers stay, their names go."""
        dead = [plan for plan in self.rooms.values() if plan.dead(now)]
        if len(dead) <= MAX_DEAD:
            return
        for plan in dead:
            del self.rooms[plan.key]
        start = sum(plan.start for plan in dead)
        merged = RoomPlan(*FOLDED, slot=SLOTS, bound=0, start=start, next_at=now, gone_since=now - GONE)
        merged.counts = totals(plan.counts for plan in dead)
        merged.expired = sum(plan.expired for plan in dead)
        self.rooms[merged.key] = merged

    def totals(self, now: float) -> Counts:
        """The counts of all rooms; nobody waits in a dead one."""
        return totals(
            msgspec.structs.replace(plan.counts, waiting=0, deferred=0) if plan.dead(now) else plan.counts
            for plan in self.rooms.values()
        )

    def uncertain(self, now: float) -> int:
        """Persons in dead rooms whose acknowledgement may be lost, with what an unanswered slice there may have written."""
        lost = 0
        for plan in self.rooms.values():
            if plan.dead(now):
                counts = plan.counts
                lost += max(0, counts.sent - counts.written - counts.acked - counts.rejected)
                lost += plan.order.reserved if plan.order is not None else 0
        return lost

    def due(self, pace: Pace, now: float, *, hold: bool = False) -> list[Order]:
        """The next orders, one at most for each room that has answered its last; their persons are reserved.

        With `hold` nobody is written to: the rooms are only asked how far they are.
        """
        ready = [plan for plan in self.live() if plan.order is None and plan.next_at <= now]
        if not ready:
            return []
        sharing = [plan for plan in self.live() if plan.order is None or now - plan.ordered_at < SLOW]
        wants = {plan.key: sum(plan.wants()) for plan in sharing}
        total = sum(wants.values())
        rate, base = pace.share(self.job), pace.available(self.job, now)
        orders = []
        for plan in sorted(ready, key=lambda plan: wants[plan.key], reverse=True):
            part = wants[plan.key] / total if total else 1 / len(ready)
            fair = part * max(base, rate * PERIOD)
            tokens = int(min(pace.available(self.job, now), math.ceil(fair)))
            order = self._poll(plan, 0, now) if hold else self._order(plan, tokens, part * rate, now)
            if order is not None:
                pace.take(self.job, order.reserved)
                orders.append(order)
        return orders

    def _order(self, plan: RoomPlan, tokens: int, rate: float, now: float) -> Order | None:
        ahead, waiting = plan.wants()
        if not ahead and not waiting:  # only a poll, with a small grant for who came meanwhile
            return self._poll(plan, min(max(tokens, 0), max(1, int(rate / 10))) if self.stop == SLOTS else 0, now)
        if tokens < min(ahead + waiting, max(1, int(rate * WORTHWHILE))):
            return None  # it waits for tokens
        late = min(waiting, _part(tokens, waiting, ahead + waiting))
        most = min(ahead, tokens - late)
        seconds = min(PERIOD, (late + most) / rate) if rate > 0 else 0.0
        plan.next_at = now + max(0.05, seconds)
        return self._ordered(plan, hi=plan.reach(most), spread_ms=int(seconds * SPREAD * 1000), late=late, most=most, now=now)

    def _poll(self, plan: RoomPlan, late: int, now: float) -> Order:
        plan.next_at = now + plan.poll
        return self._ordered(plan, hi=plan.slot, spread_ms=0, late=late, most=0, now=now)

    def _ordered(self, plan: RoomPlan, *, hi: int, spread_ms: int, late: int, most: int, now: float) -> Order:
        plan.seq += 1
        plan.ordered_at = now
        plan.order = Order(plan.room, plan.epoch, plan.seq, plan.slot, hi, spread_ms, late, most)
        return plan.order

    def confirmed(self, order: Order, reply: SliceReply, pace: Pace) -> RoomPlan | None:
        """The room has answered `order` with ok: take what it says, and give back what it did not use."""
        plan = self.rooms.get((order.room, order.epoch))
        if plan is None or plan.order != order:
            return None
        pace.give(self.job, order.reserved - reply.persons)
        plan.learn(reply, order)
        return plan

    def next_at(self, now: float) -> float:
        """When the next order may be due."""
        times = [plan.next_at for plan in self.live() if plan.order is None]
        return min(times, default=now + PERIOD)


def _part(tokens: int, waiting: int, total: int) -> int:
    """The late joiners' part of the tokens, one at least if there are any."""
    return max(min(1, tokens), math.floor(tokens * waiting / total)) if waiting else 0


def totals(counts: Iterable[Counts]) -> Counts:
    """The sum of all rooms' counts."""
    found = list(counts)
    numbers = {name: sum(getattr(item, name) for item in found) for name in Counts.__struct_fields__ if name != "ack_times"}
    return Counts(**numbers, ack_times=added(item.ack_times for item in found))


def added(histograms: Iterable[list[int]]) -> list[int]:
    """Histograms of one form, bucket by bucket; an empty one adds nothing."""
    return [sum(column) for column in zip_longest(*histograms, fillvalue=0)]
