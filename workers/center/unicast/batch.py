"""`POST /v1/messages/batch`: up to 1,000 messages in one request, each accepted or refused by itself, produced together."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field, SkipValidation, ValidationError

from infra.documents import Product
from infra.journal import Entry, JournalDown
from schemas.records import PushMessage
from workers.center.callers.auth import Caller, Role, Who, needs
from workers.center.content import Text, accept_all, claim_keys, product_of
from workers.center.ports import Parts
from workers.center.unicast.messages import Message, entry_of, record_of
from workers.center.web.bodies import Large
from workers.center.web.examples import example, example_of
from workers.center.web.problems import Problem, ProblemDocument, journal_down, misfit, responses

MOST: Final = 1000
LARGE: Final = Large("POST", "/v1/messages/batch", most=4 * 1024 * 1024, at_once=16, of_one=4)
TURN: Final = 50
"""Messages that are checked before others get a turn of the loop."""
ACCEPTED, CHECKED, MIXED = 202, 200, 207


class BatchMessage(Message):
    """A message of a batch: as one that is posted alone, with its own key."""

    idempotency_key: Text | None = Field(default=None, description="As the header Idempotency-Key of a message alone.")


class Batch(BaseModel):
    """Messages, to clients and users."""

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra={"examples": [{"messages": [example_of(Message)]}]})

    messages: Annotated[list[SkipValidation[BatchMessage]], Field(min_length=1, max_length=MOST)]


class Result(BaseModel):
    """What became of one message of a batch: `status` is what it had been answered alone."""

    model_config = example(status=ACCEPTED, id="0198c0de-7a5b-7cc3-9d2e-0f1a2b3c4d5e")

    status: int = Field(examples=[ACCEPTED])
    id: str | None = Field(default=None, examples=["0198c0de-7a5b-7cc3-9d2e-0f1a2b3c4d5e"])
    problem: ProblemDocument | None = None


class Results(BaseModel):
    """The answers, in the order of the messages."""

    model_config = example(results=[example_of(Result)])

    results: list[Result]


@dataclass(slots=True)
class _Item:
    """A message of a batch on its way. With a problem it goes no further."""

    message: BatchMessage | None = None
    product: Product | None = None
    record: PushMessage | None = None
    problem: Problem | None = None

    def result(self) -> Result:
        if self.problem is not None:
            document = self.problem.document
            shown = {"id": document["id"]} if "id" in document else {}
            return Result(status=self.problem.status, problem=ProblemDocument(**document), **shown)
        assert self.message is not None
        assert self.record is not None
        return Result(status=CHECKED if self.message.validate_only else ACCEPTED, id=self.record.id)


def router(parts: Parts) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["messages"])

    @routes.post(
        LARGE.path,
        dependencies=needs(Role.SEND),
        status_code=ACCEPTED,
        response_model=Results,
        response_model_exclude_unset=True,
        responses={
            CHECKED: {"model": Results, "description": "All of them were only checked"},
            MIXED: {"model": Results, "description": "Some were accepted, or none: each has its status"},
            **responses("bad-input", "unauthorized", "too-large", "too-many-at-once", "busy"),
        },
    )
    async def send_batch(who: Who, batch: Batch, response: Response) -> Results:
        """Accept up to 1,000 messages in a body of up to 4 MiB: those that fit are in Kafka when it is answered, each that does
        not has its problem, as if it had been posted alone. 202: all are accepted; 207: not all."""
        items = await _checked(parts, who, batch.messages)
        await _claim(parts, items)
        await _produce(parts, items)
        results = [item.result() for item in items]
        statuses = {result.status for result in results}
        response.status_code = statuses.pop() if statuses in ({ACCEPTED}, {CHECKED}) else MIXED
        return Results(results=results)

    return routes


async def _checked(parts: Parts, who: Caller, raw: Sequence[Any]) -> list[_Item]:
    items = []
    for place, each in enumerate(raw):
        items.append(_check(parts, who, each))
        if place % TURN == TURN - 1:
            await asyncio.sleep(0)
    return items


def _check(parts: Parts, who: Caller, raw: Any) -> _Item:
    item = _Item()
    try:
        item.message = BatchMessage.model_validate(raw)
        if item.message.to_group:
            raise Problem("bad-input", "a message to a group is a job of its own: POST /v1/messages")
        item.product = product_of(parts, who, item.message.product)
        item.record = record_of(who, item.product, item.message, item.message.idempotency_key)
    except ValidationError as error:
        item.problem = misfit(error.errors())
    except Problem as problem:
        item.problem = problem
    return item


def _going_on(items: Sequence[_Item]) -> list[tuple[_Item, BatchMessage, Product, PushMessage]]:
    """Those that are to be stored."""
    return [
        (item, item.message, item.product, item.record)
        for item in items
        if item.problem is None and item.message and item.product and item.record and not item.message.validate_only
    ]


async def _claim(parts: Parts, items: Sequence[_Item]) -> None:
    keyed = [(item, message, record) for item, message, _, record in _going_on(items) if message.idempotency_key is not None]
    problems = await claim_keys(parts, [(message, record.id) for _, message, record in keyed])
    for (item, _, _), problem in zip(keyed, problems, strict=True):
        item.problem = problem


async def _produce(parts: Parts, items: Sequence[_Item]) -> None:
    """All in one go; if Kafka does not acknowledge every one of them, the outcome of all is unknown, and each has its id."""
    going_on = _going_on(items)
    entries: list[Entry] = [await entry_of(parts, product, record) for _, _, product, record in going_on]
    try:
        await accept_all(parts, entries, kind="message")
    except JournalDown:
        for item, _, _, record in going_on:
            item.problem = journal_down(record.id)
