"""Tenants: a product's limits, pace and routes."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field, model_validator

from infra.documents.base import Document, Webhook, outward
from infra.documents.webhooks import MAX_ENDPOINTS, Endpoint
from infra.labels import WORD
from infra.settings import Pause, Seconds
from schemas import names
from schemas.checks import MAX_TTL_S
from schemas.codes import MAX_PAYLOAD

MAX_QUEUE_RATE: Final = 10_000_000
"""Messages per second of a product's own queue, at most."""
MAX_PENDING: Final = 100_000
"""Messages that may be pending for a client and product, in any product."""

MAX_DEBOUNCE: Final = 600.0
"""Seconds, at most: an end that is held back is read again by who takes a partition over, and all that came after it."""


def _health(value: str) -> str:
    return outward(value, "a health check")


class Health(Document):
    """A URL of the product's that is asked every `interval` while its broadcasts run: where it does not answer 2xx or 3xx
    within `slow_after`, the rate is halved each time, down to 1/16; where it does, it comes back as it went."""

    url: Annotated[str, Field(max_length=2048), AfterValidator(_health)]
    interval: Seconds = 1.0
    slow_after: Seconds = 1.0


class FrequencyCap(Document):
    """At most `count` broadcasts for a client within `per`; transactional ones (priority `high`) are not counted."""

    count: int = Field(ge=1, le=32)
    per: Seconds = 86_400.0


class Queue(Document):
    """A large product's own queue, `push.messages.<product>`: `rate` messages per second over all delivery workers; none
    while it is `paused`."""

    rate: int = Field(ge=1, le=MAX_QUEUE_RATE)
    paused: bool = False


class Product(Document):
    """A tenant: limits and routes. `rate`: persons per second for its broadcasts; `confirm_over`: persons above which one is
    confirmed, None: never; `services`: uplink types that a NATS service `app.<product>.<type>` answers; `uplink_types`: further
    ones that are known; `unknown_types`: are others kept, or refused; `queue`: its unicast has a topic and a pace of its own;
    `fallback_webhook`: where what is in `push.fallback` is posted; `pool`: the dispatcher sends its devices to rooms with this
    label, and to no others; `webhooks`: who is told of its events; `debounce`: how long a client is gone before they are told,
    at least (0: at once)."""

    name: Annotated[str, AfterValidator(names.product)]
    ttl_s: int = Field(default=7 * 24 * 3600, ge=1, le=MAX_TTL_S)
    max_payload: int = Field(default=16 * 1024, ge=1, le=MAX_PAYLOAD)
    max_pending: int = Field(default=1000, ge=1, le=MAX_PENDING)
    rate: int = Field(default=10_000, ge=1)
    confirm_over: int | None = Field(default=None, ge=0)
    services: tuple[Annotated[str, AfterValidator(names.uplink_type)], ...] = ()
    service_timeout: Seconds = 3.0
    uplink_types: tuple[Annotated[str, AfterValidator(names.uplink_type)], ...] = Field(default=(), max_length=256)
    unknown_types: Literal["keep", "refuse"] = "keep"
    health: Health | None = None
    frequency_cap: FrequencyCap | None = None
    queue: Queue | None = None
    fallback_webhook: Webhook | None = None
    pool: Annotated[str, Field(pattern=rf"^({WORD})?$")] = ""
    webhooks: tuple[Endpoint, ...] = Field(default=(), max_length=MAX_ENDPOINTS)
    debounce: Annotated[Pause, Field(le=MAX_DEBOUNCE)] = 5.0

    @model_validator(mode="after")
    def _check(self) -> Product:
        endpoints = [endpoint.name for endpoint in self.webhooks]
        for name in endpoints:
            if endpoints.count(name) > 1:
                raise ValueError(f"webhook {name} is there twice")
        return self

    def knows(self, uplink_type: str) -> bool:
        """Is this a type of its uplinks, one that it lists or that goes somewhere by its name?"""
        named = any(uplink_type in endpoint.uplinks for endpoint in self.webhooks)
        return named or uplink_type in self.services or uplink_type in self.uplink_types

    def listening(self, event: str) -> tuple[Endpoint, ...]:
        """The webhooks that want this type of event, in the document's order."""
        return tuple(endpoint for endpoint in self.webhooks if endpoint.wants(event))
