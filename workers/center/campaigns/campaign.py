"""A broadcast as it is posted: whom it is for, when and how fast it goes; and the record that it becomes.

Shares are percent (`"5%"`, `0.25`), kept as basis points; times are RFC 3339 with a zone; durations are seconds, or text like
`30s`, `5m`, `2h`.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Annotated, Any, Final, Literal
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from infra import segments
from infra.documents import Product
from infra.settings import Seconds
from schemas.broadcasts import MAX_BY, MAX_GROUPS, MAX_RAMP_S, MAX_RATE, MAX_SEGMENT, Broadcast, Canary, Quiet
from schemas.checks import MAX_TTL_S
from schemas.codes import WHOLE
from schemas.jobs import JobState
from workers.center.callers.auth import Caller
from workers.center.content import PRIORITIES, Content, GroupName, PriorityName, RecordId, Text, Ttl, no_bool
from workers.center.ids import choose_id
from workers.center.web.problems import Problem, bad_input

MAX_AHEAD_S: Final = MAX_TTL_S
"""From the acceptance to the expiry, at most: Kafka keeps the content two days longer (infra/journal.py)."""

_PERCENT: Final = "is a share in percent: a number or a text like 5%, from 0 to 100, with at most two decimals"


def basis_points(value: Any) -> Any:
    """`"5%"`, `"0.25%"` or a number of percent as basis points; raises ValueError."""
    text = value.removesuffix("%") if isinstance(value, str) and value.endswith("%") else value
    if isinstance(value, bool) or not isinstance(text, int | float | str) or (isinstance(value, str) and text is value):
        raise ValueError(_PERCENT)
    try:
        points = Decimal(str(text).strip()) * 100
    except InvalidOperation:
        raise ValueError(_PERCENT) from None
    if not points.is_finite() or points != points.to_integral_value() or not 0 <= points <= WHOLE:
        raise ValueError(_PERCENT)
    return int(points)


def _not_zero(points: int) -> int:
    if points == 0:
        raise ValueError("must be more than 0%: it would mean nobody")
    return points


def _a_text(value: Any) -> Any:
    if not isinstance(value, str):
        raise ValueError("is a text in the form of RFC 3339, like 2026-11-28T08:00:00Z")
    return value


def _a_zone(name: str) -> str:
    if not _is_zone(name):
        raise ValueError("is no IANA time zone; known ones are named like Europe/Berlin, or UTC")
    return name


@lru_cache(maxsize=1024)
def _is_zone(name: str) -> bool:
    """Asked of the host's tz database: also where it has none, there is UTC."""
    try:
        return name == "UTC" or ZoneInfo(name) is not None
    except (KeyError, ValueError, OSError):  # not there; no relative path; a folder
        return False


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("may have no control characters")
    return text


def _a_segment(text: str) -> str:
    segments.compile(text)  # a BadSegment says where, and why
    return text


