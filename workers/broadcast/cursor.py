"""A job's rooms as its record keeps them, and as its plan uses them."""

from __future__ import annotations

from typing import Final

from infra import wire
from infra.rooms import Rooms
from schemas.broadcasts import JobRecord, RoomCursor
from workers.broadcast.funnel import numbers
from workers.broadcast.pacing import RoomPlan

START: Final = "start"
"""Beside a room's counts in its cursor: how many clients it had when the job began."""
EXPIRED: Final = "expired"
"""The same for who still waited at its end."""
_ACKS: Final = "acks."
"""Before the number of a bucket of acknowledgement times."""


def cursor(plan: RoomPlan) -> RoomCursor:
    """What is kept of a room."""
    times = {f"{_ACKS}{bucket}": count for bucket, count in enumerate(plan.counts.ack_times) if count}
    counts = {START: plan.start, EXPIRED: plan.expired, **numbers(plan.counts), **times}
    return RoomCursor(room=plan.room, epoch=plan.epoch, slot=plan.slot, counts=counts)


def plans(record: JobRecord, now: float) -> list[RoomPlan]:
    """The rooms of a record as a plan, each gone until its lease is seen."""
    return [_plan(item, now) for item in record.rooms]


def _plan(item: RoomCursor, now: float) -> RoomPlan:
    start = item.counts.get(START, 0)
    plan = RoomPlan(item.room, item.epoch, slot=item.slot, bound=start, start=start, next_at=now, gone_since=now)
    plan.expired = item.counts.get(EXPIRED, 0)
    known = {name: value for name, value in item.counts.items() if name in wire.Counts.__struct_fields__}
    plan.counts = wire.Counts(**known, ack_times=_times(item.counts))
    return plan


def _times(counts: dict[str, int]) -> list[int]:
    if not any(name.startswith(_ACKS) for name in counts):
        return []
    return [counts.get(f"{_ACKS}{bucket}", 0) for bucket in range(len(wire.ACK_BOUNDS_MS) + 1)]


def first_cursors(rooms: Rooms, product: str) -> tuple[RoomCursor, ...]:
    """All live rooms from slot 0: the plan that a job starts with."""
    return tuple(
        RoomCursor(room=view.lease.room, epoch=view.lease.epoch, slot=0, counts={START: view.lease.bound.get(product, 0)})
        for view in rooms.live()
    )
