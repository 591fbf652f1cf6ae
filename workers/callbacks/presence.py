"""What of a partition of `push.status` is news for products: pure, without a clock and without Redis.

A client is *connected* for a product while its session is bound to it. Sessions (generation, number) decide, not the order of
records: what is of an older session than one that was seen, or told, is late and says nothing. An end is held back for the
product's window, and a session that comes meanwhile makes it nothing; a session that takes over from another has `REBIND_MS` to
bind what that one had. Time is that of the records (the broker's append time), so one log has one outcome; only where it has
been read to its end the clock goes on (`pass_time`).

A hold is not stored: the offset of the first one must not be committed, and is read again after a restart.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Final, Protocol

from infra.register.told import Told
from schemas import names
from schemas.codes import EventType, Status
from schemas.records import StatusEvent

REBIND_MS: Final = 10_000
"""How long a client that has a new session may take to bind, ms."""
MAX_HELD: Final = 20_000
"""Ends held back in a partition, at most: beyond it the next one due is told early."""
MAX_SEEN: Final = 20_000
"""Clients of a partition whose last session is remembered: records of one client come out of order within seconds."""

UNBOUND: Final = "unbound"
NOT_BOUND_AGAIN: Final = "not bound again"

Session = tuple[int, int]


class Wants(Protocol):
    """What products ask for (workers.callbacks.asked)."""

    def tracks(self, product: str) -> bool:
        """Is it told anything of its clients?"""

    def window_ms(self, product: str) -> int:
        """How long an end is held back, ms; 0: not at all."""


@dataclass(frozen=True, slots=True)
class Record:
    """A status event where it lies; `at_ms`: the broker's append time."""

    event: StatusEvent
    offset: int
    at_ms: int

    @property
    def key(self) -> str:
        """The client's key."""
        return names.client_key(self.event.realm, self.event.client)

    @property
    def session(self) -> Session:
        """Whose it is."""
        return self.event.generation, self.event.session


@dataclass(frozen=True, slots=True)
class Change:
    """What follows from a record, for a client in a product, in this order: `news` is told, the user `left` has this client no
    more and the user `arrived` has it, and `told` is remembered. `record` names it; `session` is the one that it is about."""

    key: str
    product: str
    record: Record
    session: Session
    news: EventType | None = None
    user: str = ""
    reason: str = ""
    left: str | None = None
    arrived: str | None = None
    told: Told | None = None


@dataclass(frozen=True, slots=True)
class _Hold:
    """An end that is not told yet. `until`: which session's; it is over when `due_ms` has passed."""

    record: Record
    session: Session
    user: str
    reason: str
    due_ms: int


@dataclass(slots=True)
class Counts:
    """What was not told, since it was asked last."""

    flash: int = 0
    late: int = 0
    early: int = 0

    def take(self) -> Iterator[tuple[str, int]]:
        """(outcome, how many); they begin again."""
        yield from (("flash", self.flash), ("late", self.late), ("early", self.early))
        self.flash = self.late = self.early = 0


@dataclass(slots=True)
class _Seen:
    """The latest session of a client by the records, and whether its end was among them."""

    session: Session
    ended: bool


