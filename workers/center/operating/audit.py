"""`GET /v1/audit`: what operators did, read from `push.audit` when it is asked for."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from schemas.broadcasts import NO_PRODUCT, Audit
from workers.center.callers.auth import Caller, Role, Who, needs
from workers.center.content import product_of
from workers.center.ports import Parts
from workers.center.web.examples import example, example_of
from workers.center.web.paging import Cursor, Limit, bad_cursor, cursor_of, place_of
from workers.center.web.problems import Problem, responses


class AuditEntry(BaseModel):
    """What was done: to what (`subject`: a job's id, `product`, `queue`, `config`, `access`, `room …`), by whom, why, from where
    to where."""

    model_config = example(
        product="demo",
        subject="product",
        action="patch",
        by="0f1e2d3c4b5a",
        at_ms=1755582462555,
        before='{"rate": 500}',
        after='{"rate": 1000}',
        reason="the sale",
    )

    product: str | None = Field(description="Null: of no product.")
    subject: str
    action: str
    by: str
    at_ms: int
    before: str
    after: str
    reason: str | None


class AuditLog(BaseModel):
    """Newest first. A page may have fewer records than asked for, or none: `next` is null only where there are no older ones."""

    model_config = example(records=[example_of(AuditEntry)], next=None)

    records: list[AuditEntry]
    next: str | None


def router(parts: Parts) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["audit"])

    @routes.get(
        "/v1/audit",
        dependencies=needs(Role.READ),
        response_model=AuditLog,
        responses=responses("bad-input", "unauthorized", "unknown-product", "journal-down", "busy"),
    )
    async def list_audit(
        who: Who,
        product: Annotated[str, Query(description="Of this product; left out: of none, as policy, access lists, rooms.")] = "",
        subject: Annotated[str, Query(max_length=128, description="Only of this one.")] = "",
        limit: Limit = 50,
        cursor: Cursor = "",
    ) -> AuditLog:
        """Who did what, when and why, of one product, or of what is no product's."""
        key = _key(parts, who, product)
        page = await parts.trail.page(key, subject, limit, _before(cursor, key, subject))
        more = None if page.older is None else cursor_of(key, subject, page.older)
        return AuditLog(records=[_entry(record) for record in page.records], next=more)

    return routes


def _key(parts: Parts, who: Caller, product: str) -> str:
    """Under which the records lie; raises a Problem for one that the caller does not see. One that is gone still has some."""
    if product and who.products is None:
        return product
    if product:
        return product_of(parts, who, product).name
    if who.products is not None:
        raise Problem("forbidden", "what is of no product is not for a key of some; name a product")
    return NO_PRODUCT


def _before(cursor: str, key: str, subject: str) -> int | None:
    """The offset before which a page begins; raises a Problem for the cursor of another list."""
    place = place_of(cursor, str, str, int)
    if place is None:
        return None
    if place[:2] != [key, subject] or not 0 <= place[2] < 1 << 63:
        raise bad_cursor(cursor)
    return int(place[2])


def _entry(record: Audit) -> AuditEntry:
    return AuditEntry(
        product=None if record.product == NO_PRODUCT else record.product,
        subject=record.subject,
        action=record.action,
        by=record.by,
        at_ms=record.at_ms,
        before=record.before,
        after=record.after,
        reason=record.reason,
    )
