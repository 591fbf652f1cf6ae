"""Whatever becomes of sessions, a product is told by turns that a client is there and gone, no short absence, the truth last."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from infra.register.told import Told
from schemas.codes import EventType, Status
from schemas.records import StatusEvent
from workers.callbacks.presence import REBIND_MS, UNBOUND, Change, Presence, Record

WINDOWS = {"quick": 0, "slow": 5000}
PRODUCTS = [*WINDOWS, "silent"]
FAR = 10**9
TURNS = (EventType.CLIENT_CONNECTED, EventType.CLIENT_DISCONNECTED)


class Wants:
    """Two products, one with a window and one without."""

    def tracks(self, product: str) -> bool:
        return product in WINDOWS

    def window_ms(self, product: str) -> int:
        return WINDOWS[product]


@dataclass
class Reader:
    """The consumer of the partition: Kafka's log and what was told survive it."""

    log: list[Record]
    presence: Presence = field(default_factory=lambda: Presence(Wants()))
    next: int = 0
    committed: int = 0
    told: dict[str, dict[str, Told]] = field(default_factory=lambda: defaultdict(dict))
    changes: list[Change] = field(default_factory=list)

    def read(self, most: int, *, written: bool = True) -> None:
        """A batch; unless it is `written`, the process dies when it was sent."""
        batch = self.log[self.next : self.next + most]
        self.presence.begin({record.key: self.told[record.key] for record in batch})
        found = [change for record in batch for change in self.presence.take(record)]
        self.changes += found
        if written:
            self._write(found)
            self.next += len(batch)
            floor = self.presence.floor
            self.committed = self.next if floor is None else min(floor, self.next)

    def wait(self, now_ms: int) -> None:
        """All is read, and the clock goes on."""
        found = list(self.presence.pass_time(now_ms))
        self.changes += found
        self._write(found)

    def _write(self, found: list[Change]) -> None:
        for change in found:
            if change.told is not None:
                before = self.told[change.key].get(change.product)
                assert before is None or before.mark <= change.told.mark
                self.told[change.key][change.product] = change.told

    def restart(self) -> None:
        self.presence, self.next = Presence(Wants()), self.committed


