"""`POST /v1/broadcasts/estimate`: whom a broadcast would reach, without sending it."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, model_validator

from infra.documents import Product
from schemas.broadcasts import Broadcast
from workers.center.callers.auth import Role, Who, needs
from workers.center.campaigns.broadcasts import now_ms
from workers.center.campaigns.campaign import BroadcastRequest, record_of
from workers.center.campaigns.census import Known, RoomAnswer
from workers.center.campaigns.persons import counted
from workers.center.content import product_of
from workers.center.ports import Parts
from workers.center.web.examples import example, example_of
from workers.center.web.problems import bad_input, responses


class EstimateRequest(BroadcastRequest):
    """A broadcast as it would be posted; the payload may be left out."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"product": "demo", "groups": ["news"], "sample": "5%", "rate": 100}]}
    )

    @model_validator(mode="after")
    def _one_payload(self) -> EstimateRequest:
        if self.payload is not None and self.payload_base64 is not None:
            raise ValueError("give payload or payload_base64, not both")
        return self


class RoomEstimate(BaseModel):
    """Clients of one room, or why it did not tell."""

    model_config = example(room="r1", persons=1200, error=None)

    room: str
    persons: int | None
    error: str | None


class EstimateView(BaseModel):
    """Whom it would reach now. `offline` and `known` are null where Kafka did not answer."""

    model_config = example(
        online=1200, rooms=[example_of(RoomEstimate)], offline=340, known=2000, offline_estimated=False, rate=100, takes_s=12.0
    )

    online: int = Field(description="Clients that are connected and meant, in the rooms that answered.")
    rooms: list[RoomEstimate]
    offline: int | None = Field(
        description="Clients that are meant and not connected: they get it if they come before it expires."
    )
    known: int | None = Field(description="Clients that have bound the product, meant or not.")
    offline_estimated: bool = Field(description="The two numbers are scaled: there are more clients than were read.")
    rate: int = Field(description="Persons per second that it would be sent at.")
    takes_s: float = Field(description="Seconds until all who are online have it at that rate.")


def router(parts: Parts) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["broadcasts"])

    @routes.post(
        "/v1/broadcasts/estimate",
        dependencies=needs(Role.BROADCAST),
        response_model=EstimateView,
        responses=responses("bad-input", "unauthorized", "unknown-product", "too-large", "busy"),
    )
    async def estimate_broadcast(who: Who, request: EstimateRequest) -> EstimateView:
        """A dry run: everything is checked, every live room is asked, the registry is read; nothing is sent or kept."""
        product = product_of(parts, who, request.product)
        if request.audience is not None:
            raise bad_input("audience", request.audience, "an explicit list has as many clients as it has; leave it out")
        record = record_of(who, product, request, None, now_ms())
        answers, known = await counted(parts, record)
        return _view(product, record, answers, known)

    return routes


def _view(product: Product, record: Broadcast, answers: list[RoomAnswer], known: Known | None) -> EstimateView:
    online, rate = sum(answer.persons or 0 for answer in answers), record.rate or product.rate
    return EstimateView(
        online=online,
        rooms=[RoomEstimate(room=each.room, persons=each.persons, error=each.error) for each in answers],
        offline=None if known is None else max(0, known.meant - online),
        known=None if known is None else known.clients,
        offline_estimated=known is not None and not known.exact,
        rate=rate,
        takes_s=round(online / rate, 1),
    )
