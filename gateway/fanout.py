"""Broadcasts in one room: slices are walked at the owner's pace, late joiners draw on its grants, PUBACKs settle.

The rules (docs/design.md, broadcast): a client gets a job once for each connection, in the walk if its slot is still ahead of
the cursor, else from the job's late queue; what was sent and not settled when a connection ends comes again on the next. Walks
run in short chunks, so that pings and acknowledgements keep flowing. Nothing here waits for a client: a full window puts the
client into the queue.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog
from prometheus_client import Counter

from gateway import packets
from gateway.client import BindState, Client
from gateway.index import Index
from gateway.jobs import Job, Jobs, NoPlace
from infra.wire import Announce, ControlReply, EndJob, JobNumber, SettledJob, Slice, SliceReply

CHUNK: Final = 200
"""Writes between two turns of the loop: about 2 ms (PERFORMANCE: 10 µs a write)."""
LOOKS: Final = 2_000
"""Binds looked at between two turns of the loop; a write counts for LOOKS / CHUNK of them."""
TICK: Final = 0.005
"""How often a spread slice writes what has become due, s."""
MAX_SPREAD_MS: Final = 1_000
MAX_EARLY: Final = 256
"""Settled jobs, unknown in this room, that are remembered for each bind: the newest."""

log = structlog.get_logger("fanout")
written = Counter("longwire_fanout_written_total", "Broadcasts written to a connection")
settled = Counter("longwire_fanout_settled_total", "Broadcasts settled", ["state"])
slices = Counter("longwire_fanout_slices_total", "Slices by answer", ["status"])
unknown_acks = Counter("longwire_fanout_unknown_acks_total", "PUBACKs with a broadcast's id that was not in flight")


_ACKED, _REJECTED, _WRITTEN = (settled.labels(word) for word in ("acked", "rejected", "written"))  # once, not once a person


def _unwatched(client: Client) -> None:
    """For owners that report every drained buffer anyway."""


class FanOut:
    """All broadcasts of a room.

    `clock`: the room's monotonic clock, s, as its leases show it. `watch(client)` is called after a write at QoS 0: then, or
    whenever the buffer is empty next, the owner calls `drained(client)`.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float],
        watch: Callable[[Client], None] = _unwatched,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._clock = clock
        self._watch = watch
        self._sleep = sleep
        self._index = Index()
        self._jobs = Jobs()

    # --- binds --------------------------------------------------------------------------------------------------------

    def bound(self, bind: BindState, settled: list[JobNumber]) -> None:
        """The saver has answered the bind, which is ready; `settled`: broadcasts that the client already has.

        May be called again for the same bind (a repeated SUBSCRIBE).
        """
        self._index.add(bind)
        if settled:
            bind.early = tuple(settled[-MAX_EARLY:])
        self.regrouped(bind)

    def unbound(self, bind: BindState) -> None:
        """UNSUBSCRIBE, or the socket is gone: what was sent and not settled comes again on return."""
        if not self._index.remove(bind):
            return
        for job in self._jobs.of(bind.product):
            job.forget(bind)
        for job in self._jobs.at(bind.product, bind.sent & ~bind.settled):
            job.interrupt(bind.client.key)

    def regrouped(self, bind: BindState) -> None:
        """The bind's groups changed: it may have become a target of jobs whose walk has passed its slot, or none any more."""
        for job in self._jobs.of(bind.product):
            if bind.client.slot < job.cursor:
                job.queue(bind)

    def fence(self, bind: BindState, *, away: bool = False) -> None:
        """Write nothing to it: its client is to be synced first, or is away. Its slots pass by, and it is late afterwards.

        What was written to a client that is away at QoS 0 and had not left for the kernel comes again.
        """
        bind.fenced = True
        for job in self._jobs.of(bind.product):
            job.forget(bind)
        if away and not bind.qos:
            for job in self._jobs.at(bind.product, bind.sent & ~bind.settled):
                job.interrupt(bind.client.key)
            bind.sent &= bind.settled

    def unfence(self, bind: BindState) -> None:
        """Write to it again; what passed by is for the late queues."""
        bind.fenced = False
        self.regrouped(bind)

    def again(self, bind: BindState, places: int) -> list[bytes]:
        """What was written to it at QoS 1 and not acknowledged, with DUP=1 (MQTT 5 §4.4): `places` of them, if it takes them.

        The rest counts as not sent: it comes from the late queues, once `unfence` was called.
        """
        out: list[bytes] = []
        if not bind.qos:
            return out
        now = self._clock()
        for job in self._jobs.at(bind.product, bind.sent & ~bind.settled):
            data = packets.again(job.packet(bind, now))
            if len(out) < places and len(data) <= bind.client.max_packet:
                out.append(data)
            else:
                job.interrupt(bind.client.key)
                bind.sent &= ~job.bit
        return out

    def bound_counts(self) -> dict[str, int]:
        """Product → clients bound here, for the lease."""
        return self._index.counts()

    # --- what comes back ----------------------------------------------------------------------------------------------

    def puback(self, client: Client, packet_id: int, reason: int) -> None:
        """A PUBACK with a packet id from FIRST_BROADCAST_ID up: settles the job for this client, and frees its place."""
        job = self._jobs.by_packet.get(packet_id)
        bind = client.binds.get(job.content.product) if job is not None else None
        if job is None or bind is None or not bind.sent & ~bind.settled & job.bit:
            unknown_acks.inc()
            # Either not ours, or its bind or place has gone meanwhile: in both cases the masks say what is in flight.
            client.broadcasts_inflight = min(client.broadcasts_inflight, _outstanding(client))
            self.place_free(client)
            return
        bind.settled |= job.bit
        client.broadcasts_inflight = max(0, client.broadcasts_inflight - 1)
        client.broadcast_at = self._clock()
        if reason < 0x80:
            job.acked += 1
            _ACKED.inc()
        else:
            job.rejected += 1
            _REJECTED.inc()
        self.place_free(client)

    def drained(self, client: Client) -> None:
        """The transport's buffer is empty: what was sent on QoS 0 binds is settled as written."""
        for bind in client.binds.values():
            if bind.qos:
                continue
            for job in self._jobs.at(bind.product, bind.sent & ~bind.settled):
                bind.settled |= job.bit
                job.written += 1
                _WRITTEN.inc()

    def place_free(self, client: Client) -> None:
        """A place in the window was freed: what waits for one may be written again, as far as grants go."""
        for bind in client.binds.values():
            for job in self._jobs.of(bind.product):
                if job.blocked and bind in job.blocked:
                    del job.blocked[bind]
                    job.late[bind] = None

    # --- what the register keeps --------------------------------------------------------------------------------------

    def settled_jobs(self, bind: BindState, *, all: bool = False) -> list[SettledJob]:  # noqa: A002 - agreed name
        """Active jobs that the bind has settled and the saver does not know of; with `all`, those it knows too."""
        mask = bind.settled if all else bind.settled & ~bind.saved
        now = self._clock()
        return [SettledJob(bind.product, *job.number, job.remember_s(now)) for job in self._jobs.at(bind.product, mask)]

    def saved(self, bind: BindState, jobs: list[SettledJob]) -> None:
        """The saver has confirmed these."""
        numbers = {(item.partition, item.offset) for item in jobs}
        for job in self._jobs.at(bind.product, bind.settled & ~bind.saved):
            if job.number in numbers:
                bind.saved |= job.bit

    # --- control ------------------------------------------------------------------------------------------------------

    def control(self, message: Announce | EndJob) -> ControlReply:
        """A job begins here, or is over; a repeat changes nothing."""
        if isinstance(message, EndJob):
            return self._end(message)
        content = message.content
        job = self._jobs.by_id.get(content.job)
        if job is None:
            return self._begin(message)
        if message.term < job.term:
            return ControlReply("old-term")
        self._adopt(job, message.term, content.number)
        return ControlReply("ok", job.counts())

    def _begin(self, message: Announce) -> ControlReply:
        content = message.content
        if content.expires_in_ms <= 0:
            return ControlReply("gone")
        binds = self._index.binds(content.product)
        try:
            job = self._jobs.add(content, term=message.term, cursor=message.slot, now=self._clock(), binds=binds)
        except NoPlace as error:
            log.warning("no place for the broadcast", job=content.job, product=content.product, reason=str(error))
            return ControlReply("full")
        log.info("broadcast announced", job=content.job, product=content.product, term=message.term, slot=message.slot)
        return ControlReply("ok", job.counts())

    def _end(self, message: EndJob) -> ControlReply:
        job = self._jobs.by_id.get(message.job)
        if job is None:
            return ControlReply("gone")
        if message.term < job.term:
            return ControlReply("old-term")
        counts = job.counts()
        self._jobs.end(job)
        log.info("broadcast over", job=message.job, product=job.content.product, term=message.term)
        return ControlReply("ok", counts)

    def _adopt(self, job: Job, term: int, number: JobNumber) -> None:
        """A new owner's slices are numbered afresh."""
        if term > job.term:
            job.term, job.number, job.reply = term, number, None

    # --- slices -------------------------------------------------------------------------------------------------------

    async def slice(self, order: Slice) -> SliceReply:
        """Write a slice, spread over its time, and answer when it is done. Shape and answers: infra.wire.Slice, SliceReply."""
        job = self._jobs.by_id.get(order.job)
        if job is None:
            reply = SliceReply("unknown", order.seq)
        elif order.term < job.term:
            reply = SliceReply("old-term", order.seq)
        else:
            self._adopt(job, order.term, order.number)  # at once: a slice of the old owner that runs now ends
            async with job.lock:
                reply = await self._answer(job, order)
        slices.labels(reply.status).inc()
        return reply

    async def _answer(self, job: Job, order: Slice) -> SliceReply:
        if order.term < job.term:
            return SliceReply("old-term", order.seq)
        if job.reply is not None and job.reply.seq == order.seq:
            return job.reply
        outdated = job.reply is not None and order.seq < job.reply.seq
        if outdated or int(self._clock() * 1000) > order.deadline_ms:
            return SliceReply("stale", order.seq, job.cursor)
        persons = await _Run(self, job, order).go()
        reply = SliceReply("ok", order.seq, job.cursor, persons, job.counts())
        if job.term == order.term:
            job.reply = reply
        return reply

    def offer(self, job: Job, bind: BindState, now: float) -> bool:
        """Write the job to a bind that wants it; False if its window has no place (then it waits as blocked)."""
        client = bind.client
        if bind.qos and not client.has_broadcast_place():
            job.late.pop(bind, None)
            job.blocked[bind] = None
            return False
        data = job.packet(bind, now)
        if len(data) > client.max_packet:  # it can never be taken: settled, so that it is not tried again
            bind.settled |= job.bit
            job.rejected += 1
            _REJECTED.inc()
            return False
        bind.sent |= job.bit
        job.count_write(client.key)
        client.write(data)
        if bind.qos:
            if not client.broadcasts_inflight:
                client.broadcast_at = now
            client.broadcasts_inflight += 1
        else:
            self._watch(client)
        return True


