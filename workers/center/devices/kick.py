"""Ending a client's session: the room that has it is told to close the connection, and the client not to come back."""

from __future__ import annotations

from typing import Final

import msgspec

from infra.bus import Bus, BusError
from infra.register import SessionView
from infra.wire import OK, ControlReply, Kick
from schemas import names
from workers.center.web.problems import RETRY_AFTER_S, Problem

ADMINISTRATIVE_ACTION: Final = 0x98
"""DISCONNECT reason code (MQTT 5 §3.14.2.1)."""


class Kicks:
    """`workers.center.ports.Kicker` on NATS."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(ControlReply).decode

    async def kick(self, key: str, session: SessionView, reason: str) -> bool:
        """See the port."""
        order = Kick(key, session.generation, session.number, ADMINISTRATIVE_ACTION, reason)
        try:
            reply = self._decode(await self._bus.request(names.room_control(session.room), self._encode(order)))
        except (BusError, msgspec.MsgspecError) as error:
            detail = f"room {session.room} did not answer: {type(error).__name__}; ask again"
            raise Problem("bus-down", detail, retry_after_s=RETRY_AFTER_S) from None
        return reply.status == OK
