"""The room's ports, its clock's tick, its NATS endpoints, and its orderly end."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
import structlog

from gateway.backend.lease import LeaseKeeper
from gateway.backend.saver_link import SaverLink
from gateway.edge.front import Front
from gateway.evacuation import Evacuation, send_away
from gateway.room import Room
from gateway.sessions.lifetime import Lifetime
from gateway.wheel import RESOLUTION
from infra.bus import Bus
from infra.lifecycle import Loops
from infra.wire import Control, ControlReply, Drain, Estimate, Hint, Kick, Leave, Reply, Request, Slice, SliceReply, encoder
from schemas import names

SLICES_AT_ONCE: Final = 64
"""Slices of different jobs are written side by side, each at its own pace."""

DRAIN_STEPS_S: Final = 0.1
FLUSH_S: Final = 2.0

log = structlog.get_logger("door")


class Endpoints:
    """`room.{room}.push`, `.control` and `.slice`."""

    def __init__(self, bus: Bus, room: Room, evacuation: Evacuation) -> None:
        self._bus = bus
        self._room = room
        self._evacuation = evacuation
        self._encoder = encoder()
        self._hints = msgspec.msgpack.Decoder(Request[Hint])
        self._control = msgspec.msgpack.Decoder(Control)
        self._slice = msgspec.msgpack.Decoder(Slice)

    async def start(self) -> None:
        """Serve all three."""
        room = self._room.id
        endpoints: tuple[tuple[str, str, Callable[[bytes], Awaitable[bytes]], int], ...] = (
            ("push", names.room_push(room), self._push, 1),
            ("control", names.room_control(room), self._take_control, 1),
            ("slice", names.room_slice(room), self._take_slice, SLICES_AT_ONCE),
        )
        for name, subject, handler, concurrency in endpoints:
            await self._bus.serve(name, subject, handler, concurrency=concurrency)
        await self._bus.subscribe(names.REGISTER_OPENED, lambda data: self._room.register_opened())

    async def stop(self) -> None:
        """The bus ends its endpoints itself."""

    async def _push(self, data: bytes) -> bytes:
        request = self._hints.decode(data)
        return self._encoder.encode(Reply(request.seq, self._room.push(request.items, brief=request.brief)))

    async def _take_control(self, data: bytes) -> bytes:
        message: Control = self._control.decode(data)
        return self._encoder.encode(await self._obey(message))

    async def _obey(self, message: Control) -> ControlReply:
        if isinstance(message, Kick):
            return self._room.kick(message)
        if isinstance(message, Leave):
            return self._room.leave(message)
        if isinstance(message, Drain):
            return await self._evacuation.obey(message)
        if isinstance(message, Estimate):
            return await self._room.fanout.estimate(message)
        return self._room.fanout.control(message)

    async def _take_slice(self, data: bytes) -> bytes:
        reply: SliceReply = await self._room.fanout.slice(self._slice.decode(data))
        return self._encoder.encode(reply)


class Door:
    """Accepts clients; on `stop()` sees them out."""

    def __init__(
        self,
        room: Room,
        saver: SaverLink,
        lease: LeaseKeeper,
        front: Front,
        *,
        elsewhere: Callable[[], Awaitable[dict[str, list[str]]]],
        fail: Callable[[str], None],
    ) -> None:
        """`lease`: begins once we listen, ends once all have left; `elsewhere()`: transport → addresses of rooms that take our
        clients."""
        self._room = room
        self._elsewhere = elsewhere
        self._saver = saver
        self._lease = lease
        self._loops = Loops(fail)
        self._front = front

    async def start(self) -> None:
        """Listen, then say so; raises OSError if an address is taken, BusDown."""
        self._front.start()
        self._loops.start("wheel", self._tick())
        await self._lease.start()

    async def stop(self) -> None:
        """Stop accepting → ask everyone to leave, spread over the drain → tell the saver → close what is left."""
        if self._front.listen_no_more():
            await self._see_out()
        await self._lease.stop()
        await self._loops.stop()
        self._front.stop()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(RESOLUTION)
            self._room.tick(self._room.clock())
            self._front.rest(self._room.gate.shut)

    async def _see_out(self) -> None:
        room = self._room
        room.draining = room.ending = True
        await self._lease.drain()
        log.info("draining", room=room.id, connections=room.connections, seconds=room.settings.drain)
        room.end_kept()
        elsewhere = await self._elsewhere() if room.connections else {}
        await self._move(list(room.sessions), elsewhere)
        if not await self._saver.flush(FLUSH_S):
            log.warning("some sessions were not signed off", room=room.id)
        for session in room.sessions:
            session.cut()

    async def _move(self, leaving: list[Lifetime], elsewhere: dict[str, list[str]]) -> None:
        """Send them away one after the other, evenly over the drain: the first at once; over when nobody is left."""
        steps = max(1, int(self._room.settings.drain / DRAIN_STEPS_S))
        told = 0
        for step in range(1, steps + 1):
            until = math.ceil(len(leaving) * step / steps)
            for session in leaving[told:until]:
                send_away(session, elsewhere.get(session.transport, []))
            told = until
            if told == len(leaving) or not self._room.connections:
                break
            await asyncio.sleep(DRAIN_STEPS_S)
