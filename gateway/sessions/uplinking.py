"""What a client publishes: checked by pure rules, numbered, and put into Kafka one batch at a time before its PUBACK.

PUBACK ≥ 0x80 only for what must not be sent again: 0x90 the topic, 0x87 not allowed, 0x97 too much of something, 0x83 what
MQTT allows and we do not. At QoS 0 the same is dropped and counted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

import mqtt5

from gateway import metrics
from gateway.client import Client, bind_to
from gateway.mqtt import packets
from gateway.ports import Uplinks
from gateway.reasons import Reason
from infra.documents import Product
from infra.tokens import Grant
from infra.wire import OK, Properties, UplinkItem, UplinkResult
from schemas import names
from schemas.checks import RESERVED_PROPERTIES
from schemas.codes import MAX_PROPERTIES, MAX_PROPERTIES_BYTES

MAX_CORRELATION: Final = 1024
MAX_CONTENT_TYPE: Final = 128
MOST_GIVEN: Final = MAX_PROPERTIES + len(RESERVED_PROPERTIES)
"""User properties of an uplink with those that are Longwire's own, which are left out."""
MAX_QOS0_WAITING: Final = 64
"""Uplinks at QoS 0 of one client that wait; a further one is dropped, as QoS 0 allows, and counted."""


class Refused(Exception):
    """An uplink that must not be sent again."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


def accept(
    packet: mqtt5.PublishPacket, client: Client, grant: Grant, products: Mapping[str, Product], *, room: str, number: str
) -> UplinkItem:
    """The uplink that a PUBLISH is. `number`: its id where the client gave none that is valid. Raises Refused."""
    try:
        product, kind = names.parse_uplink_topic(packet.topic)
    except names.BadName as error:
        raise Refused(Reason.TOPIC_NAME_INVALID, str(error)) from error
    granted = grant.products.get(product)
    if granted is None or product not in products:
        raise Refused(Reason.NOT_AUTHORIZED, f"the token does not name product {product}, or it is not configured here")
    limit = products[product].max_payload
    if len(packet.payload) > limit:
        raise Refused(Reason.QUOTA_EXCEEDED, f"the payload has {len(packet.payload)} bytes, more than {limit}")
    own_id, properties = _properties(packet.user_properties)
    _check_rest(packet)
    return UplinkItem(
        id=own_id or number,
        key=client.key,
        user=granted.user,
        product=product,
        type=kind,
        payload=packet.payload,
        qos=int(packet.qos),
        room=room,
        wants_reply=packet.response_topic is not None,
        group=_reply_group(packet.response_topic, client, product),
        correlation=packet.correlation_data,
        content_type=packet.content_type or "",
        properties=properties,
    )


def asked_for(packet: mqtt5.PublishPacket) -> tuple[str, str]:
    """(product, id) of a pull: a PUBLISH to `pull/{product}` that names a message in the user property `id`. Raises Refused."""
    try:
        product = names.parse_pull_topic(packet.topic)
    except names.BadName as error:
        raise Refused(Reason.TOPIC_NAME_INVALID, str(error)) from error
    try:
        return product, names.message_id(dict(packet.user_properties).get("id", ""))
    except names.BadName as error:
        raise Refused(Reason.IMPLEMENTATION, f"user property {error}") from error


def _properties(given: Properties) -> tuple[str, Properties]:
    """The client's own id, if it is one, and its other properties."""
    if not given:
        return "", []
    own_id = ""
    kept = []
    for name, value in given:
        if name == "id":
            own_id = own_id or value
        elif name not in RESERVED_PROPERTIES:
            kept.append((name, value))
    if (
        len(given) > MOST_GIVEN
        or len(kept) > MAX_PROPERTIES
        or sum(len(k.encode()) + len(v.encode()) for k, v in kept) > MAX_PROPERTIES_BYTES
    ):
        raise Refused(
            Reason.QUOTA_EXCEEDED, f"more than {MAX_PROPERTIES} user properties or {MAX_PROPERTIES_BYTES} bytes of them"
        )
    return own_id if names.is_message_id(own_id) else "", kept


