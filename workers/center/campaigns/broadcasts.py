"""`/v1/broadcasts`: one content for everyone bound to a product, or for who meets its conditions, at a rate."""

from __future__ import annotations

import time
from types import NoneType
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Path, Response
from pydantic import BaseModel

from infra.documents import Product
from infra.journal import Entry
from schemas import names
from schemas.broadcasts import Broadcast
from schemas.codes import PLACES
from schemas.jobs import JobState
from workers.center.callers.auth import Caller, Role, Who, needs
from workers.center.campaigns.audiences import check_audience
from workers.center.campaigns.campaign import BroadcastRequest, expires_ms, record_of
from workers.center.campaigns.confirming import confirmation
from workers.center.campaigns.jobs import Document, accepted_document
from workers.center.campaigns.jobview import Job, JobList, JobView, summary, view
from workers.center.content import IdempotencyKey, accept, claim_key, product_of
from workers.center.ports import Parts
from workers.center.web.paging import Cursor, Limit, bad_cursor, cursor_of, place_of
from workers.center.web.problems import Problem, responses

JobId = Annotated[str, Path(alias="id")]


def router(parts: Parts) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["broadcasts"])
    refusals = responses(
        "bad-input",
        "unauthorized",
        "unknown-product",
        "too-large",
        "key-reused",
        "id-taken",
        "too-many-broadcasts",
        "confirm-needed",
        "bus-down",
        "journal-down",
        "busy",
    )

    @routes.post(
        "/v1/broadcasts",
        dependencies=needs(Role.BROADCAST),
        status_code=202,
        response_model=Job,
        responses={200: {"model": Job, "description": "It was only checked"}, **refusals},
    )
    async def start_broadcast(
        who: Who, request: BroadcastRequest, response: Response, idempotency_key: IdempotencyKey = None
    ) -> Job:
        """Accept a broadcast: answered when Kafka has it. It is sent at `rate` to who is bound when it starts."""
        job = await start(parts, who, request, idempotency_key)
        if request.validate_only:
            response.status_code = 200
        else:
            response.headers["Location"] = f"/v1/broadcasts/{job.id}"
        return job

    @routes.get(
        "/v1/broadcasts", dependencies=needs(Role.READ), response_model=JobList, responses=responses("bad-input", "unauthorized")
    )
    async def list_broadcasts(
        who: Who,
        product: str = "",
        state: JobState | None = None,
        limit: Limit = 20,
        cursor: Cursor = "",
    ) -> dict[str, Any]:
        """Broadcasts, newest first, as this process mirrors them. One that begins meanwhile may come twice."""
        keys, more = parts.jobs.index.page(who.sees, product, state or "", _place(cursor), limit)
        found = [document for key in keys if (document := parts.jobs.known(key)) is not None]
        return {"broadcasts": [summary(each) for each in found], "next": _cursor(found[-1]) if more and found else None}

    @routes.get(
        "/v1/broadcasts/{id}",
        dependencies=needs(Role.READ),
        response_model=JobView,
        responses=responses("bad-input", "unauthorized", "unknown-broadcast", "bus-down"),
    )
    async def show_broadcast(who: Who, job: JobId) -> dict[str, Any]:
        """A broadcast's state, counts and progress, seconds old at most."""
        return view(await document_of(parts, who, job))

    return routes


async def start(
    parts: Parts, who: Caller, request: BroadcastRequest, idempotency_key: str | None, *, asked: BaseModel | None = None
) -> Job:
    """Put a broadcast into Kafka, unless it is only to be checked. `asked`: the request as it came, if this was made of it.
    Raises a Problem."""
    product = product_of(parts, who, request.product)
    record = record_of(who, product, request, idempotency_key, now_ms())
    check_id(parts, record)
    if request.first_state() is JobState.RUNNING:
        check_place(parts, product.name, record.id)
    await check_audience(parts, record)
    if request.validate_only:
        return _answer(product, record, request.first_state(), None)
    if not record.draft:  # which reaches nobody; it is asked about when it is started
        record = await _confirmed(parts, who, product, request, record, key=idempotency_key or "")
    await claim_key(parts, request, idempotency_key, record.id, asked=asked)
    position = await accept(parts, Entry(names.BROADCASTS, product.name, record), kind="broadcast", record_id=record.id)
    job = _answer(product, record, JobState.ACCEPTED, position.timestamp_ms)
    await parts.jobs.announce(accepted_document(record, job.rate, job.expires_ms))
    return job


async def document_of(parts: Parts, who: Caller, job: str) -> Document:
    """A broadcast's document; raises a Problem (404, the same for one of a product that the caller does not see; or 503 where
    that can't be told now)."""
    document = await parts.jobs.get(names.message_id(job))
    foreign = document is not None and not who.sees(str(document.get("product")))
    if document is None or foreign or document.get("job") != job:  # two ids may share a key of the bucket
        raise Problem("unknown-broadcast", f"broadcast {job} is not known; one accepted a moment ago may need a second")
    return document


def check_id(parts: Parts, record: Broadcast) -> None:
    """Raise a Problem (409) if another product's broadcast is known under this id, or under one that shares its key in the KV.

    By the mirror: an id that somebody has just taken can't be known to whoever does not see that product.
    """
    found = parts.jobs.known(names.kv_job_key(record.id))
    if found is not None and (found.get("product"), found.get("job")) != (record.product, record.id):
        raise Problem("id-taken", f"the id {record.id} stands for something else; take another, or none: you are given one")


def check_place(parts: Parts, product: str, job: str) -> None:
    """Raise a Problem (409) if the product has no place for one more broadcast than those that are begun and not over.

    By the mirror, so it may be off by what was accepted in the last moment: then the broadcast waits for a place.
    """
    taken = parts.jobs.index.active(product, now_ms(), besides=job)
    if taken >= PLACES:
        detail = (
            f"product {product} has {taken} broadcasts that are begun and not over, and may have {PLACES}: "
            "cancel one, or wait until one has expired; a shorter ttl frees its place earlier"
        )
        raise Problem("too-many-broadcasts", detail)


def now_ms() -> int:
    """The time by this host's clock."""
    return time.time_ns() // 1_000_000


async def _confirmed(
    parts: Parts, who: Caller, product: Product, request: BroadcastRequest, record: Broadcast, *, key: str
) -> Broadcast:
    """The record, under the id of its confirmation if it has no other; raises a Problem (409) where it has to be confirmed."""
    own = await confirmation(parts, who, product, record=record, request=request, token=request.confirm, key=key)
    return record if own is None or key or request.id is not None else msgspec.structs.replace(record, id=own)


def _answer(product: Product, record: Broadcast, state: JobState, accepted_ms: int | None) -> Job:
    return Job(
        id=record.id,
        product=product.name,
        state=state,
        rate=record.rate or product.rate,
        accepted_ms=accepted_ms,
        expires_ms=None if accepted_ms is None else expires_ms(product, record, accepted_ms),
    )


def _cursor(document: Document) -> str:
    """Where a page ends."""
    return cursor_of(document.get("started_ms"), document["job"])


def _place(cursor: str) -> tuple[float, str] | None:
    place = place_of(cursor, (int, float, NoneType), str)
    if place is None:
        return None
    started_ms, job = place
    try:
        return float("inf") if started_ms is None else float(started_ms), job
    except OverflowError:
        raise bad_cursor(cursor) from None
