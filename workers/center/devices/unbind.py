"""Taking a client out of a product: by its room while it is there, else by the saver, which keeps what is known of it.

Its room does what an UNSUBSCRIBE would have it do, in the order of the client's own; so this module only asks, and looks.
"""

from __future__ import annotations

import asyncio
from typing import Final

from infra.bus import Bus
from infra.register import Holding
from infra.wire import Leave, UnbindItem
from schemas import names
from workers.center.orders import NotDone, Savers, ask_room
from workers.center.ports import Parts
from workers.center.web.problems import RETRY_AFTER_S, Problem

LOOKS: Final = 50
"""At the register, `LOOK_S` apart: as long as a room may take, with a client's other requests before this one."""
LOOK_S: Final = 0.1
ASK_EVERY: Final = 10
"""Looks after which the room is asked again: a client that was between two connections had nobody to ask for."""


class Unbinds:
    """`workers.center.ports.Unbinder` on NATS."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._savers = Savers(bus)

    async def leave(self, key: str, product: str, held: Holding) -> None:
        """See the port."""
        await ask_room(self._bus, held.room, Leave(key, held.generation, held.number, product))

    async def forget(self, key: str, product: str, held: Holding) -> None:
        """See the port. A newer session makes it void, which the next look tells."""
        item = UnbindItem(key, held.room, held.epoch, held.generation, held.number, product)
        try:
            await self._savers.ask(names.SAVER_UNBIND, item)
        except NotDone as error:
            raise _not_done(str(error)) from None


async def unbind(parts: Parts, key: str, product: str) -> bool:
    """Take a client out of a product; False if it was not in it. Raises a Problem, RegisterDown."""
    for look in range(LOOKS):
        held = await parts.clients.holding(key, product)
        if not held.here and not held.registered:
            return look > 0
        if held.here and parts.rooms.alive(held.room, held.epoch):
            if look % ASK_EVERY == 0:
                await parts.unbinds.leave(key, product, held)
        else:
            await parts.unbinds.forget(key, product, held)
        await asyncio.sleep(LOOK_S if look else 0.0)
    raise _not_done("its room has not done it yet")


def _not_done(why: str) -> Problem:
    return Problem("not-unbound", f"{why}; ask again", retry_after_s=RETRY_AFTER_S)
