"""The consumer of `push.status`: what products are told of clients and users.

A batch: what was told of its clients is read (infra.register.told), `presence` decides, users are asked, the outbox has the
events, and then what was told is remembered. Until the outbox has them nothing is remembered or committed, and what was decided
is not decided again: it is tried until it succeeds, or the partition is another's. An end that is held back keeps its record's
offset from being committed; `Patience` lets go of it when its time has come and no record does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import structlog
from prometheus_client import Counter, Gauge

from infra.lifecycle import Awake, Loops
from infra.register.told import Told, ToldIndex, ToldView
from schemas import names
from schemas.codec import Undecodable, decode_as
from schemas.codes import EventType, Status
from schemas.records import StatusEvent
from workers.callbacks import users
from workers.callbacks.asked import Asked, Kept, Sender
from workers.callbacks.presence import Change, Presence, Record
from workers.callbacks.telling import Abandoned, event_id, persist, tell
from workers.runner import Dead, Incoming
from workers.webhooks import Event

LOOK_EVERY: Final = 0.25
SKEW_MS: Final = 1000
"""How much later than by our own clock something is due where no record says so: the broker's may be behind."""
STOPPED: Final = 2.5
"""Seconds after which a process that was stopped does not know what came meanwhile."""

log = structlog.get_logger("callbacks")
untold = Counter("longwire_callbacks_untold_total", "Status records, or ends held back, that were no news", ["reason"])
held = Gauge("longwire_callbacks_held", "Ends of clients that are held back")


class Reader(Protocol):
    """How far a partition was read (workers.runner.Runner)."""

    def read_until(self, partition: int) -> int | None:
        """Up to which time everything in it was handled, ms; None while there is more."""


@dataclass(slots=True)
class _Partition:
    """One assignment. `telling`: the first offset that was held back and is being told; `gone`: the partition is another's, and
    nothing more of it is told from here."""

    presence: Presence
    busy: asyncio.Lock = field(default_factory=asyncio.Lock)
    telling: int | None = None
    gone: bool = False


