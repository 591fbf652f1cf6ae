"""The life of a broadcast, as one table: who asks for what in which state, and what becomes of it.

    draft → scheduled → running ⇄ paused → completed → expired
                          ↓ ↑                any of them → cancelled
                         halted

`completed`: every slot was walked in every room; late joiners still draw until the job expires. A repeat of an action leads to
the same state, so a command that is handled twice does no harm.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final


class JobState(StrEnum):
    """Where a job is in its life. `accepted`: in Kafka, and its owner has not claimed it yet."""

    ACCEPTED = "accepted"
    DRAFT = "draft"
    SCHEDULED = "scheduled"
    RUNNING = "running"
    PAUSED = "paused"
    HALTED = "halted"
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


class Action(StrEnum):
    """What can be asked of a job."""

    START = "start"
    PAUSE = "pause"
    RESUME = "resume"
    CANCEL = "cancel"
    RATE = "rate"


OVER: Final = frozenset({JobState.CANCELLED, JobState.EXPIRED})
"""Nothing comes after these."""

IDLE: Final = frozenset({JobState.DRAFT, JobState.SCHEDULED, JobState.PAUSED, JobState.HALTED})
"""In these nothing is written to anybody, whoever connects."""

_S, _A = JobState, Action
TRANSITIONS: Final[Mapping[tuple[JobState, Action], JobState]] = {
    (_S.DRAFT, _A.START): _S.SCHEDULED,
    (_S.DRAFT, _A.RATE): _S.DRAFT,
    (_S.DRAFT, _A.CANCEL): _S.CANCELLED,
    (_S.SCHEDULED, _A.START): _S.SCHEDULED,
    (_S.SCHEDULED, _A.RATE): _S.SCHEDULED,
    (_S.SCHEDULED, _A.CANCEL): _S.CANCELLED,
    (_S.RUNNING, _A.START): _S.RUNNING,
    (_S.RUNNING, _A.PAUSE): _S.PAUSED,
    (_S.RUNNING, _A.RESUME): _S.RUNNING,
    (_S.RUNNING, _A.RATE): _S.RUNNING,
    (_S.RUNNING, _A.CANCEL): _S.CANCELLED,
    (_S.PAUSED, _A.PAUSE): _S.PAUSED,
    (_S.PAUSED, _A.RESUME): _S.RUNNING,
    (_S.PAUSED, _A.RATE): _S.PAUSED,
    (_S.PAUSED, _A.CANCEL): _S.CANCELLED,
    (_S.HALTED, _A.RESUME): _S.RUNNING,
    (_S.HALTED, _A.RATE): _S.HALTED,
    (_S.HALTED, _A.CANCEL): _S.CANCELLED,
    (_S.COMPLETED, _A.PAUSE): _S.PAUSED,
    (_S.COMPLETED, _A.RESUME): _S.COMPLETED,
    (_S.COMPLETED, _A.RATE): _S.COMPLETED,
    (_S.COMPLETED, _A.CANCEL): _S.CANCELLED,
    (_S.CANCELLED, _A.CANCEL): _S.CANCELLED,
}
"""(state, action) → state. What is not here is refused. `accepted` is not here: only the owner has the last word on it."""


class NotAllowed(ValueError):
    """The action does not fit the job's state; the text names both and what is possible."""


def after(state: JobState, action: Action) -> JobState:
    """The state that an action leads to; raises NotAllowed."""
    found = TRANSITIONS.get((state, action))
    if found is None:
        possible = ", ".join(sorted({other for at, other in TRANSITIONS if at is state})) or "nothing"
        raise NotAllowed(f"a {state} job can't {action}; possible: {possible}")
    return found
