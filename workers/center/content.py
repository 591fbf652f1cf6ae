"""What messages and broadcasts have in common: the fields of a content, its bounds, and the record's way into Kafka."""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Sequence
from hashlib import sha256
from typing import Annotated, Any, Final, Literal

from fastapi import Header
from prometheus_client import Counter
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from infra.documents import Product
from infra.journal import Entry, JournalDown, Position
from infra.register import RegisterDown
from infra.register.idempotency import Claim
from infra.settings import Seconds
from schemas import names
from schemas.checks import MAX_TTL_S
from schemas.codes import MAX_PROPERTIES, Priority
from workers.center.callers.auth import Caller
from workers.center.ports import Parts
from workers.center.web.problems import Problem, bad_input, journal_down, shown

ACK_TIMEOUT: Final = 2.0
"""How long a request waits for Kafka, s; then it is answered 503."""

PriorityName = Literal["high", "normal", "low"]
PRIORITIES: Final[dict[PriorityName, Priority]] = {"high": Priority.HIGH, "normal": Priority.NORMAL, "low": Priority.LOW}
"""FCM's words, and more than FCM's two: `low` is bulk."""

accepted = Counter("longwire_center_accepted_total", "Records that Kafka acknowledged before they were answered", ["kind"])
unchecked_keys = Counter("longwire_center_unchecked_keys_total", "Idempotency keys that were not compared: Redis was away")
unacknowledged = Counter("longwire_center_unacknowledged_total", "Records answered 503: Kafka did not acknowledge", ["kind"])


def no_bool(value: Any) -> Any:
    """Pydantic takes true for 1; raises ValueError."""
    if isinstance(value, bool):
        raise ValueError("is a number or a text like 10s, not true or false")
    return value


def _encodable(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("has a lone surrogate, which UTF-8 can't carry") from None
    return value


Text = Annotated[str, AfterValidator(_encodable)]


def _form(pattern: str) -> WithJsonSchema:
    """For the document: the check itself says more of what does not fit."""
    return WithJsonSchema({"type": "string", "pattern": f"^{pattern}$"})


ProductName = Annotated[str, AfterValidator(names.product), _form(names.PRODUCT_FORM)]
GroupName = Annotated[str, AfterValidator(names.group), _form(names.GROUP_FORM)]
RealmName = Annotated[str, AfterValidator(names.realm), _form(names.REALM_FORM)]
ClientId = Annotated[str, AfterValidator(names.client), _form(names.CLIENT_FORM)]
UserId = Annotated[str, AfterValidator(names.user), _form(names.USER_FORM)]
RecordId = Annotated[str, AfterValidator(names.message_id), _form(names.ID_FORM)]
CollapseKey = Annotated[str, AfterValidator(names.collapse_key), _form(names.COLLAPSE_FORM)]
Ttl = Annotated[Seconds, Field(le=MAX_TTL_S, allow_inf_nan=False), BeforeValidator(no_bool)]
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        description="The same key, product and body give the same id, stored once; another body within a day is 409.",
    ),
]


class Content(BaseModel):
    """The fields that every push has. Exactly one of `payload` and `payload_base64` is given."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    product: ProductName
    realm: RealmName = names.DEFAULT_REALM
    payload: Text | None = Field(default=None, description="Text; it is sent as UTF-8.")
    payload_base64: str | None = Field(default=None, description="Bytes, in base64 (RFC 4648 §4).")
    content_type: Text | None = Field(default=None, max_length=128)
    properties: dict[Text, Text] = Field(default_factory=dict, max_length=MAX_PROPERTIES, description="MQTT user properties.")
    ttl: Ttl | None = Field(default=None, description="Seconds, or text like `10s`, `5m`, `2h`; default: the product's.")
    id: RecordId | None = Field(default=None, description="The sender's own id; default: a UUIDv7.")

    @model_validator(mode="after")
    def _one_payload(self) -> Content:
        if (self.payload is None) == (self.payload_base64 is None):
            raise ValueError("exactly one of payload and payload_base64 must be given")
        return self

    @property
    def ttl_s(self) -> int | None:
        """Whole seconds, rounded up."""
        return None if self.ttl is None else math.ceil(self.ttl)

    def body(self, product: Product) -> bytes:
        """The payload's bytes; raises a Problem if they are no base64, or more than the product allows."""
        text = self.payload
        data = text.encode() if text is not None else from_base64("payload_base64", self.payload_base64 or "")
        if len(data) > product.max_payload:
            detail = f"payload has {len(data)} bytes; product {product.name} allows {product.max_payload}"
            raise Problem("too-large", detail)
        return data


def from_base64(field: str, text: str) -> bytes:
    """The bytes of a base64 text; raises a Problem that names the field."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise bad_input(field, text, f"is not base64: {shown(str(error))[1:-1]}") from None


def product_of(parts: Parts, who: Caller, name: str) -> Product:
    """The product of a request; raises a Problem (404), the same for one that the caller does not see."""
    product = parts.documents.products.get(name)
    if product is None or not who.sees(name):
        raise unknown_product(name)
    return product


def unknown_product(name: str) -> Problem:
    """The 404 for a product that is not there."""
    return Problem("unknown-product", f"product {name} is not configured; products are documents of the keeper")


async def claim_key(parts: Parts, request: Content, key: str | None, record_id: str, *, asked: BaseModel | None = None) -> None:
    """Raises a Problem (409) if the idempotency key was used for another request. Without Redis there is no check, counted: the
    id alone keeps a repeat from being stored twice. `asked`: what is compared, if it is not the request."""
    if key is not None:
        [problem] = await claim_keys(parts, [(request, record_id)], asked)
        if problem is not None:
            raise problem


async def claim_keys(
    parts: Parts, requests: Sequence[tuple[Content, str]], asked: BaseModel | None = None
) -> list[Problem | None]:
    """The same for several requests with their ids, in one go: the problem of each, in order."""
    claims = [Claim(request.product, record_id, _digest(asked or request)) for request, record_id in requests]
    try:
        found = await parts.keys.claim(claims)
    except RegisterDown:
        unchecked_keys.inc(len(claims))
        return [None] * len(claims)
    reused = "this Idempotency-Key was used for another request of this product within the last day"
    return [None if same else Problem("key-reused", reused) for same in found]


def _digest(request: BaseModel) -> str:
    """Of what is asked for, whichever way the key came."""
    return sha256(request.model_dump_json(exclude={"idempotency_key", "confirm"}).encode()).hexdigest()


async def accept(parts: Parts, entry: Entry, *, kind: str, record_id: str | None) -> Position:
    """Put a record into Kafka; raises a Problem (503, with the id to repeat it by) if it is not acknowledged in time.

    `record_id` is None for what has no id of its own, and may be repeated as it is.
    """
    try:
        [position] = await accept_all(parts, [entry], kind=kind)
    except JournalDown:
        raise journal_down(record_id) from None
    return position


async def accept_all(parts: Parts, entries: Sequence[Entry], *, kind: str) -> list[Position]:
    """Put records into Kafka in one go; raises JournalDown if not every one of them is acknowledged in time."""
    try:
        if reason := parts.health.reasons().get("kafka"):  # known since the last probe: nobody has to wait for it
            raise JournalDown(reason)
        positions = await parts.journal.produce(entries, timeout=ACK_TIMEOUT)
    except JournalDown:
        unacknowledged.labels(kind).inc(len(entries))
        raise
    accepted.labels(kind).inc(len(entries))
    return positions
