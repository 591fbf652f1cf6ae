"""`POST /v1/broadcasts`, `GET /v1/broadcasts/{id}`: one content for everyone bound to a product, at a rate."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Response
from pydantic import BaseModel, ConfigDict, Field

from infra.journal import Entry
from infra.keeper import Product
from schemas import names
from schemas.broadcasts import Broadcast
from schemas.jobs import JobState
from workers.center.auth import DOCUMENTED
from workers.center.content import Content, GroupName, IdempotencyKey, accept, claim_key, product_of
from workers.center.ids import choose_id
from workers.center.jobs import accepted_document
from workers.center.ports import Parts
from workers.center.problems import Problem, responses

MAX_RATE = 10_000_000


class BroadcastRequest(Content):
    """A broadcast as it is posted."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"product": "demo", "payload": "hello, everyone", "rate": 100, "ttl": "1h"}]}
    )

    rate: int | None = Field(
        default=None, ge=1, le=MAX_RATE, description="Persons per second; at most, and by default, the product's."
    )
    groups: tuple[GroupName, ...] = Field(default=(), max_length=64, description="Only who is in any of these; none: everyone.")
    include_new: bool = Field(default=False, description="Also who binds the product only after the start.")


class Job(BaseModel):
    """The answer to a broadcast: it is in Kafka, acknowledged. `rate` is what will be kept to."""

    id: str = Field(examples=["0198c0de-7a5b-7cc3-9d2e-0f1a2b3c4d5e"])
    product: str
    state: JobState
    rate: int
    accepted_ms: int = Field(description="Kafka's append time: the time to live counts from here.")
    expires_ms: int


class RoomProgress(BaseModel):
    """How far a job came in one boot of a room: slots walked, and cumulative counts."""

    model_config = ConfigDict(extra="allow")

    room: str
    epoch: int
    slot: int
    counts: dict[str, int]


class JobView(BaseModel):
    """A job as its owner last told, each second while something changes."""

    model_config = ConfigDict(extra="allow")

    id: str
    product: str
    state: JobState
    rate: int
    started_ms: int | None = None
    expires_ms: int | None = None
    completed_ms: int | None = None
    targeted: int = Field(default=0, description="Clients bound when it started.")
    progress: float = Field(default=0.0, description="0 to 1: slots walked in live rooms.")
    uncertain: int = Field(default=0, description="Persons sent to by rooms that died before they had counted their answers.")
    term: int = 0
    totals: dict[str, int] = Field(default_factory=dict)
    rooms: list[RoomProgress] = Field(default_factory=list)


def router(parts: Parts) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["broadcasts"], dependencies=DOCUMENTED)
    problems = responses("bad-input", "unauthorized", "unknown-product", "too-large", "key-reused", "journal-down", "busy")

    @routes.post("/v1/broadcasts", status_code=202, response_model=Job, responses=problems)
    async def start_broadcast(request: BroadcastRequest, response: Response, idempotency_key: IdempotencyKey = None) -> Job:
        """Accept a broadcast: answered when Kafka has it. It is sent at `rate` to who is bound when it starts."""
        product = product_of(parts, request.product)
        record = _record(product, request, idempotency_key)
        await claim_key(parts, request, idempotency_key, record.id)
        position = await accept(parts, Entry(names.BROADCASTS, product.name, record), kind="broadcast", record_id=record.id)
        rate = min(request.rate or product.rate, product.rate)
        await parts.jobs.announce(accepted_document(record.id, product.name, rate))
        response.headers["Location"] = f"/v1/broadcasts/{record.id}"
        return Job(
            id=record.id,
            product=product.name,
            state=JobState.ACCEPTED,
            rate=rate,
            accepted_ms=position.timestamp_ms,
            expires_ms=position.timestamp_ms + (record.ttl_s or product.ttl_s) * 1000,
        )

    @routes.get(
        "/v1/broadcasts/{id}",
        response_model=JobView,
        responses=responses("bad-input", "unauthorized", "unknown-broadcast", "bus-down"),
    )
    async def show_broadcast(job: Annotated[str, Path(alias="id")]) -> dict[str, Any]:
        """A broadcast's state, counts and progress, seconds old at most."""
        document = await parts.jobs.get(names.message_id(job))
        if document is None:
            raise Problem("unknown-broadcast", f"broadcast {job} is not known; one accepted a moment ago may need a second")
        return {**document, "id": job}

    return routes


def _record(product: Product, request: BroadcastRequest, idempotency_key: str | None) -> Broadcast:
    """The record of a broadcast; raises a Problem."""
    record = Broadcast(
        id=choose_id(request.id, idempotency_key, product.name),
        product=product.name,
        realm=request.realm,
        groups=request.groups,
        payload=request.body(product),
        content_type=request.content_type,
        properties=request.properties,
        rate=request.rate or 0,
        ttl_s=request.ttl_s,
        include_new=request.include_new,
    )
    try:
        record.check()
    except ValueError as error:
        raise Problem("bad-input", str(error)) from None
    return record
