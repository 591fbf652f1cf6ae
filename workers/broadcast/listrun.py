"""One broadcast to an explicit list, while this process owns it: chunks of `push.audiences` come in, messages go out.

The one kind of broadcast that writes for each person: whoever is named gets an ordinary message under the job's id, at the
product's pace, and it waits for who is away. `job.py` has the rest of its life, `listplan.py` its arithmetic.
A batch that Kafka did not acknowledge is produced again, and another owner begins at most a second before: both are stored once,
by their id. What was produced is not taken back by a pause or a cancellation.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from typing import Final, NamedTuple

import structlog
from msgspec.structs import replace

from infra import wire
from infra.audiences import Chunk, unusable
from infra.journal import Entry, JournalDown
from schemas import names
from schemas.broadcasts import JobRecord, RoomCursor
from schemas.codes import State
from schemas.jobs import JobState
from schemas.records import PushMessage
from workers.broadcast import funnel
from workers.broadcast.funnel import Figures
from workers.broadcast.job import RETRY, TICK, Claim, JobBase, Shared, Tools, persons
from workers.broadcast.listplan import BEAT, cursor, from_cursor, unsettled
from workers.broadcast.pace import WEIGHTS
from workers.broadcast.receiptcount import Followed

MAX_BATCH: Final = 2_000
"""Messages produced in one go, at most."""
MAX_BATCH_BYTES: Final = 4 * 1024 * 1024
ENVELOPE: Final = 512
"""Bytes of a message beside its payload, about."""
KEEP: Final = 60.0
"""The cursor is kept so often, s, where only the place in `push.receipts` has changed."""

log = structlog.get_logger("listrun")


class Gone(Exception):
    """The list is no longer where it was."""


class Part(NamedTuple):
    """A chunk that was read: its offset, the number of its first id in the list, its ids."""

    offset: int
    base: int
    clients: Sequence[str]

    @property
    def end(self) -> int:
        """The number of the id after its last."""
        return self.base + len(self.clients)

    def of(self, begin: int, end: int) -> Sequence[str]:
        """Its ids from number `begin` to before `end`."""
        return self.clients[max(0, begin - self.base) : max(0, end - self.base)]


class ListRun(JobBase):
    """One owned job whose clients are named by an audience."""

    def __init__(self, claim: Claim, tools: Tools, shared: Shared, *, wall_ms: int, now: float) -> None:
        """`wall_ms` and `now` are the same moment, by the two clocks."""
        super().__init__(claim, tools, shared, wall_ms=wall_ms, now=now)
        self._followed = Followed(self.job, self.record.product, self.record.started_ms)
        self._plan = from_cursor(next(iter(claim.record.rooms), None), self._followed)
        self._parts: deque[Part] = deque()
        self._reading: AsyncGenerator[Chunk] | None = None
        self._seen: dict[str, int] = {}
        self._kept_at = now
        size = len(claim.content.payload) + ENVELOPE
        self._most = max(1, min(MAX_BATCH, MAX_BATCH_BYTES // size))

    # --- what the job does in its own way -----------------------------------------------------------------------------

    def _begun(self, record: JobRecord) -> JobRecord:
        """With nothing: the list is looked for when it has its place."""
        return record

    def _idled(self) -> None:
        """What is under way is a tenth of a second's worth, and can't be called back."""

    def _moved(self) -> None:
        """The loop looks at the record each time."""

    async def _let_go(self) -> None:
        self._tools.receipts.leave(self._followed)
        await self._close()

    async def _last_counts(self) -> None:
        """Messages expire with their job: what has no receipt by then is not going to be delivered."""
        if self.record.state != JobState.CANCELLED:
            self._plan.expired += unsettled(self._plan, self._followed)

    def _cursors(self) -> tuple[RoomCursor, ...]:
        return (cursor(self._plan, self._followed),) if self._plan.found else ()

    def _sent(self) -> int:
        return self._plan.position

    # --- the loop -----------------------------------------------------------------------------------------------------

    async def _drive(self) -> None:
        if not await self._find():
            return
        self._followed.since_ms = self.record.started_ms
        self._tools.receipts.follow(self._followed)
        while not self._ended():
            self._woken.clear()
            now = time.monotonic()
            try:
                rest = await self._beat(now)
            except JournalDown as error:
                log.warning("list waits for Kafka", job=self.job, error=str(error)[:200])
                rest = RETRY
            except Gone as error:
                self._give_up(str(error))
                return
            self._look(now)
            self._judge(now)
            await self._rest(rest)

    async def _beat(self, now: float) -> float:
        """Produce what is due, and return the seconds until the next is. Raises JournalDown: the same is to come again."""
        plan = self._plan
        if self._canary is not None:
            plan.hold_at(self._canary.canary, passed=self._canary.passed)
        busy = self.moving() and (plan.left() > 0 or plan.taken > 0)
        self._pace.ask(self.job, self._asked(now) if busy else 0.0, now, weight=WEIGHTS[self._content.priority])
        if not busy:
            plan.idle()
            return TICK[1]
        if not plan.taken:  # else what was taken before is still to be produced
            share, available = self._pace.share(self.job), self._pace.available(self.job, now)
            self._pace.take(self.job, plan.due(share=share, available=available, most=self._most, now=now))
        if plan.taken:
            await self._produce(plan.taken)
        return max(0.0, now + BEAT - time.monotonic())

    async def _produce(self, count: int) -> None:
        clients = await self._next(count)
        await self._tools.journal.produce([Entry(names.MESSAGES, client, self._message(client)) for client in clients])
        self._plan.produced(count)
        while len(self._parts) > 1 and self._parts[0].end <= self._plan.position:
            self._parts.popleft()
        self._plan.begun_chunk(self._parts[0].offset, self._parts[0].base)
        persons.inc(count)
        self._changed = True

    def _message(self, client: str) -> PushMessage:
        content, now_ms = self._content, self._now_ms()
        ttl_s = _seconds(self.record.expires_ms - now_ms)
        fallback_ms = self.record.started_ms + 1000 * (content.fallback_after_s or 0)
        return PushMessage(
            id=self.job,
            product=self.record.product,
            client=client,
            realm=content.realm,
            payload=content.payload,
            priority=content.priority,
            ttl_s=ttl_s,
            content_type=content.content_type,
            properties=content.properties,
            fallback_after_s=min(ttl_s, _seconds(fallback_ms - now_ms)) if content.fallback_after_s else None,
        )

    def _look(self, now: float) -> None:
        """Have the counts changed, or is it time to keep how far they are counted?"""
        if self._followed.counts != self._seen or now - self._kept_at > KEEP:
            self._seen, self._kept_at = dict(self._followed.counts), now
            self._changed = True

    def _judge(self, now: float) -> None:
        """Has the canary something to say, is the list through?"""
        if self.record.state not in (JobState.RUNNING, JobState.COMPLETED):
            return
        plan = self._plan
        canary, walked = self._canary, plan.position >= plan.limit
        if canary is not None and self._followed.current and self._canary_halts(canary, self._counts(), walked=walked, now=now):
            return
        if self.record.state == JobState.RUNNING and plan.position >= plan.size:
            self._complete()

    def _counts(self) -> wire.Counts:
        """The counts as a canary compares them: what is dead was refused, too."""
        found = self._followed.counts
        return wire.Counts(
            sent=self._plan.position,
            acked=found.get(State.ACKED, 0),
            written=found.get(State.WRITTEN, 0),
            rejected=found.get(State.REJECTED, 0) + found.get(State.DEAD, 0),
        )

    # --- the list -----------------------------------------------------------------------------------------------------

    async def _find(self) -> bool:
        """Know where the list lies; False if the job ends before, or since it can't be used."""
        name = self._content.audience or ""
        while not self._plan.found and not self._ended():
            try:
                audience = await self._tools.audiences.find(self.record.product, name)
            except JournalDown as error:
                log.warning("list not found yet", job=self.job, audience=name, error=str(error)[:200])
                await self._rest(RETRY)
                continue
            reason = unusable(self._content, audience)
            if audience is None or reason:
                self._give_up(reason)
                return False
            self._plan.begin(audience.clients, audience.first)
            self._changed = True
        return self._plan.found

    def _give_up(self, reason: str) -> None:
        log.warning("broadcast cancelled", job=self.job, product=self.record.product, reason=reason)
        self._change(replace(self.record, state=JobState.CANCELLED, reason=reason), "cancel")

    async def _next(self, count: int) -> list[str]:
        """The next ids of the list, from its position on; raises JournalDown or Gone."""
        begin, end = self._plan.position, self._plan.position + count
        while not self._parts or self._parts[-1].end < end:
            self._parts.append(await self._next_part())
        return [client for part in self._parts for client in part.of(begin, end)]

    async def _next_part(self) -> Part:
        last = self._parts[-1] if self._parts else None
        if self._reading is None:
            offset = last.offset if last is not None else self._plan.offset
            self._reading = self._tools.audiences.read(self.record.product, self._content.audience or "", offset)
            if last is not None:
                await self._next_chunk(self._reading)  # it is here
        chunk = await self._next_chunk(self._reading)
        return Part(chunk.offset, last.end if last is not None else self._plan.base, chunk.record.clients)

    async def _next_chunk(self, reading: AsyncGenerator[Chunk]) -> Chunk:
        try:
            return await anext(reading)
        except StopAsyncIteration:
            raise Gone(f"audience {self._content.audience} is no longer in Kafka as it was: upload it again") from None
        except JournalDown:
            await self._close()
            raise

    async def _close(self) -> None:
        if self._reading is not None:
            reading, self._reading = self._reading, None
            await reading.aclose()

    # --- how it looks -------------------------------------------------------------------------------------------------

    def _figures(self, now: float) -> Figures:
        """`waiting`: in Kafka or pending, so without an end yet."""
        plan, counts = self._plan, self._followed.counts
        return Figures(
            totals={
                **funnel.numbers(wire.Counts(sent=plan.position, waiting=unsettled(plan, self._followed))),
                **counts,
                "expired": counts.get(State.EXPIRED, 0) + plan.expired,
            },
            targeted=plan.size,
            progress=plan.progress(),
            left=max(0, plan.size - plan.position),
        )


def _seconds(left_ms: int) -> int:
    """Whole seconds, rounded up, one at least."""
    return max(1, -(-left_ms // 1000))
