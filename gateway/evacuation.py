"""A drain that an operator asks for: the room admits nobody and sends its clients away at a rate, and can be opened again."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

import structlog

from gateway.reasons import End, Reason
from gateway.room import Room
from gateway.sessions.lifetime import Lifetime
from infra.lifecycle import Loops
from infra.wire import ControlReply, Drain

STEP_S: Final = 0.1
NAMED: Final = 3
"""Addresses in a Server Reference (MQTT 5 §4.13), at most: others for each client."""

log = structlog.get_logger("evacuation")


class Sign(Protocol):
    """Who tells the others whether this room takes clients (gateway.backend.lease.LeaseKeeper)."""

    async def drain(self) -> None:
        """It does not."""

    async def reopen(self) -> None:
        """It does again."""


def send_away(session: Lifetime, addresses: list[str]) -> None:
    """DISCONNECT 0x9C, with some of the addresses to go to."""
    named = " ".join(random.sample(addresses, min(NAMED, len(addresses))))
    session.close(Reason.USE_ANOTHER_SERVER, End.MOVING, "moving", named)


class Evacuation:
    """At most one drain at a time: a new order takes the place of the old one."""

    def __init__(
        self, room: Room, sign: Sign, *, elsewhere: Callable[[], Awaitable[dict[str, list[str]]]], fail: Callable[[str], None]
    ) -> None:
        """`elsewhere()`: transport → addresses of rooms that take our clients; it may take seconds."""
        self._room = room
        self._sign = sign
        self._elsewhere = elsewhere
        self._order: Drain | None = None
        self._loops = Loops(fail)

    async def start(self) -> None:
        """Nothing to do."""

    async def stop(self) -> None:
        """End with the room."""
        self._order = None
        await self._loops.stop()

    async def obey(self, order: Drain) -> ControlReply:
        """Begin, go on at another rate, or open again; refused by a room that ends."""
        if self._room.ending:
            return ControlReply("refused")
        self._order = order if order.rate else None
        self._room.draining = order.rate > 0
        if self._order is None:
            await self._sign.reopen()
            log.info("open again", room=self._room.id, connections=self._room.connections)
        else:
            self._loops.start("drain", self._run(order))
            await self._sign.drain()
            log.info("draining", room=self._room.id, connections=self._room.connections, rate=order.rate)
        return ControlReply("ok", persons=self._room.connections)

    def _holds(self, order: Drain) -> bool:
        return self._order is order and not self._room.ending

    async def _run(self, order: Drain) -> None:
        """Send everyone away, until nobody is here or the order does not hold any more."""
        elsewhere = {} if order.to else await self._elsewhere()
        due, leaving = 0.0, list[Lifetime]()
        while self._holds(order) and self._room.sessions:
            self._room.end_kept()
            due += order.rate * STEP_S
            leaving = leaving or list(self._room.sessions)
            for session in leaving[: int(due)]:
                send_away(session, order.to or elsewhere.get(session.transport, []))
            leaving, due = leaving[int(due) :], due - int(due)
            await asyncio.sleep(STEP_S)
