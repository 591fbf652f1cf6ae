"""The broadcasts that a room knows: content, term, cursor, counts, who waits, and the job's place in the masks.

A product has `places`. A job keeps its place until it is over *and* the place was cleared in every bind of the product:
a bit that was left behind would make the next job with this place look settled. Places are cleared together, in one pass over
the product's binds, when the last clean one is gone: a few milliseconds once in 64 jobs, instead of a pass for each.
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Final

from gateway.broadcast.ack_times import AckTimes
from gateway.broadcast.eligibility import Target
from gateway.broadcast.quiet import Quiet
from gateway.client import FIRST_BROADCAST_ID, BindState
from gateway.mqtt.publish import publish, topic_field
from infra.wire import Counts, JobContent, JobNumber, SliceReply
from schemas import names
from schemas.codes import PLACES

MAX_INTERRUPTED: Final = 20_000
"""Keys of clients that left with a broadcast unacknowledged, for each job. Beyond it a repeat is counted as `sent`."""
LAST_ID: Final = 0xFFFF


class NoPlace(Exception):
    """All places of the product, or all packet ids, belong to jobs that are not over."""


class Job:
    """One broadcast in this room. `bit` is its place in the masks, `packet_id` the same for every connection.

    Every slot below `cursor` was walked; a walk that began before the last of `pauses` stops. `late` may be written to when a
    grant is there; `blocked` have no window place now. Slots below `unswept` still have to be looked through for
    late joiners: the job came here when they were walked elsewhere. `limited`: who wants it may have to wait or be left out.
    """

    __slots__ = (
        "_bytes", "_condition", "_second", "acked", "bit", "blocked", "cap", "capped", "content", "cursor", "expires_at",
        "interrupted", "late", "limited", "lock", "newest_ms", "number", "over", "packet_id", "pauses", "quiet", "rejected",
        "repeated", "reply", "sent", "skipped", "target", "term", "times", "too_large", "unswept", "written",
    )  # fmt: skip

    def __init__(
        self,
        content: JobContent,
        target: Target,
        quiet: Quiet | None,
        *,
        term: int,
        cursor: int,
        bit: int,
        packet_id: int,
        now: float,
    ) -> None:
        self.content = content
        self.number: JobNumber = content.number
        self.target = target
        self.quiet = quiet
        self.cap = content.cap
        self.limited = quiet is not None or content.cap is not None
        self._condition, self.newest_ms = target.condition, target.newest_ms  # the walk asks them of everyone
        self.term = term
        self.cursor = cursor
        self.unswept = cursor
        self.bit = bit
        self.packet_id = packet_id
        self.expires_at = now + content.expires_in_ms / 1000
        self.over = False
        self.pauses = 0
        self.lock = asyncio.Lock()
        self.reply: SliceReply | None = None
        self.late: OrderedDict[BindState, None] = OrderedDict()
        self.blocked: OrderedDict[BindState, None] = OrderedDict()
        self.interrupted: set[str] = set()
        self.times = AckTimes()
        self.sent = self.written = self.acked = self.rejected = self.repeated = self.skipped = 0
        self.capped = self.too_large = 0
        self._bytes: dict[tuple[str, int], bytes] = {}
        self._second = -1

    @property
    def plain(self) -> bool:
        """Is everybody meant who is ready, may have it now, and counts as one person more?"""
        return self._condition is None and not self.limited and not self.interrupted

    # --- who ----------------------------------------------------------------------------------------------------------

    def matches(self, bind: BindState) -> bool:
        """Is the bind ready, not fenced, and meant (`Target.means`)?"""
        if not bind.ready or bind.fenced or bind.first_bind_ms > self.newest_ms:
            return False
        return self._condition is None or self._condition(bind)

    def wants(self, bind: BindState) -> bool:
        """Does the bind match, and has it neither been sent nor settled?"""
        if (bind.sent | bind.settled) & self.bit:
            return False
        if bind.early and self.number in bind.early:  # settled elsewhere, before the job was announced here
            bind.settled |= self.bit
            bind.saved |= self.bit
            return False
        return self.matches(bind)

    def queue(self, bind: BindState) -> None:
        """The slot is behind the cursor: wait for a grant, or leave the queue if the bind is no target (any more)."""
        if not self.wants(bind):
            self.forget(bind)
        elif self.quiet is not None and self.quiet.holds(bind):
            self.late.pop(bind, None)
            self.blocked.pop(bind, None)
        elif bind not in self.blocked:
            self.late[bind] = None

    def forget(self, bind: BindState) -> None:
        """Take the bind out of every queue."""
        self.late.pop(bind, None)
        self.blocked.pop(bind, None)
        if self.quiet is not None:
            self.quiet.forget(bind)

    def wake(self) -> None:
        """Whose quiet hours are over waits for a grant now."""
        if self.quiet is not None:
            for bind in self.quiet.over():
                self.late[bind] = None

    # --- what ---------------------------------------------------------------------------------------------------------

    def packet(self, bind: BindState, now: float) -> bytes:
        """The PUBLISH for this bind: the same bytes for everyone with its topic and QoS, in one second of the expiry."""
        left = max(1, int(self.expires_at - now))
        if left != self._second:
            self._second = left
            self._bytes.clear()
        group = self._group_of(bind)
        data = self._bytes.get((group, bind.qos))
        if data is None:
            data = self._bytes[group, bind.qos] = self._build(group, bind.qos, left)
        return data

    def _group_of(self, bind: BindState) -> str:
        """The group whose topic the bind gets it on: the job's first that it has joined."""
        if not self.target.groups:
            return ""
        return next(name for name in self.content.groups if name in bind.groups)

    def _build(self, group: str, qos: int, expires_in_s: int) -> bytes:
        content = self.content
        return publish(
            topic_field(names.push_topic(content.product, group)),
            content.payload,
            id=content.job,
            qos=qos,
            packet_id=self.packet_id if qos else None,
            expires_in_s=expires_in_s,
            content_type=content.content_type,
            correlation=None,
            properties=content.properties,
        )

    # --- numbers ------------------------------------------------------------------------------------------------------

    def count_write(self, key: str) -> None:
        """One person more, or a repeat for one that left without an acknowledgement."""
        if self.interrupted and key in self.interrupted:
            self.interrupted.discard(key)
            self.repeated += 1
        else:
            self.sent += 1

    def interrupt(self, key: str) -> None:
        """The client left with this job sent and not settled: it will come again."""
        if len(self.interrupted) < MAX_INTERRUPTED:
            self.interrupted.add(key)

    def remember_s(self, now: float) -> int:
        """Whole seconds until the job can no longer be active."""
        return max(1, math.ceil(self.expires_at - now))

    def counts(self) -> Counts:
        """The cumulative counts as the owner wants them."""
        return Counts(
            sent=self.sent,
            written=self.written,
            acked=self.acked,
            rejected=self.rejected,
            repeated=self.repeated,
            skipped=self.skipped,
            waiting=len(self.late) + len(self.blocked),
            deferred=len(self.quiet) if self.quiet is not None else 0,
            capped=self.capped,
            too_large=self.too_large,
            ack_times=list(self.times.counts),
        )

    def end(self) -> None:
        """Nothing more is written, nobody waits. Acknowledgements under way are still counted."""
        self.over = True
        self.late.clear()
        self.blocked.clear()
        self.interrupted.clear()
        self.times.end()
        if self.quiet is not None:
            self.quiet.clear()
        self._bytes.clear()


