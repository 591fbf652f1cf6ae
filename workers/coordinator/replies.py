"""What a service or a webhook is told of an uplink, and the message that carries its answer back to the device."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any

import msgspec

from infra.documents import Product
from infra.journal import Entry
from schemas import names
from schemas.codes import MAX_PAYLOAD, EventType
from schemas.records import PushMessage, Uplink
from workers.webhooks import Event, Reply


def told(uplink: Uplink) -> dict[str, Any]:
    """An uplink as a JSON object, for a service or a webhook."""
    return {
        "id": uplink.id,
        "product": uplink.product,
        "type": uplink.type,
        "realm": uplink.realm,
        "client": uplink.client,
        "user": uplink.user,
        "payload_base64": base64.b64encode(uplink.payload).decode(),
        "content_type": uplink.content_type,
        "properties": uplink.properties,
        "qos": uplink.qos,
        "room": uplink.room,
        "received_ms": uplink.received_ms,
        "wants_reply": uplink.wants_reply,
    }


def envelope(uplink: Uplink) -> bytes:
    """The request to a service: the JSON object that `egress` describes."""
    return msgspec.json.encode(told(uplink))


def event_of(uplink: Uplink, *, wants_reply: bool) -> Event:
    """The event `uplink.received`; `wants_reply`: whether an answer to this one counts. It has all that a reply needs."""
    correlation = None if uplink.correlation is None else base64.b64encode(uplink.correlation).decode()
    data = {**told(uplink), "wants_reply": wants_reply, "group": uplink.group, "correlation_base64": correlation}
    key = names.client_key(uplink.realm, uplink.client)
    return Event(f"up-{_digest(uplink)}", EventType.UPLINK_RECEIVED, uplink.product, key, uplink.received_ms, data)


def _digest(uplink: Uplink) -> str:
    return sha256("\0".join((uplink.realm, uplink.client, uplink.product, uplink.id)).encode()).hexdigest()[:40]


def reply_id(uplink: Uplink) -> str:
    """The id of an uplink's reply: the same for every repeat, so it is stored once."""
    return f"re-{_digest(uplink)}"


def reply_to(uplink: Uplink, answer: bytes, product: Product) -> PushMessage:
    """The message that carries a service's answer; raises ValueError if it is out of the product's bounds."""
    _check_size(answer, product, "service")
    message = PushMessage(
        id=reply_id(uplink),
        product=uplink.product,
        client=uplink.client,
        realm=uplink.realm,
        payload=answer,
        group=uplink.group,
        correlation=uplink.correlation,
    )
    message.check()
    return message


def replying(products: Callable[[], Mapping[str, Product]]) -> Callable[[Event, Reply], Entry]:
    """What turns a webhook's reply to an event of `event_of` into a message; it raises ValueError where that does not fit."""

    def entry(event: Event, reply: Reply) -> Entry:
        product, data, content = products().get(event.product), event.data, reply.content()
        if product is None:
            raise ValueError(f"product {event.product} is gone")
        _check_size(content, product, "webhook")
        correlation = data.get("correlation_base64")
        message = PushMessage(
            id=f"re-{event.id.removeprefix('up-')}",
            product=event.product,
            client=data["client"],
            realm=data["realm"],
            payload=content,
            group=data.get("group"),
            correlation=base64.b64decode(correlation) if correlation is not None else None,
            content_type=reply.content_type,
            properties=reply.properties,
        )
        message.check()
        return Entry(names.MESSAGES, message.client or "", message)

    return entry


def _check_size(answer: bytes, product: Product, whose: str) -> None:
    bound = min(product.max_payload, MAX_PAYLOAD)
    if len(answer) > bound:
        raise ValueError(f"the {whose}'s answer has {len(answer)} bytes; product {product.name} allows {bound}")
