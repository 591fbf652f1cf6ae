"""`POST /v1/messages`: one message for a client, or for every client of a user."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field, model_validator

from infra.documents import Product
from infra.journal import Entry
from infra.settings import Seconds
from schemas.records import MAX_PULL_AFTER_MS, PushMessage
from workers.center.auth import Caller, Role, Who, needs
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
from workers.center.problems import Problem, responses


class Message(Content):
    """A message as it is posted. Exactly one of `client` and `user` is given."""

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
    group: GroupName | None = Field(default=None, description="The topic it is delivered under: push/{product}/{group}.")
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

    @model_validator(mode="after")
    def _one_recipient(self) -> Message:
        if (self.client is None) == (self.user is None):
            raise ValueError("exactly one of client and user must be given")
        return self

    def correlation(self) -> bytes | None:
        """MQTT Correlation Data; raises a Problem if it is no base64."""
        return None if self.correlation_base64 is None else from_base64("correlation_base64", self.correlation_base64)


class Accepted(BaseModel):
    """The answer: the message is in Kafka, acknowledged by all in-sync replicas."""

    id: str = Field(examples=["0198c0de-7a5b-7cc3-9d2e-0f1a2b3c4d5e"])


def router(parts: Parts) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["messages"])
    problems = responses("bad-input", "unauthorized", "unknown-product", "too-large", "key-reused", "journal-down", "busy")

    @routes.post("/v1/messages", dependencies=needs(Role.SEND), status_code=202, response_model=Accepted, responses=problems)
    async def send_message(who: Who, message: Message, response: Response, idempotency_key: IdempotencyKey = None) -> Accepted:
        """Accept a message: answered when Kafka has it, with the id that its receipts and its MQTT property `id` carry."""
        if message.validate_only:
            response.status_code = 200
        return Accepted(id=await send(parts, who, message, idempotency_key))

    return routes


async def send(parts: Parts, who: Caller, message: Message, idempotency_key: str | None) -> str:
    """Put a message into Kafka, unless it is only to be checked; returns its id. Raises a Problem."""
    product = product_of(parts, who, message.product)
    record = _record(who, product, message, idempotency_key)
    if not message.validate_only:
        await claim_key(parts, message, idempotency_key, record.id)
        topic = await parts.topics.topic_of(product)
        entry = Entry(topic, record.client or record.user or "", record)
        await accept(parts, entry, kind="message", record_id=record.id)
    return record.id


def _record(who: Caller, product: Product, message: Message, idempotency_key: str | None) -> PushMessage:
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
