"""What a job's owner says to rooms: here is the job, write this slice, stop, it is over. One request, one answer."""

from __future__ import annotations

import time
from typing import Final

import msgspec
import structlog

from infra import wire
from infra.bus import Bus, BusError
from infra.keeper import Keeper
from infra.rooms import RoomView
from schemas import names
from schemas.broadcasts import Broadcast, JobRecord
from schemas.codes import Priority
from workers.broadcast.fold import number_of
from workers.broadcast.pacing import Order, RoomPlan

SLICE_AGE_MS: Final = 3_000
"""A slice is refused by its room when it is older."""
ANSWER: Final = 3.0
"""How long a room may take beyond the slice's own time, s."""
UNREACHED: Final = (BusError, msgspec.MsgspecError)
"""What a request may raise: the room was not reached, or its answer is none of ours. Ask again."""

log = structlog.get_logger("jobrooms")


class JobRooms:
    """The requests of one job under one term; each may raise what `UNREACHED` names."""

    def __init__(self, bus: Bus, keeper: Keeper, content: Broadcast, *, term: int) -> None:
        self._bus = bus
        self._keeper = keeper
        self._content = content
        self._term = term
        self._encoder = wire.encoder()
        self._reply = msgspec.msgpack.Decoder(wire.SliceReply)
        self._answer = msgspec.msgpack.Decoder(wire.ControlReply)

    async def announce(self, plan: RoomPlan, record: JobRecord, *, left_ms: int) -> wire.ControlReply:
        """Make the job known in a room; everything below the plan's slot counts as walked there."""
        return await self._control(plan.room, wire.Announce(self.content(record, left_ms), self._term, plan.slot))

    async def slice(self, record: JobRecord, order: Order, view: RoomView) -> wire.SliceReply:
        """Have a slice written; answered when it is."""
        message = wire.Slice(
            record.job, number_of(record), self._term, order.seq, order.lo, order.hi, order.spread_ms, order.late,
            view.clock_ms(time.monotonic()) + SLICE_AGE_MS, order.most,
        )  # fmt: skip
        timeout = order.spread_ms / 1000 + ANSWER
        subject = names.room_slice(order.room)
        return self._reply.decode(await self._bus.request(subject, self._encoder.encode(message), timeout=timeout))

    async def pause(self, plan: RoomPlan, job: str) -> None:
        """Stop what is being written now. Only a hint: who does not get it is through within a second."""
        try:
            await self._control(plan.room, wire.PauseJob(job, self._term))
        except UNREACHED as error:
            log.info("room not told to pause", job=job, room=plan.room, error=type(error).__name__)

    async def end(self, plan: RoomPlan, job: str) -> None:
        """The job is over: the room forgets it, and its last counts are taken over."""
        try:
            reply = await self._control(plan.room, wire.EndJob(job, self._term))
        except UNREACHED as error:
            log.info("room not told of the end", job=job, room=plan.room, error=type(error).__name__)
            return
        if reply.status == "ok":
            plan.expired = reply.counts.waiting + reply.counts.deferred
            plan.counts = msgspec.structs.replace(reply.counts, waiting=0, deferred=0)

    async def _control(self, room: str, message: wire.Control) -> wire.ControlReply:
        return self._answer.decode(await self._bus.request(names.room_control(room), self._encoder.encode(message)))

    def content(self, record: JobRecord, left_ms: int) -> wire.JobContent:
        """What a room needs of the job."""
        content = self._content
        return wire.JobContent(
            job=record.job,
            number=number_of(record),
            product=record.product,
            groups=list(content.groups),
            payload=content.payload,
            expires_in_ms=left_ms,
            started_ms=record.started_ms,
            include_new=content.include_new,
            content_type=content.content_type or "",
            properties=list(content.properties.items()),
            every_group=content.every_group,
            segment=content.segment or "",
            sample_bp=content.sample_bp,
            sample_seed=content.sample_seed or content.id,
            quiet=_quiet(content),
            cap=self._cap(),
        )

    def _cap(self) -> wire.Cap | None:
        """The product's frequency cap; what is transactional is not held by it."""
        product = self._keeper.products.get(self._content.product)
        if product is None or product.frequency_cap is None or self._content.priority == Priority.HIGH:
            return None
        return wire.Cap(product.frequency_cap.count, int(product.frequency_cap.per))


def _quiet(content: Broadcast) -> wire.QuietHours | None:
    quiet = content.quiet
    return None if quiet is None else wire.QuietHours(quiet.from_minute, quiet.to_minute, quiet.zone)
