"""A job as its readers see it: the funnel, how long acknowledgements took, and when it will be done. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from infra import wire
from infra.meant import target_of
from infra.wire import ACK_BOUNDS_MS, JobRoom, JobView
from schemas.broadcasts import Broadcast, JobRecord
from schemas.jobs import JobState
from workers.broadcast.life import CanaryWatch
from workers.broadcast.pacing import JobPlan

MAX_VIEWED_ROOMS: Final = 1_000
"""Rooms listed in a job's entry, whose size is bounded; the totals have them all."""
PERCENTILES: Final = (50, 90, 99)


def percentile(histogram: Sequence[int], percent: float) -> int:
    """The time in ms within which `percent` of the acknowledgements came: evenly spread inside a bucket (ACK_BOUNDS_MS)."""
    total = sum(histogram)
    if not total:
        return 0
    wanted, below, low = total * percent / 100, 0, 0
    for count, high in zip(histogram, (*ACK_BOUNDS_MS, ACK_BOUNDS_MS[-1]), strict=False):
        if count and below + count >= wanted:
            return round(low + (high - low) * (wanted - below) / count)
        below, low = below + count, high
    return ACK_BOUNDS_MS[-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """How far a job is, however it reaches its clients. `left`: persons that could have it now and have not; `uncertain`: see
    infra.wire.JobView; `ack_times`: counts for ACK_BOUNDS_MS."""

    totals: dict[str, int]
    targeted: int
    progress: float
    left: int
    rooms: list[JobRoom] = field(default_factory=list)
    uncertain: int = 0
    ack_times: Sequence[int] = ()


def eta_s(left: int, pace: float) -> float | None:
    """Seconds until so many persons are reached at this pace; None while nothing moves."""
    if not left:
        return 0.0
    return round(left / pace, 1) if pace > 0 else None


def canary_view(watch: CanaryWatch | None, *, halted: bool) -> dict[str, int | str] | None:
    """How far a canary is: walking, waiting, passed or failed."""
    if watch is None:
        return None
    state = "passed" if watch.passed else "failed" if halted else "waiting" if watch.waits_until is not None else "walking"
    return {"share_bp": watch.canary.share_bp, "wait_s": watch.canary.wait_s, "state": state}


def numbers(counts: wire.Counts) -> dict[str, int]:
    """The counts by name, but for the histogram."""
    return {name: value for name, value in msgspec.structs.asdict(counts).items() if name != "ack_times"}


def in_rooms(plan: JobPlan, now: float, *, handed: int) -> Figures:
    """The figures of a job whose clients are in rooms; `handed`: clients that went to another channel."""
    rooms, totals = list(plan.rooms.values()), plan.totals(now)
    return Figures(
        totals={**numbers(totals), "expired": sum(item.expired for item in rooms), "fallback": handed},
        targeted=sum(item.start for item in rooms),
        progress=plan.progress(),
        left=sum(sum(item.wants()) for item in plan.live()),
        rooms=[JobRoom(item.room, item.epoch, item.slot, numbers(item.counts)) for item in rooms[:MAX_VIEWED_ROOMS]],
        uncertain=plan.uncertain(now),
        ack_times=totals.ack_times,
    )


def view(
    record: JobRecord,
    content: Broadcast,
    figures: Figures,
    *,
    term: int,
    pace: float,
    pressure: float,
    canary: dict[str, int | str] | None,
) -> JobView:
    """The document in the bucket `jobs`."""
    times = figures.ack_times
    return JobView(
        job=record.job,
        product=record.product,
        state=record.state,
        rate=record.rate,
        started_ms=record.started_ms,
        expires_ms=record.expires_ms,
        completed_ms=record.completed_ms,
        totals=figures.totals,
        rooms=figures.rooms,
        targeted=figures.targeted,
        progress=figures.progress,
        term=term,
        uncertain=figures.uncertain,
        reason=record.reason,
        priority=content.priority,
        ramp_s=content.ramp_s,
        start_ms=content.start_ms,
        pace=round(pace, 1),
        pressure=pressure,
        eta_s=eta_s(figures.left, pace),
        canary=canary,
        ack_ms={f"p{percent}": percentile(times, percent) for percent in PERCENTILES} if any(times) else None,
        target=target_of(content) if record.state == JobState.DRAFT else None,
    )
