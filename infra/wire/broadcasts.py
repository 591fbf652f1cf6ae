"""`room.{room}.slice`, and a job as its readers see it."""

from __future__ import annotations

from typing import Final

import msgspec

from infra.wire.batch import JobNumber, Properties
from schemas.codes import WHOLE

ACK_BOUNDS_MS: Final = (50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 30_000, 60_000, 300_000, 900_000, 3_600_000)
"""Upper bounds of the histogram of times from a write to its PUBACK, ms; one more bucket is for what took longer."""


class QuietHours(msgspec.Struct, array_like=True, frozen=True):
    """Minutes of the client's day, from ≤ t < to (over midnight where to < from), in which nothing is written to it.

    The client's zone is its attribute `tz` (IANA), else `zone`.
    """

    from_minute: int
    to_minute: int
    zone: str = "UTC"


class Cap(msgspec.Struct, array_like=True, frozen=True):
    """At most `count` broadcasts of the product for a client within `seconds`."""

    count: int
    seconds: int


class JobContent(msgspec.Struct, array_like=True, frozen=True):
    """What a room needs of a broadcast. `started_ms` is compared with a bind's `first_bind_ms` (docs/design.md).

    Who is meant: in any of `groups` (with `every_group` in all), matching the `segment` expression over its attributes
    (infra/segments.py, "" for everyone), and in the stable share `sample_bp` by (client, `sample_seed`). `quiet` and `cap` put
    off or leave out who is meant.
    """

    job: str
    number: JobNumber
    product: str
    groups: list[str]
    payload: bytes
    expires_in_ms: int
    started_ms: int
    include_new: bool = False
    content_type: str = ""
    properties: Properties = []
    every_group: bool = False
    segment: str = ""
    sample_bp: int = WHOLE
    sample_seed: str = ""
    quiet: QuietHours | None = None
    cap: Cap | None = None


class Slice(msgspec.Struct, array_like=True, frozen=True):
    """`room.{room}.slice`: write the job to slots lo ≤ slot < hi, spread over `spread_ms` (≤ 1000), and to `late` late joiners.

    `lo` = `hi` where only a grant (or only the counts) is wanted. `seq` grows with every slice of (term, room): a repeat is
    answered from memory. `deadline_ms` is on the *room's* monotonic clock, as its lease shows it: no two clocks are compared.
    `most`: the walk stops after the slot in which that many persons were written to, before `hi`, and these are what is spread
    (0: no such bound, the slots are spread); so the pace does not hang on how evenly the clients fall into slots.
    """

    job: str
    number: JobNumber
    term: int
    seq: int
    lo: int
    hi: int
    spread_ms: int
    late: int
    deadline_ms: int
    most: int = 0


class Counts(msgspec.Struct, array_like=True, frozen=True):
    """A job's cumulative counts in one (room, epoch): counting them twice is harmless.

    `sent`: persons it was written to; `written`: settled at QoS 0; `acked`, `rejected`: PUBACKs; `repeated`: written again after
    a reconnect; `waiting`: late joiners queued now; `skipped`: not eligible or settled before; `deferred`: in their quiet hours
    now (these two fall); `capped`: left out by the frequency cap; `too_large`: rejected since the client's Maximum Packet Size is
    smaller (they are in `rejected`, too); `ack_times`: how many PUBACKs came within each of ACK_BOUNDS_MS, each counted in one
    bucket.
    """

    sent: int = 0
    written: int = 0
    acked: int = 0
    rejected: int = 0
    repeated: int = 0
    skipped: int = 0
    waiting: int = 0
    deferred: int = 0
    capped: int = 0
    too_large: int = 0
    ack_times: list[int] = []


class SliceReply(msgspec.Struct, array_like=True, frozen=True):
    """`status`: ok, unknown (announce the job first), stale (past its deadline), old-term. `slot`: the room's cursor now.

    `persons`: to how many this slice wrote.
    """

    status: str
    seq: int
    slot: int = 0
    persons: int = 0
    counts: Counts = Counts()


class JobRoom(msgspec.Struct, frozen=True):
    """One room's part of a job: its cursor and its cumulative counts, by the names of `Counts`."""

    room: str
    epoch: int
    slot: int
    counts: dict[str, int]


class Target(msgspec.Struct, frozen=True):
    """Whom a broadcast means: the fields of schemas.broadcasts.Broadcast that say so, under their names."""

    groups: tuple[str, ...] = ()
    every_group: bool = False
    segment: str | None = None
    sample_bp: int = WHOLE
    sample_seed: str | None = None
    audience: str | None = None


class JobView(msgspec.Struct, frozen=True):
    """KV bucket `jobs`, key `names.kv_job_key(job)` (JSON): a broadcast as readers see it, a fold of `push.jobs`.

    `targeted`: clients bound to the product when it started; `progress`: 0…1 of the slots walked, weighted by those clients;
    `uncertain`: persons in rooms that died, whose acknowledgements may be lost; `rate`: persons per second as asked for, `pace`
    what it may use now; `pressure`: the part of the product's rate that its health leaves (1: all); `eta_s`: None while nothing
    moves; `ack_ms`: percentiles of the time from a write to its PUBACK; `target`: of a draft, so that center can count whom it
    would reach when it is started. Times in ms.
    """

    job: str
    product: str
    state: str
    rate: int
    started_ms: int
    expires_ms: int
    completed_ms: int | None
    totals: dict[str, int]
    rooms: list[JobRoom]
    targeted: int
    progress: float
    term: int
    uncertain: int
    reason: str | None = None
    priority: int = 1
    ramp_s: int = 0
    start_ms: int | None = None
    pace: float = 0.0
    pressure: float = 1.0
    eta_s: float | None = None
    canary: dict[str, int | str] | None = None
    ack_ms: dict[str, int] | None = None
    target: Target | None = None
