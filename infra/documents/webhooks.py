"""A product's webhooks: where its events are posted, and with which secrets they are signed (docs/webhooks.md)."""

from __future__ import annotations

import base64
import binascii
import secrets
from typing import Annotated, Final

from pydantic import AfterValidator, Field, SecretStr, field_serializer

from infra.documents.base import Document, Webhook
from infra.settings import Seconds
from schemas import names
from schemas.codes import ANY_EVENT, EventType

MAX_ENDPOINTS: Final = 4
MAX_BATCH: Final = 500
PREFIX: Final = "whsec_"
SECRET_BYTES: Final = (24, 64)
"""A secret's length, least and most (Standard Webhooks, "Signature scheme")."""
KEPT: Final = 3 * 24 * 3600.0
"""Seconds for which an event can wait for its endpoint, at most: less than `push.retries` keeps it."""


def secret_bytes(secret: str) -> bytes:
    """The key of a `whsec_…` secret; raises ValueError, with nothing of the secret in its text."""
    least, most = SECRET_BYTES
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not secret.startswith(PREFIX) or not least <= len(key) <= most:
        raise ValueError(f"a webhook's secret is {PREFIX} and the base64 of {least} to {most} bytes")
    return key


def new_secret() -> str:
    """A fresh secret."""
    return PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def _secret(value: SecretStr) -> SecretStr:
    secret_bytes(value.get_secret_value())
    return value


def _event(value: str) -> str:
    if value != ANY_EVENT and value not in set(EventType):
        raise ValueError(f"an event is {ANY_EVENT} or one of {', '.join(EventType)}")
    return value


class Endpoint(Document):
    """One webhook of a product, known by its `name`.

    `secrets`: one, or two while they are rotated: every request is signed with each. `events`: which types it wants, `*` for
    all; `uplinks`: of `uplink.received`, only uplinks of these types (none named: of all). `batch`: events in one request, at
    most; `timeout`: for its answer; `attempts`: of one event that it refuses (4xx); `keep`: for how long an event waits for it;
    `private`: it lies in a network that is not public, as far as the setting `outside.private` allows it.
    """

    name: Annotated[str, AfterValidator(names.endpoint)]
    url: Webhook
    secrets: tuple[Annotated[SecretStr, AfterValidator(_secret)], ...] = Field(min_length=1, max_length=2)
    events: tuple[Annotated[str, AfterValidator(_event)], ...] = Field(min_length=1, max_length=32)
    uplinks: tuple[Annotated[str, AfterValidator(names.uplink_type)], ...] = Field(default=(), max_length=64)
    batch: int = Field(default=100, ge=1, le=MAX_BATCH)
    timeout: Annotated[Seconds, Field(le=60)] = 10.0
    attempts: int = Field(default=8, ge=1, le=100)
    keep: Annotated[Seconds, Field(le=KEPT)] = 24 * 3600.0
    private: bool = False

    @field_serializer("secrets", when_used="json")
    def _reveal(self, found: tuple[SecretStr, ...]) -> tuple[str, ...]:
        """The bucket is where the secrets live; logs and dumps show stars."""
        return tuple(secret.get_secret_value() for secret in found)

    def wants(self, event: str) -> bool:
        """Is this type of event for it?"""
        return event in self.events or ANY_EVENT in self.events

    def takes(self, uplink_type: str) -> bool:
        """Are uplinks of this type for it?"""
        return self.wants(EventType.UPLINK_RECEIVED) and (not self.uplinks or uplink_type in self.uplinks)
