"""`/v1/queues`, `/v1/products/{product}/queue`: a large product's own queue, its pace, pause and end."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Path
from pydantic import BaseModel, ConfigDict, Field

from infra.documents import MAX_QUEUE_RATE, Product
from workers.center.callers.auth import Role, Who, needs
from workers.center.content import ProductName, product_of
from workers.center.ports import Parts, QueueChange
from workers.center.web.etags import Words
from workers.center.web.examples import example, example_of
from workers.center.web.problems import Problem, bad_input, responses

Action = Literal["pause", "resume", "rate", "off"]


class ChangeRequest(BaseModel):
    """Who asks, and why; the rate belongs to the action `rate`, and to no other."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, json_schema_extra={"examples": [{"rate": 500, "by": "ops", "reason": "the sale"}]}
    )

    rate: int | None = Field(default=None, ge=1, le=MAX_QUEUE_RATE, description="Messages per second, over all workers.")
    by: Words = Field(default="api", description="Who: it is kept in `push.audit`.")
    reason: Words | None = None


class QueueView(BaseModel):
    """A product's own queue; `rate` null: it has none (any more)."""

    model_config = example(product="demo", rate=500, paused=False)

    product: str = Field(examples=["demo"])
    rate: int | None
    paused: bool


class QueueList(BaseModel):
    """All own queues that are switched on."""

    model_config = example(queues=[example_of(QueueView)])

    queues: list[QueueView]


def router(parts: Parts) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["queues"])
    known = responses("bad-input", "unauthorized", "unknown-product")

    @routes.get("/v1/queues", dependencies=needs(Role.READ), response_model=QueueList, responses=responses("unauthorized"))
    async def list_queues(who: Who) -> QueueList:
        """The products that have a queue of their own."""
        products = parts.documents.products
        found = [products[name] for name in who.seen(products) if products[name].queue is not None]
        return QueueList(queues=[_view(product) for product in found])

    @routes.get(
        "/v1/products/{product}/queue",
        dependencies=needs(Role.READ),
        response_model=QueueView,
        responses={**known, **responses("unknown-queue")},
    )
    async def show_queue(who: Who, name: Annotated[ProductName, Path(alias="product")]) -> QueueView:
        """One product's own queue."""
        product = product_of(parts, who, name)
        if product.queue is None:
            raise Problem("unknown-queue", f"product {name} has no queue of its own; action rate switches one on")
        return _view(product)

    @routes.post(
        "/v1/products/{product}/queue/{action}",
        dependencies=needs(Role.OPERATE),
        response_model=QueueView,
        responses=known | responses("too-many-queues", "changed-meanwhile", "journal-down", "bus-down"),
    )
    async def change_queue(
        who: Who, name: Annotated[ProductName, Path(alias="product")], action: Action, request: ChangeRequest
    ) -> QueueView:
        """Pause it, resume it, change its rate (which switches it on), or switch it off: what is in it then comes unpaced."""
        product = product_of(parts, who, name)
        if (request.rate is not None) != (action == "rate"):
            raise bad_input("rate", request.rate, "belongs to the action rate, and to no other")
        change = QueueChange(action=action, rate=request.rate, by=who.signed(request.by), reason=request.reason)
        return _view(await parts.switch.change(product.name, change))

    return routes


def _view(product: Product) -> QueueView:
    queue = product.queue
    return QueueView(product=product.name, rate=queue and queue.rate, paused=queue is not None and queue.paused)