class ProductJobs:
    """The jobs of one product, by place."""

    __slots__ = ("_places", "active", "mask")

    def __init__(self, places: int) -> None:
        self._places: list[Job | None] = [None] * places
        self.mask = 0  # the bits of those that are not over
        self.active: dict[str, Job] = {}
        """Job id → job that is not over."""

    def free_bit(self) -> int | None:
        """The bit of a clean place, if there is one."""
        for place, job in enumerate(self._places):
            if job is None:
                return 1 << place
        return None

    def add(self, job: Job) -> None:
        """Give the job the place of its bit."""
        self._places[job.bit.bit_length() - 1] = job
        self.mask |= job.bit
        self.active[job.content.job] = job

    def at(self, mask: int) -> Iterator[Job]:
        """The active jobs whose bits are in `mask`; those of jobs that are over stay in every bind until they are cleared."""
        mask &= self.mask
        while mask:
            bit = mask & -mask
            mask ^= bit
            job = self._places[bit.bit_length() - 1]
            if job is not None:
                yield job

    def end(self, job: Job) -> None:
        """The job is over; its place stays taken until it is cleared."""
        self.active.pop(job.content.job, None)
        self.mask &= ~job.bit
        job.end()

    def clear(self, binds: Iterable[BindState]) -> list[Job]:
        """Clear the places of all jobs that are over, in every bind; returns those jobs."""
        gone = [job for job in self._places if job is not None and job.over]
        keep = ~sum(job.bit for job in gone)
        for bind in binds if gone else ():
            bind.sent &= keep
            bind.settled &= keep
            bind.saved &= keep
            if bind.recent is not None:
                bind.recent.left_out &= keep
        for job in gone:
            self._places[job.bit.bit_length() - 1] = None
        return gone


