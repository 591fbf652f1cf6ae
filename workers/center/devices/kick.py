"""Ending a client's session: the room that has it is told to close the connection, and the client not to come back."""

from __future__ import annotations

from typing import Final

from infra.bus import Bus
from infra.register import SessionView
from infra.wire import OK, Kick
from workers.center.orders import ask_room

ADMINISTRATIVE_ACTION: Final = 0x98
"""DISCONNECT reason code (MQTT 5 §3.14.2.1)."""


class Kicks:
    """`workers.center.ports.Kicker` on NATS."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def kick(self, key: str, session: SessionView, reason: str) -> bool:
        """See the port."""
        kick = Kick(key, session.generation, session.number, ADMINISTRATIVE_ACTION, reason)
        return (await ask_room(self._bus, session.room, kick)).status == OK