Share = Annotated[int, BeforeValidator(basis_points, json_schema_input_type=float | str)]
Part = Annotated[Share, AfterValidator(_not_zero)]
Moment = Annotated[AwareDatetime, BeforeValidator(_a_text, json_schema_input_type=str)]
Words = Annotated[Text, Field(max_length=MAX_BY), AfterValidator(_printable)]
"""Who, and why: for the audit."""
Confirm = Annotated[
    str | None,
    Field(max_length=256, description="For many persons: what the problem `confirm-needed` gave for this very request."),
]
SegmentText = Annotated[Text, Field(min_length=1, max_length=MAX_SEGMENT), AfterValidator(_a_segment)]
Clock = Annotated[str, Field(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$", max_length=5)]
"""A time of the day, `22:00`."""


class CanaryRequest(BaseModel):
    """The first share, then a wait; the job goes on only while both thresholds hold, else it is `halted`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    share: Part = Field(description="Of everyone, as `1%`.")
    wait: Annotated[Seconds, Field(ge=1, le=24 * 3600, allow_inf_nan=False), BeforeValidator(no_bool)]
    min_acked: Share = Field(default=0, description="Of what was sent, at least so much is acknowledged after the wait.")
    max_failed: Share = Field(default=WHOLE, description="At most so much is refused.")

    def record(self) -> Canary:
        """As it is kept."""
        return Canary(
            share_bp=self.share, wait_s=math.ceil(self.wait), min_acked_bp=self.min_acked, max_failed_bp=self.max_failed
        )


class QuietRequest(BaseModel):
    """Hours in which nothing is written, by the client's own clock (its attribute `tz`), else by `zone`."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    from_: Clock = Field(alias="from")
    to: Clock
    zone: Annotated[str, Field(min_length=1, max_length=64), AfterValidator(_a_zone)] = "UTC"

    @model_validator(mode="after")
    def _some_time(self) -> QuietRequest:
        if self.from_ == self.to:
            raise ValueError("quiet hours end when they begin; leave them out, or give two times")
        return self

    def record(self) -> Quiet:
        """As it is kept."""
        return Quiet(from_minute=_minute(self.from_), to_minute=_minute(self.to), zone=self.zone)


def _minute(clock: str) -> int:
    hours, _, minutes = clock.partition(":")
    return int(hours) * 60 + int(minutes)


class BroadcastRequest(Content):
    """A broadcast as it is posted. It is for who meets every condition that is given; without any, for everyone bound."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"product": "demo", "payload": "hello, everyone", "rate": 100, "ttl": "1h"},
                {
                    "product": "demo",
                    "payload": "the sale begins",
                    "groups": ["news", "vip"],
                    "match": "all",
                    "segment": 'platform == "ios" && app >= version("3.2")',
                    "sample": "25%",
                    "rate": 500,
                    "ramp": "30s",
                    "priority": "low",
                    "canary": {"share": "1%", "wait": "60s", "min_acked": "90%", "max_failed": "1%"},
                    "quiet": {"from": "22:00", "to": "08:00", "zone": "UTC"},
                    "ttl": "8h",
                    "by": "ann",
                },
            ]
        }
    )

    rate: int | None = Field(
        default=None,
        ge=1,
        le=MAX_RATE,
        strict=True,
        description="Persons per second; by default the product's, and no more than that.",
    )
    ramp: Annotated[Seconds, Field(le=MAX_RAMP_S, allow_inf_nan=False), BeforeValidator(no_bool)] | None = Field(
        default=None, description="How long it takes to get to the rate, as `30s`."
    )
    priority: PriorityName = Field(default="normal", description="`high` is transactional and overtakes; `low` is bulk.")
    groups: tuple[GroupName, ...] = Field(default=(), max_length=MAX_GROUPS, description="Only who is in these groups.")
    match: Literal["any", "all"] = Field(default="any", description="In any of the groups, or in all of them.")
    segment: SegmentText | None = Field(
        default=None,
        description="Only who meets this expression over a client's attributes.",
        examples=['platform == "ios" && app >= version("3.2")'],
    )
    sample: Part = Field(default=WHOLE, description="A stable share by hash of the client, as `5%`.")
    sample_seed: RecordId | None = Field(
        default=None, description="The same seed takes the same clients; default: the broadcast's id."
    )
    audience: RecordId | None = Field(default=None, description="The id of an uploaded list of clients.")
    include_new: bool = Field(default=False, description="Also who binds the product only after the start.")
    draft: bool = Field(default=False, description="Keep it; `POST …/start` starts it.")
    start_at: Moment | None = Field(default=None, description="When it starts (RFC 3339); the time to live counts from then.")
    expires_at: Moment | None = Field(default=None, description="When it is over (RFC 3339), instead of `ttl`.")
    canary: CanaryRequest | None = None
    quiet: QuietRequest | None = None
    fallback_after: Ttl | None = Field(
        default=None, description="What is unsettled so long after the start is handed to another channel, once."
    )
    by: Words | None = Field(default=None, description="Who starts it: for the audit.")
    confirm: Confirm = None
    validate_only: bool = Field(default=False, description="Check the request, keep and send nothing (answered 200).")

    @model_validator(mode="after")
    def _one_expiry(self) -> BroadcastRequest:
        if self.ttl is not None and self.expires_at is not None:
            raise ValueError("give ttl or expires_at, not both")
        if self.draft and self.expires_at is not None:
            raise ValueError("a draft has no expires_at: nobody knows when it starts; give a ttl, which counts from its start")
        return self

    def first_state(self) -> JobState:
        """What it is once its owner has it."""
        if self.draft:
            return JobState.DRAFT
        return JobState.RUNNING if self.start_at is None else JobState.SCHEDULED


def record_of(who: Caller, product: Product, request: BroadcastRequest, idempotency_key: str | None, now_ms: int) -> Broadcast:
    """The record of a broadcast; raises a Problem for what does not fit the product or the time, which is `now_ms`."""
    check_rate(product, request.rate)
    start_ms = _future_ms("start_at", request.start_at, now_ms)
    ttl_s, fallback_s = _ttl_s(product, request, start_ms, now_ms), _whole(request.fallback_after)
    if fallback_s is not None and fallback_s > (ttl_s or product.ttl_s):
        raise bad_input("fallback_after", fallback_s, f"is after its time to live of {ttl_s or product.ttl_s} s: it is over then")
    record = Broadcast(
        id=choose_id(request.id, idempotency_key, product.name, who.key),
        product=product.name,
        realm=request.realm,
        groups=request.groups,
        payload=request.body(product),
        content_type=request.content_type,
        properties=request.properties,
        rate=request.rate or 0,
        ttl_s=ttl_s,
        include_new=request.include_new,
        every_group=request.match == "all",
        segment=request.segment,
        sample_bp=request.sample,
        sample_seed=request.sample_seed,
        priority=PRIORITIES[request.priority],
        ramp_s=math.ceil(request.ramp or 0),
        draft=request.draft,
        start_ms=start_ms,
        canary=request.canary.record() if request.canary else None,
        quiet=request.quiet.record() if request.quiet else None,
        audience=request.audience,
        fallback_after_s=fallback_s,
        by=request.by or None,
    )
    try:
        record.check()
    except ValueError as error:
        raise Problem("bad-input", str(error)) from None
    return record


def check_rate(product: Product, rate: int | None) -> None:
    """Raise a Problem for a rate over the product's: it would not be kept to."""
    if rate is not None and rate > product.rate:
        raise bad_input("rate", rate, f"is more than the {product.rate} persons per second of product {product.name}")


def expires_ms(product: Product, record: Broadcast, accepted_ms: int) -> int | None:
    """When it is over, by the time at which Kafka took it; None for a draft: its time counts from its start."""
    if record.draft:
        return None
    return (accepted_ms if record.start_ms is None else record.start_ms) + (record.ttl_s or product.ttl_s) * 1000


def _future_ms(field: str, moment: datetime | None, now_ms: int) -> int | None:
    if moment is None:
        return None
    found = round(moment.timestamp() * 1000)
    if found <= now_ms:
        raise bad_input(field, moment.isoformat(), f"is in the past: it is {_shown(now_ms)} here")
    return found


def _ttl_s(product: Product, request: BroadcastRequest, start_ms: int | None, now_ms: int) -> int | None:
    """The time to live from the start; raises a Problem if it is over before, or too far away."""
    begins = start_ms or now_ms
    ttl_s = request.ttl_s
    if (end_ms := _future_ms("expires_at", request.expires_at, now_ms)) is not None:
        if end_ms <= begins:
            raise bad_input("expires_at", _shown(end_ms), f"is not after its start, {_shown(begins)}: nobody would get it")
        ttl_s = math.ceil((end_ms - begins) / 1000)
    ahead_s = (begins - now_ms) / 1000 + (ttl_s or product.ttl_s)
    if ahead_s > MAX_AHEAD_S + 1:
        field, value = ("start_at", request.start_at) if request.expires_at is None else ("expires_at", request.expires_at)
        raise bad_input(field, value and value.isoformat(), f"it would be over more than {MAX_AHEAD_S // 86400} days from now")
    return ttl_s


def _whole(seconds: float | None) -> int | None:
    return None if seconds is None else math.ceil(seconds)


def _shown(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="seconds")
