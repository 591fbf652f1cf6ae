"""`coordinator.uplink`: what devices publish."""

from __future__ import annotations

import msgspec

from infra.wire.batch import Properties


class UplinkItem(msgspec.Struct, array_like=True, frozen=True):
    """`coordinator.uplink`: what a device published. Answered ok only when it is in Kafka."""

    id: str
    key: str
    user: str
    product: str
    type: str
    payload: bytes
    qos: int
    room: str
    wants_reply: bool = False
    group: str = ""
    correlation: bytes | None = None
    content_type: str = ""
    properties: Properties = []


class UplinkResult(msgspec.Struct, array_like=True, frozen=True):
    """`status`: ok (PUBACK 0x00), retry, or refused with the MQTT PUBACK reason code and its text."""

    status: str
    code: int = 0
    reason: str = ""
