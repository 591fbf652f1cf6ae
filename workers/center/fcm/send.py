"""`POST /v1/projects/{product}/messages:send`: a body of FCM HTTP v1 becomes a message, or a broadcast to a group or a segment.

The device gets one JSON object with `notification` and `data` as they were given, content type `application/json`.
"""

from __future__ import annotations

import json
import time
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Path
from pydantic import AfterValidator, AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from schemas import names
from workers.center.callers.auth import KEYED, Role, Who, require
from workers.center.campaigns.broadcasts import start
from workers.center.campaigns.campaign import BroadcastRequest
from workers.center.content import GroupName, IdempotencyKey, ProductName, Text
from workers.center.fcm.condition import segment_of
from workers.center.fcm.errors import responses
from workers.center.fcm.options import Options, duration_s, of_apns, of_webpush
from workers.center.ports import Parts
from workers.center.unicast.messages import Message, send
from workers.center.web.examples import example
from workers.center.web.problems import bad_input

CONTENT_TYPE: Final = "application/json"
RESERVED: Final = ("from", "message_type")
RESERVED_BEGINNINGS: Final = ("google.", "gcm.notification.")
MAX_CONDITION: Final = 1024
MAX_HEADERS: Final = 16

EXAMPLES: Final[list[Any]] = [
    {
        "message": {
            "token": "phone-1",
            "notification": {"title": "Your parcel", "body": "It is at the door."},
            "data": {"parcel": "4711"},
            "android": {"ttl": "3600s", "priority": "high", "collapse_key": "parcel-4711"},
        }
    },
    {"validate_only": True, "message": {"topic": "news", "data": {"story": "42"}}},
    {"message": {"condition": "'news' in topics && ('sports' in topics || !('quiet' in topics))", "data": {"story": "42"}}},
]


def _data_key(key: str) -> str:
    if key in RESERVED or key.startswith(RESERVED_BEGINNINGS):
        raise ValueError(
            f"FCM reserves the keys {', '.join(RESERVED)}, and those that begin with {' or '.join(RESERVED_BEGINNINGS)}"
        )
    return key


def _duration(text: str) -> str:
    duration_s(text)
    return text


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


def _condition(text: str) -> str:
    segment_of(text)
    return text


DataKey = Annotated[Text, AfterValidator(_data_key)]
Headers = Annotated[dict[Text, Text], Field(max_length=MAX_HEADERS)]


class _Part(BaseModel):
    """A part of FCM's body: what is not supported is an error, never passed over."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Notification(_Part):
    """What the app shows."""

    title: Text | None = None
    body: Text | None = None
    image: Text | None = None


class AndroidConfig(_Part):
    """`ttl` as `3600s`, at most four weeks; `0s`: now or never."""

    collapse_key: Annotated[str, AfterValidator(names.collapse_key)] | None = Field(
        default=None, validation_alias=AliasChoices("collapse_key", "collapseKey")
    )
    priority: Annotated[Literal["normal", "high"], BeforeValidator(_lower)] | None = None
    ttl: Annotated[str, AfterValidator(_duration)] | None = None

    def options(self) -> Options:
        """What it says."""
        return Options(None if self.ttl is None else duration_s(self.ttl), self.priority, self.collapse_key)


class ApnsConfig(_Part):
    """`apns-expiration`, `apns-priority` and `apns-collapse-id`."""

    headers: Headers = Field(default_factory=dict)


class WebpushConfig(_Part):
    """`TTL`, `Urgency` and `Topic`."""

    headers: Headers = Field(default_factory=dict)


class FcmMessage(_Part):
    """FCM's message. Exactly one of `token` (a client id), `topic` (a group) and `condition` (of groups) is given."""

    token: Annotated[str, AfterValidator(names.client)] | None = None
    topic: GroupName | None = None
    condition: Annotated[Text, Field(max_length=MAX_CONDITION), AfterValidator(_condition)] | None = None
    notification: Notification | None = None
    data: dict[DataKey, Text] | None = None
    android: AndroidConfig | None = None
    apns: ApnsConfig | None = None
    webpush: WebpushConfig | None = None

    @model_validator(mode="after")
    def _one_target(self) -> FcmMessage:
        if sum(target is not None for target in (self.token, self.topic, self.condition)) != 1:
            raise ValueError("exactly one of token, topic and condition must be given")
        return self

    def payload(self) -> str:
        """What the device gets."""
        parts = self.model_dump(include={"notification", "data"}, exclude_none=True)
        return json.dumps(parts, ensure_ascii=False, separators=(",", ":"))

    def options(self, now: float) -> Options:
        """How long and how urgently; `now`: the time, s. Raises a Problem."""
        android = self.android.options() if self.android else Options()
        apns = of_apns(self.apns.headers, now) if self.apns else Options()
        webpush = of_webpush(self.webpush.headers) if self.webpush else Options()
        return android.or_else(apns).or_else(webpush)


