"""`POST /v1/broadcasts/{id}/start|pause|resume|cancel`, `PUT …/rate`: what is asked of a broadcast that was accepted.

The action is judged by the state that this process mirrors, seconds old at most, and answered when Kafka has it. The owner
takes the actions of a product in their order, and has the last word.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body
from pydantic import BaseModel, ConfigDict, Field

from infra.journal import Entry
from schemas import names
from schemas.broadcasts import MAX_RATE, Transition
from schemas.jobs import TRANSITIONS, Action, JobState, after
from workers.center.callers.auth import Caller, Role, Who, needs
from workers.center.campaigns.broadcasts import JobId, check_place, document_of
from workers.center.campaigns.campaign import Confirm, Words, check_rate
from workers.center.campaigns.confirming import confirmation
from workers.center.campaigns.jobs import row_of
from workers.center.content import accept, product_of
from workers.center.ports import Parts
from workers.center.web.examples import example
from workers.center.web.problems import Problem, responses


class Order(BaseModel):
    """Who asks for it and why: for the audit."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"by": "ann", "reason": "a wrong link"}]})

    by: Words | None = None
    reason: Words | None = None


class StartOrder(Order):
    """A draft is confirmed when it is started: only then is it known whom it would reach."""

    confirm: Confirm = None


class RateOrder(Order):
    """Another rate, at once."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"rate": 50, "by": "ann"}]})

    rate: int = Field(ge=1, le=MAX_RATE, strict=True, description="Persons per second; at most the product's.")


class Steered(BaseModel):
    """The answer: the action is in Kafka, acknowledged. `state`: the one that it leads to, within a second."""

    model_config = example(id="0198c0de-7a5b-7cc3-9d2e-0f1a2b3c4d5e", product="demo", state="paused", rate=100)

    id: str
    product: str
    state: JobState
    rate: int


NO_WORDS = Order()
OrderBody = Annotated[Order, Body()]
NO_START_WORDS = StartOrder()
StartBody = Annotated[StartOrder, Body()]


def router(parts: Parts) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["broadcasts"], dependencies=needs(Role.BROADCAST))
    kinds = ("bad-input", "unauthorized", "unknown-broadcast", "wrong-state", "journal-down", "bus-down")
    refusals = responses(*kinds)

    @routes.post(
        "/v1/broadcasts/{id}/start",
        status_code=202,
        response_model=Steered,
        responses=responses(*kinds, "unknown-product", "too-many-broadcasts", "confirm-needed", "busy"),
    )
    async def start_draft(who: Who, job: JobId, order: StartBody = NO_START_WORDS) -> Steered:
        """Start a draft, at its `start_at` where it has one that is still to come."""
        return await steer(parts, who, job, Action.START, order, confirm=order.confirm)

    @routes.post(
        "/v1/broadcasts/{id}/pause",
        status_code=202,
        response_model=Steered,
        responses=refusals,
    )
    async def pause_broadcast(who: Who, job: JobId, order: OrderBody = NO_WORDS) -> Steered:
        """Write to nobody until it is resumed; late joiners wait, too."""
        return await steer(parts, who, job, Action.PAUSE, order)

    @routes.post(
        "/v1/broadcasts/{id}/resume",
        status_code=202,
        response_model=Steered,
        responses=refusals,
    )
    async def resume_broadcast(who: Who, job: JobId, order: OrderBody = NO_WORDS) -> Steered:
        """Go on with a paused or halted broadcast where it stopped."""
        return await steer(parts, who, job, Action.RESUME, order)

    @routes.post(
        "/v1/broadcasts/{id}/cancel",
        status_code=202,
        response_model=Steered,
        responses=refusals,
    )
    async def cancel_broadcast(who: Who, job: JobId, order: OrderBody = NO_WORDS) -> Steered:
        """End it for good. What was written stays written."""
        return await steer(parts, who, job, Action.CANCEL, order)

    @routes.put(
        "/v1/broadcasts/{id}/rate",
        status_code=202,
        response_model=Steered,
        responses=responses(*kinds, "unknown-product"),
    )
    async def set_rate(who: Who, job: JobId, order: RateOrder) -> Steered:
        """Go on at another rate."""
        return await steer(parts, who, job, Action.RATE, order, rate=order.rate)

    return routes


async def steer(
    parts: Parts, who: Caller, job: str, action: Action, order: Order, *, rate: int | None = None, confirm: str | None = None
) -> Steered:
    """Put an action into Kafka; raises a Problem for one that does not fit the job's state or its product."""
    document = await document_of(parts, who, job)
    row = row_of(document)
    then = _after(row.follows, action)
    if rate is not None:
        check_rate(product_of(parts, who, row.product), rate)
    if action is Action.START:
        check_place(parts, row.product, row.job)
    if action is Action.START and row.follows == JobState.DRAFT:
        product = product_of(parts, who, row.product)
        await confirmation(parts, who, product, record=row.record(), request=order, token=confirm, key=f"start {job}")
    record = Transition(job=job, product=row.product, action=action, rate=rate, by=order.by or None, reason=order.reason or None)
    await accept(parts, Entry(names.BROADCASTS, row.product, record), kind="transition", record_id=None)
    return Steered(id=job, product=row.product, state=then, rate=rate or _rate(document))


def _after(state: str, action: Action) -> JobState:
    """The state that the action leads to; raises a Problem (409) that says what is possible."""
    try:
        return after(JobState(state), action)
    except ValueError as error:  # or a state of a newer version
        raise Problem("wrong-state", str(error), state=state, possible=possible(state)) from None


def possible(state: str) -> list[str]:
    """What may be asked of a job in this state."""
    return sorted(action for at, action in TRANSITIONS if at == state)


def _rate(document: dict[str, Any]) -> int:
    return int(document.get("rate") or 0)