@dataclass(slots=True)
class Presence:
    """One partition under one assignment. `begin` with what is known of a batch's clients, `take` its records, in order."""

    wants: Wants
    max_held: int = MAX_HELD
    counts: Counts = field(default_factory=Counts)
    _told: dict[str, dict[str, Told]] = field(default_factory=dict)
    _held: dict[tuple[str, str], _Hold] = field(default_factory=dict)
    _due: list[tuple[int, int, tuple[str, str]]] = field(default_factory=list)
    _seen: OrderedDict[str, _Seen] = field(default_factory=OrderedDict)

    @property
    def held(self) -> int:
        """Ends that are held back."""
        return len(self._held)

    @property
    def floor(self) -> int | None:
        """The offset from which a restart has to read, if anything is held back: holds begin in the order of records."""
        return next(iter(self._held.values())).record.offset if self._held else None

    def begin(self, told: Mapping[str, Mapping[str, Told]]) -> None:
        """What is known of the clients of the next records."""
        self._told = {key: dict(products) for key, products in told.items()}

    def take(self, record: Record) -> Iterator[Change]:
        """What follows from one more record, with what has become due before it."""
        yield from self.pass_time(record.at_ms)
        if self._is_late(record):
            self.counts.late += 1
            return
        yield from self._KINDS[record.event.event](self, record)
        while len(self._held) > self.max_held:
            self.counts.early += 1
            yield from self._next_due()

    def pass_time(self, now_ms: int) -> Iterator[Change]:
        """What is due: everything that was appended before `now_ms` has been taken."""
        while self._due and self._due[0][0] <= now_ms:
            yield from self._next_due()

    # --- records ---------------------------------------------------------------------------------------------------------

    def _is_late(self, record: Record) -> bool:
        """Of a session that had a successor, or an end, unless its room has registered it again since."""
        event, seen = record.event, self._seen.get(record.key)
        ended = False
        if seen is not None and record.session <= seen.session:
            ended = seen.ended and not event.again
            if record.session < seen.session or (ended and event.event != Status.UNBIND):
                return True
        self._seen[record.key] = _Seen(record.session, ended or event.event == Status.OFFLINE)
        self._seen.move_to_end(record.key)
        if len(self._seen) > MAX_SEEN:
            self._seen.popitem(last=False)
        return False

    def _known(self, record: Record) -> dict[str, Told]:
        return self._told.setdefault(record.key, {})

    def _news(self, record: Record, product: str) -> Told | None:
        """What is known of the product, None where the record says nothing beyond it."""
        told = self._known(record).get(product, _NOTHING)
        return told if told.mark < (*record.session, record.offset) else None

    def _online(self, record: Record) -> Iterator[Change]:
        """A new session: it has a while to bind what the one before had, which was held back or has not ended."""
        for product, told in list(self._known(record).items()):
            before = self._held.get((record.key, product))
            if not told.online:
                begins = record.event.again if told.session == record.session else not told.over
                if begins and told.mark < (*record.session, record.offset):
                    yield self._still_gone(record, product, told, over=False)
            elif told.session < record.session and (before is None or before.reason != NOT_BOUND_AGAIN):
                due = max(record.at_ms + REBIND_MS, before.due_ms if before else 0)
                first = before.record if before else record
                self._hold(record.key, product, _Hold(first, told.session, told.user, NOT_BOUND_AGAIN, due))

    def _bind(self, record: Record) -> Iterator[Change]:
        event = record.event
        product, user = event.product or "", event.user or ""
        if not self.wants.tracks(product) or (told := self._news(record, product)) is None:
            return
        if told.over and told.session == record.session and not event.again:
            self.counts.late += 1
            return
        if self._held.pop((record.key, product), None) is not None:
            self.counts.flash += 1
        if event.changed:
            yield Change(record.key, product, record, record.session, EventType.CLIENT_BOUND, user)
        new = Told(*record.session, record.offset, True, user)
        self._known(record)[product] = new
        news = None if told.online and told.known else EventType.CLIENT_CONNECTED
        left = told.user if told.online and told.user != user else None
        arrived = user if news or left is not None else None
        yield Change(record.key, product, record, record.session, news, user, left=left, arrived=arrived, told=new)

    def _unbind(self, record: Record) -> Iterator[Change]:
        product = record.event.product or ""
        if not self.wants.tracks(product) or (told := self._news(record, product)) is None:
            return
        self._held.pop((record.key, product), None)
        if told.online:
            yield self._ended(product, _Hold(record, record.session, told.user, UNBOUND, 0))
        yield Change(record.key, product, record, record.session, EventType.CLIENT_UNBOUND, record.event.user or told.user)

    def _offline(self, record: Record) -> Iterator[Change]:
        for product, told in list(self._known(record).items()):
            if told.mark >= (*record.session, record.offset):
                continue
            if told.known and not told.online:
                if not told.over:
                    yield self._still_gone(record, product, told, over=True)
                continue
            window = self.wants.window_ms(product)
            hold = _Hold(record, record.session, told.user, record.event.reason or "", record.at_ms + window)
            if not window:
                self._held.pop((record.key, product), None)
                yield self._ended(product, hold)
            elif (record.key, product) not in self._held:  # else it has been gone since then
                self._hold(record.key, product, hold)

    _KINDS: ClassVar[dict[str, Callable[[Presence, Record], Iterable[Change]]]] = {
        Status.ONLINE: _online,
        Status.BIND: _bind,
        Status.UNBIND: _unbind,
        Status.OFFLINE: _offline,
    }

    def _still_gone(self, record: Record, product: str, told: Told, *, over: bool) -> Change:
        """No news, but of which session's binds there may be some yet is remembered: copies of older ones say nothing."""
        new = Told(*record.session, record.offset, False, told.user, told.known, over)
        self._known(record)[product] = new
        return Change(record.key, product, record, record.session, told=new)

    # --- holds -----------------------------------------------------------------------------------------------------------

    def _hold(self, key: str, product: str, hold: _Hold) -> None:
        """Instead of one before, if there is one: with the same record, so in its place."""
        self._held[key, product] = hold
        heapq.heappush(self._due, (hold.due_ms, hold.record.offset, (key, product)))

    def _next_due(self) -> Iterator[Change]:
        """The end that is due next, unless it has become nothing, or another, meanwhile."""
        due_ms, _, (key, product) = heapq.heappop(self._due)
        hold = self._held.get((key, product))
        if hold is not None and hold.due_ms == due_ms:
            del self._held[key, product]
            yield self._ended(product, hold)

    def _ended(self, product: str, hold: _Hold) -> Change:
        record = hold.record
        told = Told(*hold.session, record.offset, False, hold.user, over=record.event.event != Status.UNBIND)
        if record.key in self._told:
            self._told[record.key][product] = told
        return Change(
            record.key,
            product,
            record,
            hold.session,
            EventType.CLIENT_DISCONNECTED,
            hold.user,
            hold.reason,
            left=hold.user,
            told=told,
        )


_NOTHING: Final = Told(-1, -1, -1, False)
