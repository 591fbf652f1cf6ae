"""The bare walk: the same rooms, driven by hand. One Announce and one Slice over all slots, with no pace and no owner."""

from __future__ import annotations

import asyncio
import time
from types import TracebackType
from typing import Any, Final
from uuid import uuid4

import msgspec

from bench.load import Failed
from infra import wire
from infra.bus import Bus
from infra.settings import NatsSettings
from schemas import names
from schemas.codes import SLOTS

TERM: Final = 1
LIVES_MS: Final = 5_000
WITHIN: Final = 15.0


class BareWalk:
    """Use as a context manager. Call `walk`, then, outside of what is measured, `end`."""

    def __init__(self, url: str, rooms: list[str], product: str) -> None:
        self._rooms = rooms
        self._product = product
        self._runner = asyncio.Runner()
        self._bus = Bus(NatsSettings(url=url), name="bench", version="0.1.0")
        self._encode = wire.encoder().encode
        self._job = ""
        self._number = 1 << 40  # beyond any offset in push.jobs

    def __enter__(self) -> BareWalk:
        self._runner.run(self._bus.start())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._runner.run(self._bus.stop())
        self._runner.close()

    def walk(self, size: int) -> int:
        """Write `size` bytes of payload to every connection; returns to how many. Raises Failed, BusError."""
        self._job = str(uuid4())
        self._number += 1
        return self._runner.run(self._in_all(size))

    def end(self) -> None:
        """The rooms forget the job, if there is one."""
        if self._job:
            self._runner.run(self._end())
            self._job = ""

    async def _in_all(self, size: int) -> int:
        return sum(await asyncio.gather(*(self._in_room(room, size) for room in self._rooms)))

    async def _in_room(self, room: str, size: int) -> int:
        number = (0, self._number)
        content = wire.JobContent(self._job, number, self._product, [], b"x" * size, LIVES_MS, int(time.time() * 1000))
        await self._control(room, wire.Announce(content, TERM, 0))
        deadline_ms = int((time.monotonic() + WITHIN) * 1000)  # the room's clock, as it is on this machine
        order = wire.Slice(self._job, number, TERM, 1, 0, SLOTS, 0, 0, deadline_ms)
        answer = await self._bus.request(names.room_slice(room), self._encode(order), timeout=WITHIN)
        reply = msgspec.msgpack.decode(answer, type=wire.SliceReply)
        if reply.status != "ok":
            raise Failed(f"room {room} answered {reply.status} to a slice")
        return reply.persons

    async def _end(self) -> None:
        await asyncio.gather(*(self._control(room, wire.EndJob(self._job, TERM)) for room in self._rooms))

    async def _control(self, room: str, message: Any) -> None:
        answer = await self._bus.request(names.room_control(room), self._encode(message))
        reply = msgspec.msgpack.decode(answer, type=wire.ControlReply)
        if reply.status != "ok":
            raise Failed(f"room {room} answered {reply.status} to {type(message).__name__}")
