"""`GET /v1/products/{product}/groups/{group}`: how many clients a group has."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated

from fastapi import APIRouter, Path
from pydantic import BaseModel, Field

from infra.journal import JournalDown
from infra.wire import JobContent
from workers.center.callers.auth import Role, Who, needs
from workers.center.campaigns.census import Known
from workers.center.content import GroupName, ProductName, product_of
from workers.center.ports import Parts
from workers.center.web.examples import example
from workers.center.web.problems import responses


class Group(BaseModel):
    """A group's members. There is no list of groups: one is there as long as somebody has joined it."""

    model_config = example(product="demo", group="news", online=640, unasked=[], known=900, known_estimated=False)

    product: str = Field(examples=["demo"])
    group: str = Field(examples=["news"])
    online: int = Field(description="Clients that have joined it in live rooms, asked just now.")
    unasked: list[str] = Field(description="Rooms that did not answer: `online` leaves theirs out.")
    known: int | None = Field(
        description="By the registry, connected or not: who was in it at its last bind. Null: Kafka was away."
    )
    known_estimated: bool = Field(description="`known` is scaled: there are more clients than were read.")


def router(parts: Parts) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["groups"])

    @routes.get(
        "/v1/products/{product}/groups/{group}",
        dependencies=needs(Role.READ),
        response_model=Group,
        responses=responses("bad-input", "unauthorized", "unknown-product", "busy"),
    )
    async def show_group(who: Who, product: Annotated[ProductName, Path()], group: Annotated[GroupName, Path()]) -> Group:
        """How many clients have joined a group. Every live room is asked and the registry is read: for a look, not for each
        minute."""
        product_of(parts, who, product)
        content = _content(product, group, time.time_ns() // 1_000_000)
        live = [view.entry.room for view in parts.rooms.live()]
        answers, known = await asyncio.gather(parts.census.online(live, content), _known(parts, content))
        return Group(
            product=product,
            group=group,
            online=sum(answer.persons or 0 for answer in answers),
            unasked=[answer.room for answer in answers if answer.persons is None],
            known=None if known is None else known.meant,
            known_estimated=known is not None and not known.exact,
        )

    return routes


async def _known(parts: Parts, content: JobContent) -> Known | None:
    try:
        return await parts.census.known(content)
    except JournalDown:
        return None


def _content(product: str, group: str, at_ms: int) -> JobContent:
    """A content that means the group, whenever its clients came."""
    return JobContent(
        job="census",
        number=(-1, -1),
        product=product,
        groups=[group],
        payload=b"",
        expires_in_ms=60_000,
        started_ms=at_ms,
        include_new=True,
    )