class Jobs:
    """All jobs of the room: by id, by product, and by the packet id that a PUBACK names. `places`: active ones of a product."""

    def __init__(self, places: int = PLACES) -> None:
        self._places = places
        self.by_id: dict[str, Job] = {}
        self.by_packet: dict[int, Job] = {}
        self._products: dict[str, ProductJobs] = {}
        self._next = FIRST_BROADCAST_ID

    def of(self, product: str) -> Iterable[Job]:
        """The active jobs of a product."""
        jobs = self._products.get(product)
        return jobs.active.values() if jobs is not None else ()

    def at(self, product: str, mask: int) -> Iterable[Job]:
        """The active jobs of a product whose bits are in `mask`."""
        jobs = self._products.get(product)
        return jobs.at(mask) if jobs is not None and mask & jobs.mask else ()

    def add(
        self,
        content: JobContent,
        target: Target,
        quiet: Quiet | None,
        *,
        term: int,
        cursor: int,
        now: float,
        binds: Iterable[BindState],
    ) -> Job:
        """Take a job in; `binds` are the product's, in case places have to be cleared. Raises NoPlace."""
        jobs = self._products.setdefault(content.product, ProductJobs(self._places))
        bit = jobs.free_bit() or self._reclaim(jobs, binds, now)
        job = Job(content, target, quiet, term=term, cursor=cursor, bit=bit, packet_id=self._packet_id(), now=now)
        jobs.add(job)
        self.by_id[content.job] = job
        self.by_packet[job.packet_id] = job
        return job

    def end(self, job: Job) -> None:
        """The job is over. Its packet id stays known until its place is cleared, for acknowledgements under way."""
        self._products[job.content.product].end(job)
        self.by_id.pop(job.content.job, None)

    def _reclaim(self, jobs: ProductJobs, binds: Iterable[BindState], now: float) -> int:
        for job in [job for job in jobs.active.values() if job.expires_at <= now]:
            self.end(job)  # its owner never said so
        for job in jobs.clear(binds):
            del self.by_packet[job.packet_id]
        bit = jobs.free_bit()
        if bit is None:
            raise NoPlace(f"{self._places} broadcasts of the product are active")
        return bit

    def _packet_id(self) -> int:
        """The next id that no job here has: an id comes again only after all others did."""
        for _ in range(FIRST_BROADCAST_ID, LAST_ID + 1):
            candidate = self._next
            self._next = candidate + 1 if candidate < LAST_ID else FIRST_BROADCAST_ID
            if candidate not in self.by_packet:
                return candidate
        raise NoPlace("all packet ids of broadcasts are taken")