def _check_rest(packet: mqtt5.PublishPacket) -> None:
    if packet.correlation_data is not None and len(packet.correlation_data) > MAX_CORRELATION:
        raise Refused(Reason.QUOTA_EXCEEDED, f"Correlation Data has more than {MAX_CORRELATION} bytes")
    if packet.content_type is not None and len(packet.content_type) > MAX_CONTENT_TYPE:
        raise Refused(Reason.IMPLEMENTATION, f"Content Type has more than {MAX_CONTENT_TYPE} characters")


def _reply_group(topic: str | None, client: Client, product: str) -> str:
    """The Response Topic must be one of this connection's binds, of the uplink's own product."""
    if topic is None:
        return ""
    try:
        where, group = names.parse_push_topic(topic)
    except names.BadName as error:
        raise Refused(Reason.NOT_AUTHORIZED, f"Response Topic: {error}") from error
    bind = bind_to(client.binds, where)
    if bind is None or not bind.ready or (group and group not in bind.groups):
        raise Refused(Reason.NOT_AUTHORIZED, "the Response Topic is not a bind of this connection")
    if where != product:
        raise Refused(Reason.NOT_AUTHORIZED, f"the Response Topic is not of product {product}")
    return group


class Uplinking:
    """The uplinks of one connection: those under way, and those that wait for them."""

    __slots__ = ("_accepted", "_answer", "_freed", "_link", "_qos0", "_relieved", "_running", "_waiting", "_write", "unacked")

    def __init__(
        self,
        link: Uplinks,
        answer: Callable[[int, int, str], None],
        write: Callable[[bytes], object],
        *,
        freed: Callable[[], None],
        relieved: Callable[[], None],
    ) -> None:
        """`answer(packet_id, code, text)` tells the client why one was refused; `write(pubacks)` what Kafka has; `freed()`: one
        less is unacknowledged; `relieved()`: `blocked` may have ended."""
        self.unacked: set[int] = set()
        self._link = link
        self._answer = answer
        self._write = write
        self._accepted = b""  # PUBACKs of what the coordinator's answer has named so far: they leave together
        self._freed = freed
        self._relieved = relieved
        self._waiting: deque[tuple[UplinkItem, int]] = deque()
        self._running = 0
        self._qos0 = 0

    @property
    def blocked(self) -> bool:
        """Nothing more is to be read now."""
        return self._link.overloaded

    def add(self, item: UplinkItem, packet_id: int) -> None:
        """`packet_id` 0 at QoS 0. The caller has checked Receive Maximum."""
        if not packet_id:
            if self._qos0 >= MAX_QOS0_WAITING:
                metrics.uplinks.labels("dropped").value += 1
                return
            self._qos0 += 1
        else:
            self.unacked.add(packet_id)
        self._waiting.append((item, packet_id))
        self._next()
        if self._link.overloaded:
            self._link.when_relieved(self._relieved)

    def end(self) -> None:
        """The connection is gone. What the coordinator has not answered goes on: it was received."""
        self._waiting.clear()
        self._link.gone(self._relieved)
        self._accepted = b""
        self._answer = _nowhere
        self._write = len

    def _next(self) -> None:
        """All that waits leaves together, once nothing is under way: a client's uplinks keep their order."""
        if self._running:
            return
        batch = list(self._waiting)
        self._waiting.clear()
        self._running = len(batch)
        for item, packet_id in batch:
            self._link.send(item, partial(self._answered, packet_id))

    def _answered(self, packet_id: int, result: UplinkResult | None) -> None:
        self._running -= 1
        if packet_id:
            self.unacked.discard(packet_id)
            if result is not None:  # else: no PUBACK, the client sends it again
                self._acknowledge(packet_id, result)
            self._freed()
        else:
            self._qos0 -= 1
        metrics.uplinks.labels("lost" if result is None else result.status).value += 1
        if not self._running:
            self._next()

    def _acknowledge(self, packet_id: int, result: UplinkResult) -> None:
        """In the order in which the client has sent them (MQTT 5 §4.6)."""
        if result.status == OK:
            if not self._accepted:
                self._link.when_told(self._flush)
            self._accepted += packets.puback(packet_id)
        else:
            self._flush()
            self._answer(packet_id, result.code or Reason.UNSPECIFIED, result.reason)

    def _flush(self) -> None:
        accepted, self._accepted = self._accepted, b""
        if accepted:
            self._write(accepted)


def _nowhere(packet_id: int, code: int, text: str) -> None:
    """The socket is gone: the client sends it again, under the same id."""
