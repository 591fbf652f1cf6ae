"""Broadcasts in one room: slices are walked at the owner's pace, late joiners draw on its grants, PUBACKs settle.

The rules (docs/design.md, broadcast): a client gets a job once for each connection, in the walk if its slot is still ahead of
the cursor, else from the job's late queue; what was sent and not settled when a connection ends comes again on the next. Nothing
here waits for a client: a full window puts the client into the queue. Whom a job means: `eligibility.py`; how a slice is written:
`walk.py`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import structlog
from prometheus_client import Counter

from gateway import metrics
from gateway.broadcast import caps
from gateway.broadcast.caps import BadCap, Recent
from gateway.broadcast.eligibility import Target
from gateway.broadcast.index import Index
from gateway.broadcast.jobs import Job, Jobs, NoPlace
from gateway.broadcast.quiet import BadZone, Quiet, Zones
from gateway.broadcast.sender import Plain, Sender
from gateway.broadcast.together import LOOKS, Together
from gateway.broadcast.volley import WRITTEN
from gateway.broadcast.walk import Walk
from gateway.client import BindState, Client, bind_to
from gateway.mqtt import packets
from infra.segments import BadSegment
from infra.wire import (
    Announce,
    ControlReply,
    EndJob,
    Estimate,
    JobContent,
    JobNumber,
    PauseJob,
    RecentJob,
    SettledJob,
    Slice,
    SliceReply,
)
from schemas.codes import PLACES, SLOTS

MAX_EARLY: Final = 256
"""Settled jobs, unknown in this room, that are remembered for each bind: the newest."""

log = structlog.get_logger("fanout")
refused = Counter("longwire_fanout_refused_total", "Broadcasts announced or estimated that mean nothing here", ["reason"])
slices = Counter("longwire_fanout_slices_total", "Slices by answer", ["status"])
unknown_acks = Counter("longwire_fanout_unknown_acks_total", "PUBACKs with a broadcast's id that was not in flight")


_ACKED, _REJECTED = (metrics.fanout_settled.labels(word) for word in ("acked", "rejected"))  # once, not once a person


def _unwatched(client: Client) -> None:
    """For owners that report every drained buffer anyway."""


class FanOut:
    """All broadcasts of a room.

    `clock`: the room's monotonic clock, s, as its leases show it. `watch(client)` is called after a write at QoS 0: then, or
    whenever the buffer is empty next, the owner calls `drained(client)`. `wall`: the time of day, s since the epoch, for quiet
    hours and caps. `sender`: writes the same to many connections; by default in Python.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float],
        watch: Callable[[Client], None] = _unwatched,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        wall: Callable[[], float] = time.time,
        sender: Sender | None = None,
        places: int = PLACES,
    ) -> None:
        """`places`: broadcasts of a product that may be active at once."""
        self._clock = clock
        self._watch = watch
        self._sleep = sleep
        self._wall = wall
        self._zones = Zones()
        self._index = Index()
        self._jobs = Jobs(places)
        self._together = Together(self._index, offer=self.offer, watch=watch, sender=sender or Plain(), clock=clock, sleep=sleep)

    # --- binds --------------------------------------------------------------------------------------------------------

    def bound(self, bind: BindState, settled: Sequence[JobNumber], recent: Sequence[RecentJob] = ()) -> None:
        """The saver has answered the bind, which is ready; `settled`: broadcasts that the client already has; `recent`: those
        that its frequency cap counts.

        May be called again for the same bind (a repeated SUBSCRIBE).
        """
        self._index.add(bind)
        if settled:
            bind.early = tuple(settled[-MAX_EARLY:])
        if recent and bind.recent is None:
            bind.recent = Recent(recent)
        self.regrouped(bind)

    def unbound(self, bind: BindState) -> None:
        """UNSUBSCRIBE, or the socket is gone: what was sent and not settled comes again on return."""
        if not self._index.remove(bind):
            return
        for job in self._jobs.of(bind.product):
            job.forget(bind)
            job.times.left(bind)
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
        bind = bind_to(client.binds, job.content.product) if job is not None else None
        if job is None or bind is None or not bind.sent & ~bind.settled & job.bit:
            unknown_acks.inc()
            # Either not ours, or its bind or place has gone meanwhile. The masks say what is in flight for certain; beyond that
            # one PUBACK frees one place: others whose bind or place has gone are not acknowledged yet.
            client.broadcasts_inflight = max(
                client.broadcasts_inflight - 1, min(client.broadcasts_inflight, _outstanding(client))
            )
            self.place_free(client)
            return
        bind.settled |= job.bit
        client.broadcasts_inflight = max(0, client.broadcasts_inflight - 1)
        now = client.broadcast_at = self._clock()
        job.times.acked(bind, now)
        if reason < 0x80:
            job.acked += 1
            _ACKED.value += 1
        else:
            job.rejected += 1
            _REJECTED.value += 1
        self.place_free(client)

    def drained(self, client: Client) -> None:
        """The transport's buffer is empty: what was sent on QoS 0 binds is settled as written."""
        for bind in client.binds:
            if bind.qos:
                continue
            for job in self._jobs.at(bind.product, bind.sent & ~bind.settled):
                bind.settled |= job.bit
                job.written += 1
                WRITTEN.value += 1

    def place_free(self, client: Client) -> None:
        """A place in the window was freed: what waits for one may be written again, as far as grants go."""
        if not client.blocked:
            return
        client.blocked = False
        for bind in client.binds:
            for job in self._jobs.of(bind.product):
                if job.blocked and bind in job.blocked:
                    del job.blocked[bind]
                    job.late[bind] = None

    # --- what the register keeps --------------------------------------------------------------------------------------

    def settled_jobs(self, bind: BindState, *, all: bool = False) -> list[SettledJob]:  # noqa: A002 - agreed name
        """Active jobs that the bind has settled, and what its cap counts: what the saver does not know of, or with `all` all."""
        mask = bind.settled if all else bind.settled & ~bind.saved
        if not mask and bind.recent is None:
            return []
        found = [
            SettledJob(bind.product, *job.number, job.remember_s(self._clock())) for job in self._jobs.at(bind.product, mask)
        ]
        if bind.recent is not None:
            found += bind.recent.to_save(bind.product, int(self._wall()), all=all)
        return found

    def saved(self, bind: BindState, jobs: list[SettledJob]) -> None:
        """The saver has confirmed these."""
        numbers = {(item.partition, item.offset) for item in jobs if not item.sent_s}
        if bind.recent is not None:
            bind.recent.saved((item.partition, item.offset) for item in jobs if item.sent_s)
        for job in self._jobs.at(bind.product, bind.settled & ~bind.saved):
            if job.number in numbers:
                bind.saved |= job.bit

    # --- control ------------------------------------------------------------------------------------------------------

    def control(self, message: Announce | EndJob | PauseJob) -> ControlReply:
        """A job begins here, pauses or is over; a repeat changes nothing."""
        if isinstance(message, EndJob):
            return self._end(message)
        if isinstance(message, PauseJob):
            return self._pause(message)
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
            target, quiet = Target(content), self._limits(content)
            job = self._jobs.add(content, target, quiet, term=message.term, cursor=message.slot, now=self._clock(), binds=binds)
        except (BadSegment, BadZone, BadCap) as error:
            return _refuse(content, error)
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

    def _limits(self, content: JobContent) -> Quiet | None:
        """Raises BadZone, BadCap."""
        if content.cap is not None:
            caps.check(content.cap)
        return Quiet(content.quiet, self._zones, self._wall) if content.quiet is not None else None

    def _pause(self, message: PauseJob) -> ControlReply:
        """The slice that is being written stops at its next look at the job, and answers with what it did."""
        job = self._jobs.by_id.get(message.job)
        if job is None:
            return ControlReply("gone")
        if message.term < job.term:
            return ControlReply("old-term")
        job.pauses += 1
        log.info("broadcast pauses", job=message.job, product=job.content.product, term=message.term)
        return ControlReply("ok", job.counts())

    async def estimate(self, message: Estimate) -> ControlReply:
        """How many binds here does a content mean? Nothing is kept."""
        try:
            target = Target(message.content)
        except BadSegment as error:
            return _refuse(message.content, error)
        at, persons, limit = 0, 0, LOOKS // target.looks
        while at < SLOTS:
            binds, at = self._index.take(message.content.product, at, SLOTS, limit)
            persons += sum(map(target.means, binds))
            await self._sleep(0)
        return ControlReply("ok", persons=persons)

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
        walk = Walk(
            job, order, index=self._index, together=self._together, offer=self.offer, clock=self._clock, sleep=self._sleep
        )
        persons = await walk.go()
        reply = SliceReply("ok", order.seq, job.cursor, persons, job.counts())
        if job.term == order.term:
            job.reply = reply
        return reply

    def offer(self, job: Job, bind: BindState, now: float) -> bool:
        """Write the job to a bind that wants it; False if its window has no place (then it waits as blocked), if it waits for the
        end of its quiet hours, is left out by its cap, or can't take a packet so large."""
        client, limited = bind.client, job.limited
        if limited and not self._allowed(job, bind):
            return False
        if bind.qos and client.broadcast_places() <= 0:
            job.late.pop(bind, None)
            job.blocked[bind] = None
            client.blocked = True
            return False
        data = job.packet(bind, now)
        if len(data) > client.max_packet:  # it can never be taken: settled, so that it is not tried again
            bind.settled |= job.bit
            job.rejected += 1
            job.too_large += 1
            _REJECTED.value += 1
            return False
        bind.sent |= job.bit
        job.count_write(client.key)
        if limited:
            self._note(job, bind)
        taken = client.shell.write(data)
        if bind.qos:
            if not client.broadcasts_inflight:
                client.broadcast_at = now
            client.broadcasts_inflight += 1
        elif taken:
            bind.settled |= job.bit
            job.written += 1
            WRITTEN.value += 1
        else:
            self._watch(client)
        return True

    def _allowed(self, job: Job, bind: BindState) -> bool:
        """Neither in quiet hours (then it waits for their end), nor left out by the cap: that settles nothing."""
        if job.quiet is not None and job.quiet.holds(bind):
            return False
        recent = bind.recent
        if job.cap is None or recent is None or recent.allows(job.cap, job.number, int(self._wall())):
            return True
        if not recent.left_out & job.bit:
            recent.left_out |= job.bit
            job.capped += 1
        return False

    def _note(self, job: Job, bind: BindState) -> None:
        """It was written: that counts, where the product has a cap."""
        if job.cap is None:
            return
        if bind.recent is None:
            bind.recent = Recent()
        bind.recent.note(job.cap, job.number, int(self._wall()))


def _outstanding(client: Client) -> int:
    """How many broadcasts are in flight to a client by its masks."""
    return sum((bind.sent & ~bind.settled).bit_count() for bind in client.binds if bind.qos)


def _refuse(content: JobContent, error: BadSegment | BadZone | BadCap) -> ControlReply:
    """A content that means nothing here: nobody gets it."""
    refused.labels(type(error).__name__).inc()
    log.warning("broadcast refused", job=content.job, product=content.product, reason=str(error))
    return ControlReply("refused")
