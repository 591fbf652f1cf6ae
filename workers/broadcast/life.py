"""The life of one job as changes of its record: what a command, the time, a canary or the walk's end make of it.

Pure functions from record to record; `schemas/jobs.py` has the table of states. `run.py` keeps each new record in
Kafka before anybody is told.
"""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from infra.documents import Product
from infra.wire import Counts
from schemas.broadcasts import Audit, Broadcast, Canary, JobRecord, Transition
from schemas.checks import MAX_TTL_S
from schemas.codes import SLOTS, WHOLE
from schemas.jobs import OVER, Action, JobState, after
from workers.broadcast.pacing import POLL

SYSTEM: Final = "longwire"
"""Who did what nobody asked for, in the audit."""
UNKNOWN: Final = "unknown"
SAMPLES: Final = 60
"""How many looks at the counts a canary's wait is divided into."""
COUNTED: Final = POLL[0] + 0.5
"""Seconds after which what the rooms counted is here (while a canary holds; later it may be POLL[1] old)."""


def first(content: Broadcast, product: Product, *, source: tuple[int, int], accepted_ms: int) -> JobRecord:
    """The record of a new job: a draft, scheduled, or to begin at once. Its number is its first record's position."""
    start_ms = max(content.start_ms or 0, accepted_ms)
    state = JobState.DRAFT if content.draft else JobState.SCHEDULED
    lives_s = MAX_TTL_S if content.draft else content.ttl_s or product.ttl_s
    return JobRecord(
        job=content.id,
        product=product.name,
        state=state,
        number_partition=-1,
        number_offset=-1,
        source_partition=source[0],
        source_offset=source[1],
        rate=content.rate or product.rate,
        started_ms=start_ms,
        expires_ms=start_ms + lives_s * 1000,
        canary_passed=content.canary is None,
    )


def moved(
    record: JobRecord, content: Broadcast, product: Product | None, command: Transition, *, offset: int, now_ms: int
) -> JobRecord:
    """The record after a command that lies at `offset`; raises schemas.jobs.NotAllowed."""
    state, action = JobState(record.state), Action(command.action)
    fresh = replace(record, state=after(state, action), applied=offset)
    if action is Action.RATE:
        return replace(fresh, rate=command.rate or record.rate)
    if action is Action.START and state in (JobState.DRAFT, JobState.SCHEDULED):
        start_ms = max(now_ms, content.start_ms or 0) if state is JobState.DRAFT else now_ms
        lives_ms = 1000 * (content.ttl_s or (product.ttl_s if product is not None else MAX_TTL_S))
        return replace(fresh, started_ms=start_ms, expires_ms=start_ms + lives_ms, reason=None)
    if action is Action.RESUME and state is JobState.HALTED:  # who resumes it has looked: the canary has no say any more
        return replace(fresh, reason=None, canary_passed=True)
    return replace(fresh, reason=command.reason)


def halted(record: JobRecord, reason: str) -> JobRecord:
    """The canary's verdict was no."""
    return replace(record, state=JobState.HALTED, reason=reason)


def completed(record: JobRecord, now_ms: int) -> JobRecord:
    """Every slot was walked in every room; who comes late is still served."""
    return replace(record, state=JobState.COMPLETED, completed_ms=now_ms)


def over(record: JobRecord) -> bool:
    """Does nothing come after this?"""
    return record.state in OVER


def audit_of(before: JobRecord, after_: JobRecord, command: Transition | None, now_ms: int, *, action: str = "") -> Audit:
    """What is written down of a change: by a command, or (with `action`) by the system itself."""
    return Audit(
        product=before.product,
        subject=before.job,
        action=command.action if command is not None else action,
        by=(command.by or UNKNOWN) if command is not None else SYSTEM,
        at_ms=now_ms,
        before=f"{before.state}, {before.rate}/s",
        after=f"{after_.state}, {after_.rate}/s",
        reason=command.reason if command is not None else after_.reason,
    )


class CanaryWatch:
    """A canary's verdicts: first on its own share, then on everything that was sent a wait ago.

    Ratios are of what happened since the watch began, so that a job that was resumed by hand is judged by what came after.
    """

    def __init__(self, canary: Canary, *, passed: bool) -> None:
        self.canary = canary
        self.passed = passed
        self.waits_until: float | None = None
        self._base: Counts | None = None
        self._sent: list[tuple[float, int]] = []

    @property
    def stop(self) -> int:
        """The slot at which the walk stops for now."""
        return SLOTS if self.passed else max(1, -(-self.canary.share_bp * SLOTS // WHOLE))

    def look(self, counts: Counts, *, walked: bool, now: float) -> str:
        """Why the job must halt, or "". Call it as often as the counts change; `walked`: everything up to `stop` is done."""
        if self._base is None:
            self._base = counts if self.passed else Counts()
        if self.passed:
            return self._going(counts, now)
        if not walked:
            return ""
        if self.waits_until is None:
            self.waits_until = now + self.canary.wait_s + COUNTED
        if now < self.waits_until:
            return ""
        if not counts.sent:
            return "the canary reached nobody"
        reason = self._verdict(counts, counts.sent)
        self.passed = not reason
        return reason

    def _going(self, counts: Counts, now: float) -> str:
        """After its own share: the same thresholds, on what was sent at least a wait ago."""
        step = self.canary.wait_s / SAMPLES
        if not self._sent or now - self._sent[-1][0] >= step:
            self._sent.append((now, counts.sent))
        old = [sent for at, sent in self._sent if now - at >= self.canary.wait_s + POLL[1]]
        if not old:
            return ""
        del self._sent[: len(old) - 1]
        return self._verdict(counts, old[-1])

    def _verdict(self, counts: Counts, sent: int) -> str:
        assert self._base is not None
        sent -= self._base.sent
        if sent <= 0:
            return ""
        acked = counts.acked + counts.written - self._base.acked - self._base.written
        failed = counts.rejected - self._base.rejected
        if acked * WHOLE < self.canary.min_acked_bp * sent:
            least = _percent(self.canary.min_acked_bp)
            return f"{acked} of {sent} were acknowledged after {self.canary.wait_s} s, less than {least}"
        if failed * WHOLE > self.canary.max_failed_bp * sent:
            return f"{failed} of {sent} were refused, more than {_percent(self.canary.max_failed_bp)}"
        return ""


def _percent(basis_points: int) -> str:
    return f"{basis_points / 100:g} %"