class _Run:
    """One slice while it is written."""

    def __init__(self, fanout: FanOut, job: Job, order: Slice) -> None:
        self._fanout = fanout
        self._index = fanout._index  # noqa: SLF001 - a part of FanOut, apart only because it has a state of its own
        self._clock = fanout._clock  # noqa: SLF001
        self._sleep = fanout._sleep  # noqa: SLF001
        self._job = job
        self._order = order
        self._walked = 0
        self._drawn = 0
        self._looks = 0

    async def go(self) -> int:
        """Write all that is due as time passes; returns to how many persons."""
        job, order = self._job, self._order
        begun, spread = self._clock(), min(order.spread_ms, MAX_SPREAD_MS) / 1000
        await self._sweep()
        first, last = job.cursor, max(job.cursor, order.hi)
        share = 0.0
        while share < 1 and not self._stopped() and self._anything_left(last):
            passed = self._clock() - begun
            share = min(1.0, passed / spread) if spread > 0 else 1.0
            if order.most:  # by persons: slots hold them unevenly, and `hi` is beyond where they are expected
                await self._walk(last, max(1, int(order.most * share)))
            else:
                await self._walk(first + int((last - first) * share), 0)
            await self._draw(int(order.late * share))
            if share < 1:
                await self._sleep(TICK)
        written.inc(self._walked + self._drawn)
        return self._walked + self._drawn

    def _stopped(self) -> bool:
        """Over, another owner's, or long past its time: a process that was stopped must not go on where it was."""
        job, now = self._job, self._clock()
        outdated = now * 1000 > self._order.deadline_ms + MAX_SPREAD_MS
        return job.over or job.term != self._order.term or job.expires_at <= now or outdated

    def _full(self) -> bool:
        return bool(self._order.most) and self._walked >= self._order.most

    def _anything_left(self, last: int) -> bool:
        """Slots to walk within the bound, or a grant and somebody (perhaps blocked now) for it."""
        job = self._job
        if job.cursor < last and not self._full():
            return True
        return self._drawn < self._order.late and bool(job.late or job.blocked)

    async def _walk(self, upto: int, persons: int) -> None:
        """Offer the job to everyone in the slots below `upto`, until this slice has reached so many persons (0: all of them).

        Slots below the cursor are never walked again.
        """
        job = self._job
        while job.cursor < upto and not (persons and self._walked >= persons) and not self._stopped():
            limit = min(CHUNK, persons - self._walked) if persons else CHUNK
            binds, job.cursor = self._index.take(job.content.product, job.cursor, upto, limit)
            now, before = self._clock(), self._walked
            for bind in binds:
                if not job.wants(bind):
                    job.skipped += 1
                elif self._fanout.offer(job, bind, now):
                    self._walked += 1
            await self._breathe(len(binds), self._walked - before)

    async def _draw(self, upto: int) -> None:
        """Write to late joiners until `upto` of the grant are spent or nobody is left."""
        job = self._job
        while self._drawn < upto and job.late and not self._stopped():
            bind, _ = job.late.popitem(last=False)
            wrote = job.wants(bind) and self._fanout.offer(job, bind, self._clock())
            self._drawn += wrote
            await self._breathe(1, int(wrote))

    async def _breathe(self, looks: int, writes: int) -> None:
        """Give the loop a turn when this slice has had its share of it."""
        self._looks += looks + writes * (LOOKS // CHUNK)
        if self._looks >= LOOKS:
            self._looks = 0
            await self._sleep(0)

    async def _sweep(self) -> None:
        """Queue who was already here when the job came with its cursor ahead: their slots were walked in other rooms."""
        job = self._job
        at = 0
        while at < job.unswept and not self._stopped():
            binds, at = self._index.take(job.content.product, at, job.unswept, LOOKS)
            for bind in binds:
                job.queue(bind)
            await self._sleep(0)
        if at >= job.unswept:
            job.unswept = 0


def _outstanding(client: Client) -> int:
    """How many broadcasts are in flight to a client by its masks."""
    return sum((bind.sent & ~bind.settled).bit_count() for bind in client.binds.values() if bind.qos)
