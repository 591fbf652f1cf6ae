"""Broadcasts as the API shows them: the answer to one that was posted, the document of its owner, and a list of them."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from schemas.codes import WHOLE, Priority
from schemas.jobs import JobState
from workers.center.campaigns.jobs import Document
from workers.center.content import PRIORITIES, PriorityName
from workers.center.web.examples import example, example_of

_WORDS: dict[int, PriorityName] = {int(number): word for word, number in PRIORITIES.items()}


class Job(BaseModel):
    """The answer to a broadcast: it is in Kafka, acknowledged. With `validate_only` nothing is: then the times are null, and the
    state is the one that it would begin in."""

    model_config = example(
        id="0198c0de-7a5b-7cc3-9d2e-0f1a2b3c4d5e",
        product="demo",
        state="accepted",
        rate=100,
        accepted_ms=1755582462558,
        expires_ms=1755586062558,
    )

    id: str = Field(examples=["0198c0de-7a5b-7cc3-9d2e-0f1a2b3c4d5e"])
    product: str
    state: JobState
    rate: int
    accepted_ms: int | None = Field(description="Kafka's append time. The time to live counts from the start.")
    expires_ms: int | None = Field(description="Null for a draft: nobody knows yet.")


class RoomProgress(BaseModel):
    """How far a job came in one boot of a room: slots walked, and cumulative counts."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={"examples": [{"room": "r1", "epoch": 7, "slot": 512, "counts": {"sent": 620, "acked": 598}}]},
    )

    room: str
    epoch: int
    slot: int
    counts: dict[str, int]


class CanaryProgress(BaseModel):
    """The first share of a job with a canary: `walking`, `waiting` for acknowledgements, `passed`, or `failed`."""

    model_config = ConfigDict(extra="allow")

    share_bp: int
    wait_s: int
    state: str


class TargetView(BaseModel):
    """Whom a draft means, as its request said; `sample_bp` in hundredths of a percent."""

    model_config = ConfigDict(extra="allow")

    groups: list[str] = Field(default_factory=list)
    every_group: bool = False
    segment: str | None = None
    sample_bp: int = WHOLE
    sample_seed: str | None = None
    audience: str | None = None


class JobSummary(BaseModel):
    """A job as its owner last told, each second while something changes."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "examples": [
                {
                    "id": "0198c0de-7a5b-7cc3-9d2e-0f1a2b3c4d5e",
                    "product": "demo",
                    "state": "running",
                    "rate": 100,
                    "started_ms": 1755582462558,
                    "expires_ms": 1755586062558,
                    "targeted": 1200,
                    "progress": 0.5,
                    "pace": 100.0,
                    "eta_s": 6.0,
                    "ack_ms": {"p50": 40, "p90": 180, "p99": 900},
                    "totals": {"sent": 620, "acked": 598},
                }
            ]
        },
    )

    id: str
    product: str
    state: JobState
    reason: str | None = Field(default=None, description="Why it is in this state, where that was said: a halt always says.")
    rate: int
    priority: PriorityName = "normal"
    ramp_s: int = 0
    start_ms: int | None = Field(default=None, description="When it is to start.")
    started_ms: int | None = None
    expires_ms: int | None = None
    completed_ms: int | None = None
    targeted: int = Field(default=0, description="Clients bound when it started.")
    progress: float = Field(default=0.0, description="0 to 1: slots walked in live rooms.")
    pace: float = Field(default=0.0, description="Persons per second that it may write to now.")
    pressure: float = Field(default=1.0, description="1: as fast as it may; less: the product's own servers are slow.")
    eta_s: float | None = Field(default=None, description="Seconds until every slot is walked, at this pace.")
    canary: CanaryProgress | None = None
    ack_ms: dict[str, float | None] | None = Field(
        default=None,
        description="From a write to its acknowledgement; null: longer than is told apart.",
        examples=[{"p50": 40, "p90": 180, "p99": 900}],
    )
    target: TargetView | None = Field(default=None, description="Of a draft: whom it would reach.")
    uncertain: int = Field(default=0, description="Persons sent to by rooms that died before they had counted their answers.")
    term: int = 0
    totals: dict[str, int] = Field(
        default_factory=dict,
        description="sent, written, acked, rejected, repeated, skipped, waiting, deferred, capped, too_large, expired.",
    )


class JobView(JobSummary):
    """A job, and how far each room came."""

    model_config = example(**example_of(JobSummary), rooms=[example_of(RoomProgress)])

    rooms: list[RoomProgress] = Field(default_factory=list)


class JobList(BaseModel):
    """Jobs, newest first. `next`: the cursor of the page after this one, null on the last."""

    model_config = example(broadcasts=[example_of(JobSummary)], next=None)

    broadcasts: list[JobSummary]
    next: str | None


def summary(document: Document) -> dict[str, Any]:
    """A document without its rooms, in the API's words."""
    return {name: value for name, value in view(document).items() if name != "rooms"}


def view(document: Document) -> dict[str, Any]:
    """A document in the API's words."""
    priority = document.get("priority", Priority.NORMAL)
    return {**document, "id": document.get("job"), "priority": _WORDS.get(priority, "normal")}
