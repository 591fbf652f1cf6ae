"""`POST /v1/messages`: one message for a client, for every client of a user, or (as a small broadcast) for a group."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field, model_validator

from infra.documents import Product
from infra.journal import Entry
from infra.settings import Seconds
from schemas.records import MAX_PULL_AFTER_MS, PushMessage
from workers.center.callers.auth import Caller, Role, Who, needs, require
from workers.center.campaigns.broadcasts import start
from workers.center.campaigns.campaign import BroadcastRequest
from workers.center.content import (
    PRIORITIES,
    ClientId,
    CollapseKey,
    Content,
    GroupName,
    IdempotencyKey,
    PriorityName,
    Ttl,
    UserId,
    accept,
    claim_key,
    from_base64,
    product_of,
)
from workers.center.ids import choose_id
from workers.center.ports import Parts
from workers.center.web.examples import example
from workers.center.web.problems import Problem, responses


class Message(Content):
    """A message as it is posted. Exactly one of `client` and `user` is given; or a `group` alone: it is a broadcast to it."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"product": "demo", "client": "phone-1", "payload": "hello", "qos": 1, "ttl": "10m", "priority": "high"}]
        }
    )

    client: ClientId | None = None
    user: UserId | None = None
    qos: Literal[0, 1] = 1
    priority: PriorityName = "normal"
    collapse_key: CollapseKey | None = Field(
        default=None, description="A later message with the same key replaces one that is still pending."
    )
    group: GroupName | None = Field(
        default=None,
        description="Beside client or user the topic it is delivered under, push/{product}/{group}; alone: whom it is for.",
    )
    correlation_base64: str | None = Field(default=None, description="MQTT Correlation Data, in base64.")
    mode: Literal["push", "pull", "both"] = Field(
        default="push",
        description="`pull`: only a notice is pushed, the device pulls the body. `both`: only where it is too large.",
    )
    pull_after: Annotated[Seconds, Field(le=MAX_PULL_AFTER_MS / 1000, allow_inf_nan=False)] | None = Field(
        default=None, description="With a notice: how long the device shall wait before it pulls, as `2s`."
    )
    fallback_after: Ttl | None = Field(
        default=None, description="What is unsettled then goes to another channel, as `10m`; at most the time to live."
    )
    validate_only: bool = Field(default=False, description="Check the request, store nothing (answered 200).")

    confirm: Annotated[str, Field(max_length=256)] | None = Field(
        default=None, description="For a group of many persons: what the problem `confirm-needed` gave for this very request."
    )

    @model_validator(mode="after")
    def _one_recipient(self) -> Message:
        if self.to_group:
            self._check_group()
        elif (self.client is None) == (self.user is None):
            raise ValueError("exactly one of client and user must be given, or a group alone")
        elif self.confirm is not None:
            raise ValueError("confirm is for a message to a group")
        return self

    def _check_group(self) -> None:
        given = [name for name in ("collapse_key", "correlation_base64", "pull_after") if getattr(self, name) is not None]
        given += [name for name, value in (("qos", self.qos == 0), ("mode", self.mode != "push")) if value]
        if given:
            raise ValueError(f"a message to a group is a broadcast, which has no {', '.join(given)}: leave it out")

    @property
    def to_group(self) -> bool:
        """Is it for everyone of a group?"""
        return self.client is None and self.user is None and self.group is not None

    def correlation(self) -> bytes | None:
        """MQTT Correlation Data; raises a Problem if it is no base64."""
        return None if self.correlation_base64 is None else from_base64("correlation_base64", self.correlation_base64)


class Accepted(BaseModel):
    """The answer: the message is in Kafka, acknowledged by all in-sync replicas."""

    model_config = example(id="0198c0de-7a5b-7cc3-9d2e-0f1a2b3c4d5e")

    id: str = Field(examples=["0198c0de-7a5b-7cc3-9d2e-0f1a2b3c4d5e"])


def router(parts: Parts) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["messages"])
    problems = responses(
        "bad-input",
        "unauthorized",
        "unknown-product",
        "too-large",
        "key-reused",
        "too-many-broadcasts",
        "confirm-needed",
        "journal-down",
        "busy",
    )

    @routes.post(
        "/v1/messages",
        dependencies=needs(Role.SEND),
        status_code=202,
        response_model=Accepted,
        responses={200: {"model": Accepted, "description": "It was only checked"}, **problems},
    )
    async def send_message(who: Who, message: Message, response: Response, idempotency_key: IdempotencyKey = None) -> Accepted:
        """Accept a message: answered when Kafka has it, with the id that its receipts and its MQTT property `id` carry.
        `Location` is where what becomes of it is shown. One to a group needs the role `broadcast`, too."""
        if message.to_group:
            require(who, Role.BROADCAST)
            job = await start(parts, who, _to_group(message), idempotency_key)
            record_id, where = job.id, f"/v1/broadcasts/{job.id}"
        else:
            record_id = await send(parts, who, message, idempotency_key)
            where = f"/v1/messages/{record_id}"
        if message.validate_only:
            response.status_code = 200
        else:
            response.headers["Location"] = where
        return Accepted(id=record_id)

    return routes


async def send(
    parts: Parts, who: Caller, message: Message, idempotency_key: str | None, *, asked: BaseModel | None = None
) -> str:
    """Put a message into Kafka, unless it is only to be checked; returns its id. `asked`: the request as it came, if this was
    made of it. Raises a Problem."""
    product = product_of(parts, who, message.product)
    record = record_of(who, product, message, idempotency_key)
    if not message.validate_only:
        await claim_key(parts, message, idempotency_key, record.id, asked=asked)
        await accept(parts, await entry_of(parts, product, record), kind="message", record_id=record.id)
    return record.id


def _to_group(message: Message) -> BroadcastRequest:
    """At the product's rate, to who is in the group when it starts."""
    shared = message.model_dump(include={*Content.model_fields, "priority", "fallback_after", "validate_only", "confirm"})
    return BroadcastRequest(**shared, groups=(message.group,))


async def entry_of(parts: Parts, product: Product, record: PushMessage) -> Entry:
    """Where a message goes: its product's own queue, or the shared topic."""
    return Entry(await parts.topics.topic_of(product), record.client or record.user or "", record)


def record_of(who: Caller, product: Product, message: Message, idempotency_key: str | None) -> PushMessage:
    """The record of a message; raises a Problem."""
    record = PushMessage(
        id=choose_id(message.id, idempotency_key, product.name, who.key),
        product=product.name,
        client=message.client,
        user=message.user,
        realm=message.realm,
        payload=message.body(product),
        qos=message.qos,
        priority=PRIORITIES[message.priority],
        ttl_s=message.ttl_s,
        collapse_key=message.collapse_key,
        group=message.group,
        content_type=message.content_type,
        correlation=message.correlation(),
        properties=message.properties,
        mode=message.mode,
        pull_after_ms=round(1000 * (message.pull_after or 0)),
        fallback_after_s=None if message.fallback_after is None else math.ceil(message.fallback_after),
    )
    try:
        record.check()
        record.check_fallback(product.ttl_s)
    except ValueError as error:
        raise Problem("bad-input", str(error)) from None
    return record
