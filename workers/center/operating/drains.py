"""Draining rooms: the order is in the audit, then the room has it."""

from __future__ import annotations

import time
from typing import Final

import structlog

from infra.bus import Bus
from infra.journal import Entry
from infra.wire import OK, Drain
from schemas import names
from schemas.broadcasts import NO_PRODUCT, Audit
from workers.center.orders import ask_room
from workers.center.ports import DrainOrder, Producer
from workers.center.web.problems import Problem

SUBJECT: Final = "room"
"""Of the audit, with the room's id behind it."""

log = structlog.get_logger("center")


class Drains:
    """`workers.center.ports.RoomDrains` on NATS and Kafka."""

    def __init__(self, bus: Bus, journal: Producer) -> None:
        self._bus = bus
        self._journal = journal

    async def drain(self, room: str, order: DrainOrder) -> None:
        """See the port. An order that is in the audit may have failed: then it was answered so."""
        record = Audit(
            product=NO_PRODUCT,
            subject=f"{SUBJECT} {room}",
            action="drain" if order.rate else "open",
            by=order.by,
            at_ms=int(time.time() * 1000),
            before=order.before,
            after=_text(order),
            reason=order.reason,
        )
        await self._journal.produce([Entry(names.AUDIT, NO_PRODUCT, record)])
        try:
            reply = await ask_room(self._bus, room, Drain(order.rate, list(order.to)), hint="; an older room can't")
        except Problem as problem:
            log.warning("room not drained", room=room, error=type(problem.__cause__).__name__)
            raise
        if reply.status != OK:
            raise Problem("room-ends", f"room {room} is ending, and sends its clients away at its own pace")


def _text(order: DrainOrder) -> str:
    if not order.rate:
        return "open"
    return f"draining, {order.rate}/s{f', to {chr(32).join(order.to)}' if order.to else ''}"
