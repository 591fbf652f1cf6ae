"""What arrives."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import mqtt5

from .backoff import parse_seconds
from .errors import ProtocolViolation

MAX_REASON = 256
MAX_PULL_AFTER_S = 3_600.0
MAX_DIGITS = 16
_REFUSALS = frozenset({0x80, 0x83, 0x87, 0x90, 0x97, 0x99})

Key = tuple[str, str, bool]


class Settler(Protocol):
    """Who carries a message's PUBACK."""

    def settle(self, message: PushMessage, code: int, reason: str) -> None:
        """Remember the outcome, and write the PUBACK if the connection is the one it came by."""

    async def drain(self) -> None:
        """Wait while the connection's write buffer is over its limit."""


@dataclass(slots=True, weakref_slot=True, eq=False, kw_only=True)
class PushMessage:
    """One downlink, as it arrived.

    `id` is the push system's (None only from a server that sends none), `properties` are the sender's own. `expires_in`
    counts in seconds from `arrived`, the event loop's time. `duplicate` is the wire's DUP flag: it was on its way before, on
    this or on an earlier connection. `pull` is set on a notice whose body has to be fetched (`PushClient.pull`).
    """

    id: str | None
    topic: str
    product: str
    group: str | None
    payload: bytes
    properties: dict[str, str]
    qos: int
    duplicate: bool
    expires_in: int | None
    correlation_data: bytes | None
    response_topic: str | None
    content_type: str | None
    arrived: float = 0.0
    settled: bool = False
    packet_id: int | None = field(default=None, repr=False)
    link: object | None = field(default=None, repr=False)
    settler: Settler | None = field(default=None, repr=False)

    @property
    def pull(self) -> str | None:
        return self.properties.get("pull")

    @property
    def size(self) -> int | None:
        """Of a notice: bytes of the body, None where the server did not say."""
        text = self.properties.get("size", "")
        return int(text) if self.pull is not None and text.isdecimal() and len(text) < MAX_DIGITS else None

    @property
    def pull_after(self) -> float:
        """Of a notice: seconds from its arrival before which its body is not to be pulled."""
        wish = parse_seconds(self.properties.get("pull-after", "")) if self.pull is not None else None
        return min(wish or 0.0, MAX_PULL_AFTER_S)

    @property
    def key(self) -> Key | None:
        """By what a repetition is known. A notice and the body pulled for it share an id, yet are two deliveries."""
        return None if self.id is None else (self.product, self.id, "pull" in self.properties)

    async def ack(self) -> None:
        """Settle it: the server forgets it. A second call, or one at QoS 0, changes nothing."""
        await self._settle(0, "")

    async def reject(self, reason: str = "", code: int = 0x83) -> None:
        """Settle it as rejected: it will not come again, and its sender can see that, with `reason` (256 characters).

        Raises ValueError unless `code` is a PUBACK reason code (MQTT 5, 3.4.2.1) of 0x80 or above.
        """
        if code not in _REFUSALS:
            raise ValueError(f"0x{code:02x} does not refuse a message; one of 0x80, 0x83, 0x87, 0x90, 0x97, 0x99 does")
        await self._settle(code, reason[:MAX_REASON])

    async def _settle(self, code: int, reason: str) -> None:
        if self.settler is not None:
            self.settler.settle(self, code, reason)
            await self.settler.drain()


def from_packet(packet: mqtt5.PublishPacket) -> PushMessage:
    """Raises ProtocolViolation where the topic is none of `push/{product}` and `push/{product}/{group}`."""
    product, group = _names(packet.topic)
    properties = dict(packet.user_properties)
    return PushMessage(
        id=properties.pop("id", None),
        topic=packet.topic,
        product=product,
        group=group,
        payload=packet.payload,
        properties=properties,
        qos=int(packet.qos),
        duplicate=packet.duplicate,
        expires_in=packet.message_expiry_interval,
        correlation_data=packet.correlation_data,
        response_topic=packet.response_topic,
        content_type=packet.content_type,
        packet_id=packet.packet_id,
    )


def _names(topic: str) -> tuple[str, str | None]:
    match topic.split("/"):
        case ["push", product]:
            return product, None
        case ["push", product, group]:
            return product, group
    raise ProtocolViolation(0x90, f"a downlink on {topic[:80]!r}, which is no push topic")
