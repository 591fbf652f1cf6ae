"""The bare walk: rooms driven by hand, over their own subjects. One Announce and one Slice over all slots, no pace, no owner."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Final
from uuid import uuid4

import msgspec

from bench.load import Failed
from infra import wire
from infra.bus import Bus
from infra.settings import NatsSettings
from schemas import names
from schemas.codes import SLOTS

TERM: Final = 1
LIVES_MS: Final = 60_000
"""A room stops writing a job that has expired; and it has 64 places for a product's jobs, which `end` frees."""
WITHIN: Final = 60.0


class BareWalk:
    """Use as a context manager. Call `walk`, or `announce` and `write`; then, outside of what is measured, `end`."""

    def __init__(self, url: str, rooms: list[str], product: str) -> None:
        self._rooms = rooms
        self._product = product
        self._runner = asyncio.Runner()
        self._bus = Bus(NatsSettings(url=url), name="bench", version="0.1.0")
        self._encode = wire.encoder().encode
        self._jobs: list[wire.JobContent] = []
        self._number = 1 << 40  # beyond any offset in push.jobs

    def __enter__(self) -> BareWalk:
        self._runner.run(self._bus.start())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._runner.run(self._bus.stop())
        self._runner.close()

    def walk(self, size: int) -> int:
        """Write `size` bytes of payload to every connection; returns to how many. Raises Failed, BusError."""
        self.announce(size)
        return self.write()

    def announce(self, size: int, *, jobs: int = 1) -> None:
        """Tell the rooms of so many jobs, of `size` bytes of payload each. Raises Failed, BusError."""
        for _ in range(jobs):
            self._number += 1
            number = (0, self._number)
            self._jobs.append(
                wire.JobContent(str(uuid4()), number, self._product, [], b"x" * size, LIVES_MS, int(time.time() * 1000))
            )
        self._runner.run(self._control([wire.Announce(job, TERM, 0) for job in self._jobs]))

    def write(self) -> int:
        """Have them written, all asked for at the same time; returns how many PUBLISH that were. Raises Failed, BusError."""
        return self._runner.run(self._slices())

    def acknowledged(self) -> int:
        """How many PUBACKs the rooms have counted for these jobs. Raises Failed, BusError."""
        replies = self._runner.run(self._control([wire.Announce(job, TERM, 0) for job in self._jobs]))  # a repeat changes nothing
        return sum(reply.counts.acked for reply in replies)

    def end(self) -> None:
        """The rooms forget the jobs, if there are any."""
        jobs, self._jobs = self._jobs, []
        self._runner.run(self._control([wire.EndJob(job.job, TERM) for job in jobs]))

    async def _slices(self) -> int:
        deadline_ms = int((time.monotonic() + WITHIN) * 1000)  # the room's clock, as it is on this machine
        orders = [wire.Slice(job.job, job.number, TERM, 1, 0, SLOTS, 0, 0, deadline_ms) for job in self._jobs]
        return sum(await asyncio.gather(*(self._slice(room, order) for room in self._rooms for order in orders)))

    async def _slice(self, room: str, order: wire.Slice) -> int:
        answer = await self._bus.request(names.room_slice(room), self._encode(order), timeout=WITHIN)
        reply = msgspec.msgpack.decode(answer, type=wire.SliceReply)
        if reply.status != "ok":
            raise Failed(f"room {room} answered {reply.status} to a slice")
        return reply.persons

    async def _control(self, messages: Sequence[wire.Announce | wire.EndJob]) -> list[wire.ControlReply]:
        return await asyncio.gather(*(self._ask(room, message) for room in self._rooms for message in messages))

    async def _ask(self, room: str, message: wire.Announce | wire.EndJob) -> wire.ControlReply:
        answer = await self._bus.request(names.room_control(room), self._encode(message))
        reply = msgspec.msgpack.decode(answer, type=wire.ControlReply)
        if reply.status != "ok":
            raise Failed(f"room {room} answered {reply.status} to {type(message).__name__}")
        return reply