class Sessions(RuleBasedStateMachine):
    """A client comes, moves, binds and goes; rooms die and come back; records come late or twice; the consumer dies."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1_000_000
        self.log: list[Record] = []
        self.reader = Reader(self.log)
        self.number = 0
        self.there = self.swept = self.died = False
        self.binds: set[str] = set()
        self.old_ends: list[StatusEvent] = []
        self.reachable = {product: [(0, False, -1)] for product in WINDOWS}  # since when, ms; is it; by the record at this offset
        self.moving: dict[str, int] = {}  # the absence, by its place, that is only because it moved
        self.moves: set[tuple[str, int]] = set()

    def event(self, kind: Status, **more: Any) -> StatusEvent:
        return StatusEvent(
            realm="main", client="c", event=kind, generation=1, session=self.number, room="r", epoch=1, at_ms=self.now, **more
        )

    def put(self, event: StatusEvent) -> None:
        self.log.append(Record(event, len(self.log), self.now))
        for product, times in self.reachable.items():
            now = self.lives() and product in self.binds
            changed = times[-1][1] != now
            if changed:
                times.append((self.now, now, len(self.log) - 1))
            self._note_move(event, product, gone=changed and not now)

    def _note_move(self, event: StatusEvent, product: str, *, gone: bool) -> None:
        """Absences in which nothing happened but that the client went to another room, and bound there. `gone`: by this event."""
        times = self.reachable[product]
        if event.event == Status.ONLINE and not event.again and gone:
            self.moving[product] = len(times) - 1
        elif times[-1][1]:
            if product in self.moving:
                self.moves.add((product, self.moving.pop(product)))
        elif event.session == self.number:
            self.moving.pop(product, None)

    # --- the client ----------------------------------------------------------------------------------------------------

    def lives(self) -> bool:
        return self.there and not self.swept

    @rule(products=st.sets(st.sampled_from(PRODUCTS)), user=st.sampled_from(["", "u"]), between=st.booleans())
    def come(self, products: set[str], user: str, between: bool) -> None:
        if self.lives():  # elsewhere: the old room tells of its end when it likes, or never
            self.old_ends.append(self.event(Status.OFFLINE))
        self.number += 1
        self.there, self.swept, self.binds = True, False, set()
        self.put(self.event(Status.ONLINE))
        if between and self.old_ends:
            self.an_old_room_tells()
        for product in sorted(products):
            self.bind(product, user)

    @precondition(lives)
    @rule(product=st.sampled_from(PRODUCTS), user=st.sampled_from(["", "u"]))
    def bind(self, product: str, user: str) -> None:
        self.binds.add(product)
        self.put(self.event(Status.BIND, product=product, user=user or None))

    @precondition(lambda self: self.lives() and self.binds)
    @rule(data=st.data())
    def unbind(self, data: st.DataObject) -> None:
        product = data.draw(st.sampled_from(sorted(self.binds)))
        self.binds.discard(product)
        self.put(self.event(Status.UNBIND, product=product))

    @precondition(lives)
    @rule()
    def leave(self) -> None:
        self.there = False
        self.put(self.event(Status.OFFLINE, reason="gone"))

    @precondition(lives)
    @rule()
    def its_room_is_thought_dead(self) -> None:
        self.swept = True
        self.put(self.event(Status.OFFLINE, reason="room lost"))

    @precondition(lambda self: self.there and self.swept)
    @rule()
    def its_room_was_only_stopped(self) -> None:
        self.swept = False
        self.put(self.event(Status.ONLINE, again=True))
        for product in sorted(self.binds):
            self.put(self.event(Status.BIND, product=product, again=True))

    @precondition(lambda self: self.old_ends)
    @rule()
    def an_old_room_tells(self) -> None:
        self.put(self.old_ends.pop(0))

    @precondition(lambda self: self.log)
    @rule(back=st.integers(1, 4))
    def a_saver_that_tried_twice(self, back: int) -> None:
        """A copy of what was told; of a bind that was not taken back since, as far as its session goes on."""
        event = self.log[-min(back, len(self.log))].event
        goes_on = self.there and event.session == self.number
        if not event.again and event.event in (Status.OFFLINE, Status.ONLINE, Status.BIND) and not goes_on:
            self.put(event)

    # --- time, and the reader ------------------------------------------------------------------------------------------

    @rule(ms=st.sampled_from([1, 100, 2000, 4999, 5000, 5001, 9000, 60_000]))
    def pass_time(self, ms: int) -> None:
        self.now += ms

    @rule(most=st.integers(1, 20))
    def read(self, most: int) -> None:
        self.reader.read(most)

    @rule()
    def catch_up(self) -> None:
        self.reader.read(FAR)
        self.reader.wait(self.now - 1)

    @rule(most=st.integers(0, 20), remembered=st.booleans())
    def die(self, most: int, remembered: bool) -> None:
        """After, or between telling and remembering."""
        self.reader.read(most, written=remembered)
        self.reader.restart()
        self.died |= not remembered

    # --- what must hold ------------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        self.reader.read(FAR)
        self.reader.wait(self.now + FAR)
        assert self.reader.presence.held == 0
        for product, times in self.reachable.items():
            told = [each for each in self.reader.changes if each.product == product and each.news in TURNS]
            once = list({(each.news, each.record.offset): each for each in told}.values())  # a repeat has the id of the first
            assert self.died or len(once) == len(told)
            assert [each.news for each in once] == [TURNS[place % 2] for place in range(len(once))]
            assert (bool(once) and once[-1].news == EventType.CLIENT_CONNECTED) == times[-1][1]
            self.check_absences(product, once, times)

    def check_absences(self, product: str, told: list[Change], times: list[tuple[int, bool, int]]) -> None:
        """None that is shorter than the window was told, and each that is longer than the time to come back and bind was."""
        gone = [each.record.offset for each in told if each.news == EventType.CLIENT_DISCONNECTED]
        unbound = {each.record.offset for each in told if each.reason == UNBOUND}
        for place in range(2, len(times) - 1, 2):
            (start, _, first), (end, _, last) = times[place : place + 2]
            short = max(WINDOWS[product], REBIND_MS) if (product, place) in self.moves else WINDOWS[product]
            if end - start < short:
                assert not [at for at in gone if first <= at < last and at not in unbound], f"{end - start} ms were told"
            if end - start > WINDOWS[product] + REBIND_MS:
                assert [at for at in gone if first <= at <= last], f"{end - start} ms were not told"


TestSessions = Sessions.TestCase
TestSessions.settings = settings(max_examples=300, stateful_step_count=30, deadline=None, database=None)