class StatusCallbacks:
    """The runner's handler for `push.status`."""

    def __init__(self, told: ToldIndex, outbox: Sender, kept: Kept, asked: Asked) -> None:
        self._told = told
        self._outbox = outbox
        self._kept = kept
        self._asked = asked
        self._partitions: dict[int, _Partition] = {}

    async def assigned(self, partitions: frozenset[int]) -> None:
        """What was held back before is read again; raises JournalDown or RegisterDown."""
        await self._told.ready()
        await self._kept.caught_up()
        self._partitions |= {number: _Partition(Presence(self._asked)) for number in partitions}

    async def revoked(self, partitions: frozenset[int]) -> None:
        """Forget what is held back: another reads it again."""
        for number in partitions:
            if (found := self._partitions.pop(number, None)) is not None:
                found.gone = True

    async def handle(self, partition: int, records: Sequence[Incoming]) -> list[Dead]:
        """Tell what is news. Raises Retryable or RegisterDown before anything was decided."""
        self._asked.check()
        if not self._asked.tracked:
            return []
        mine = self._partitions[partition]
        found, letters = self._decoded(records)
        async with mine.busy:
            mine.presence.begin(await self._known(found))
            await self._tell(mine, (change for record in found for change in mine.presence.take(record)))
        return letters

    def floor(self, partition: int) -> int | None:
        """The first offset that is held back, or not told yet (workers.runner.Holds)."""
        found = self._partitions.get(partition)
        if found is None:
            return None
        return min((each for each in (found.telling, found.presence.floor) if each is not None), default=None)

    @property
    def waiting(self) -> list[int]:
        """Partitions in which something is held back."""
        return [number for number, each in self._partitions.items() if each.presence.held]

    async def release(self, partition: int, now_ms: int) -> None:
        """Tell what is due: everything that was appended before `now_ms` has been handled."""
        mine = self._partitions.get(partition)
        if mine is None or not self._asked.current:
            return
        async with mine.busy:
            mine.presence.begin({})
            await self._tell(mine, mine.presence.pass_time(now_ms))

    # --- in --------------------------------------------------------------------------------------------------------------

    def _decoded(self, records: Iterable[Incoming]) -> tuple[list[Record], list[Dead]]:
        """Those that may be news, and what is none of ours."""
        found, letters = [], []
        for each in records:
            try:
                event = decode_as(StatusEvent, each.value or b"")
            except Undecodable as error:
                letters.append(Dead(each, str(error)))
                continue
            if event.product is None or self._asked.tracks(event.product):
                found.append(Record(event, each.offset, each.timestamp_ms))
        return found, letters

    async def _known(self, records: Sequence[Record]) -> dict[str, dict[str, Told]]:
        keys = list(dict.fromkeys(record.key for record in records))
        views = dict(zip(keys, await self._told.read(keys), strict=True))
        known = {key: dict(view.products) for key, view in views.items()}
        await self._forget(known)
        await self._add_lost(records, views, known)
        return known

    async def _forget(self, known: dict[str, dict[str, Told]]) -> None:
        """What was told to products that do not ask any more."""
        over = {key: [each for each in products if not self._asked.tracks(each)] for key, products in known.items()}
        over = {key: products for key, products in over.items() if products}
        for key, products in over.items():
            for product in products:
                del known[key][product]
        await self._told.forget(over)

    async def _add_lost(self, records: Sequence[Record], views: dict[str, ToldView], known: dict[str, dict[str, Told]]) -> None:
        """A session that began before Redis lost something ends: whoever it is bound to, by the registry, may have been told."""
        pairs = [
            (record.key, product)
            for record in records
            if record.event.event == Status.OFFLINE and record.event.generation < views[record.key].generation
            for product in sorted(self._asked.tracked - known[record.key].keys())
        ]
        pairs = list(dict.fromkeys(pairs))
        for (key, product), user in zip(pairs, await self._told.members(pairs), strict=True):
            if user is not None:
                known[key][product] = Told(-1, -1, -1, True, user, False)

    # --- out -------------------------------------------------------------------------------------------------------------

    async def _tell(self, mine: _Partition, decided: Iterable[Change]) -> None:
        """Decide, and tell: what was held back so far is not committed before that."""
        mine.telling = mine.presence.floor
        changes = list(decided)
        self._count(mine)
        try:
            await self._told_and_remembered(changes, lambda: mine.gone)
        except Abandoned:
            log.info("callbacks abandoned, the partition is another's", changes=len(changes))
        else:
            mine.telling = None

    async def _told_and_remembered(self, changes: Sequence[Change], gone: Callable[[], bool]) -> None:
        if not changes:
            return
        of_users = [change for change in changes if self._asked.tracks_users(change.product)]
        news = await persist(lambda: users.news_of(self._told, of_users), gone)
        events = [_event(change) for change in changes if change.news is not None]
        await tell(self._outbox, self._asked, [*events, *news.events], gone)
        await persist(lambda: users.remember(self._told, news), gone)
        latest: dict[str, dict[str, Told]] = {}
        for change in changes:
            if change.told is not None:
                latest.setdefault(change.key, {})[change.product] = change.told
        await persist(lambda: self._told.write(latest), gone)

    def _count(self, mine: _Partition) -> None:
        for reason, count in mine.presence.counts.take():
            untold.labels(reason).inc(count)
        held.set(sum(each.presence.held for each in self._partitions.values()))


class Patience:
    """Lets go of what is held back, where partitions have been read to their ends."""

    def __init__(self, callbacks: StatusCallbacks, reader: Reader, *, fail: Callable[[str], None]) -> None:
        self._callbacks = callbacks
        self._reader = reader
        self._awake = Awake(within=STOPPED)
        self._loops = Loops(fail)

    async def start(self) -> None:
        """Begin."""
        self._loops.start("callbacks", self._run())

    async def stop(self) -> None:
        """End; what is held back is read again by whoever has the partition next."""
        await self._loops.stop()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY)
            if self._awake.tick():
                await asyncio.gather(*(self._look(partition) for partition in self._callbacks.waiting))

    async def _look(self, partition: int) -> None:
        until = self._reader.read_until(partition)
        if until is not None:
            await self._callbacks.release(partition, until - SKEW_MS)


def _event(change: Change) -> Event:
    assert change.news is not None
    event, (generation, number) = change.record.event, change.session
    data = {
        "realm": event.realm,
        "client": event.client,
        "user": change.user or None,
        "generation": generation,
        "session": number,
        "room": event.room,
    }
    if change.news == EventType.CLIENT_DISCONNECTED:
        data["reason"] = change.reason
    record = (names.STATUS, change.record.offset, event.at_ms, event.realm, event.client)
    return Event(event_id(change.news, change.product, *record), change.news, change.product, change.key, event.at_ms, data)