class SendRequest(_Part):
    """The body of FCM HTTP v1."""

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra={"examples": EXAMPLES})

    message: FcmMessage
    validate_only: bool = Field(
        default=False, strict=True, validation_alias=AliasChoices("validate_only", "validateOnly"), description="Send nothing."
    )


class Sent(BaseModel):
    """The answer: Kafka has it."""

    model_config = example(name="projects/demo/messages/0198c0de-7a5b-7cc3-9d2e-0f1a2b3c4d5e")

    name: str = Field(examples=["projects/demo/messages/0198c0de-7a5b-7cc3-9d2e-0f1a2b3c4d5e"])


def router(parts: Parts) -> APIRouter:
    """The route."""
    routes = APIRouter(tags=["messages"], dependencies=KEYED)

    @routes.post(
        "/v1/projects/{product}/messages:send",
        response_model=Sent,
        responses=responses(400, 401, 403, 404, 408, 409, 429, 503),
    )
    async def send_as_fcm(
        who: Who, product: Annotated[ProductName, Path()], request: SendRequest, idempotency_key: IdempotencyKey = None
    ) -> Sent:
        """FCM's `projects.messages.send`, with the product as the project. Errors are in Google's shape, too."""
        require(who, Role.SEND if request.message.token is not None else Role.BROADCAST)
        options = request.message.options(time.time())
        if request.message.token is not None:
            sent = await send(parts, who, message_of(product, request, options), idempotency_key, asked=request)
        else:
            sent = (await start(parts, who, broadcast_of(product, request, options), idempotency_key, asked=request)).id
        return Sent(name=f"projects/{product}/messages/{sent}")

    return routes


def message_of(product: str, request: SendRequest, options: Options) -> Message:
    """A message to one client. Now or never is QoS 0: written if the client is connected, and never stored."""
    return Message(
        product=product,
        client=request.message.token,
        payload=request.message.payload(),
        content_type=CONTENT_TYPE,
        qos=0 if options.ttl_s == 0 else 1,
        ttl=options.ttl_s or None,
        priority=options.priority or "normal",
        collapse_key=options.collapse_key,
        validate_only=request.validate_only,
    )


def broadcast_of(product: str, request: SendRequest, options: Options) -> BroadcastRequest:
    """A broadcast at the product's rate; raises a Problem for what one can't have."""
    message = request.message
    if options.collapse_key is not None:
        raise bad_input("message", options.collapse_key, "only a message to a token can have a key to collapse by")
    if options.ttl_s == 0:
        raise bad_input("message", 0, "a message to many goes out at a rate, so it can't be now or never: give it a time to live")
    return BroadcastRequest(
        product=product,
        payload=message.payload(),
        content_type=CONTENT_TYPE,
        ttl=options.ttl_s,
        priority=options.priority or "normal",
        groups=() if message.topic is None else (message.topic,),
        segment=None if message.condition is None else segment_of(message.condition),
        validate_only=request.validate_only,
    )
