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
CLIENTS = ("a",)
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


@dataclass
class Client:
    """A client as it is."""

    number: int = 0
    there: bool = False
    swept: bool = False
    binds: set[str] = field(default_factory=set)


class Sessions(RuleBasedStateMachine):
    """Clients come, move, bind and go; rooms die and come back; records come late or twice; the consumer dies."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1_000_000
        self.log: list[Record] = []
        self.reader = Reader(self.log)
        self.clients = {name: Client() for name in CLIENTS}
        self.late: list[StatusEvent] = []
        self.died = False
        self.reachable: dict[tuple[str, str], list[tuple[int, bool]]] = {
            (name, product): [(0, False)] for name in CLIENTS for product in WINDOWS
        }
        self.moving: dict[tuple[str, str], int] = {}  # since when it has not been reachable only because it moved
        self.moves: set[tuple[str, str, int]] = set()

    def append(self, name: str, event: Status, number: int | None = None, **more: Any) -> StatusEvent:
        session = self.clients[name].number if number is None else number
        record = StatusEvent(
            realm="main", client=name, event=event, generation=1, session=session, room="r", epoch=1, at_ms=self.now, **more
        )
        self.put(record)
        return record

    def put(self, event: StatusEvent) -> None:
        self.log.append(Record(event, len(self.log), self.now))
        client = self.clients[event.client]
        for product in WINDOWS:
            times = self.reachable[event.client, product]
            now = client.there and not client.swept and product in client.binds
            if times[-1][1] != now:
                times.append((self.now, now))
            self._note_move(event, product)

    def _note_move(self, event: StatusEvent, product: str) -> None:
        """Absences in which nothing happened but that the client went to another room, and bound there."""
        where, times = (event.client, product), self.reachable[event.client, product]
        if event.event == Status.ONLINE and not event.again and times[-1] == (self.now, False) and times[-2][1]:
            self.moving[where] = self.now
        elif times[-1][1]:
            if where in self.moving:
                self.moves.add((*where, self.moving.pop(where)))
        elif event.session == self.clients[event.client].number:
            self.moving.pop(where, None)

    # --- clients -------------------------------------------------------------------------------------------------------

    @rule(name=st.sampled_from(CLIENTS))
    def connect(self, name: str) -> None:
        client = self.clients[name]
        if client.there and not client.swept:  # elsewhere: the old room tells of its end when it likes, or never
            self.late.append(
                StatusEvent(realm="main", client=name, event=Status.OFFLINE, generation=1, session=client.number, room="old",
                            epoch=1, at_ms=self.now)
            )  # fmt: skip
        self.clients[name] = Client(client.number + 1, there=True)
        self.late += [self.append(name, Status.ONLINE)]

    @rule(name=st.sampled_from(CLIENTS), product=st.sampled_from([*WINDOWS, "silent"]), user=st.sampled_from(["", "u"]))
    def bind(self, name: str, product: str, user: str) -> None:
        client = self.clients[name]
        if client.there and not client.swept:
            client.binds.add(product)
            self.late.append(self.append(name, Status.BIND, product=product, user=user or None))

    @rule(name=st.sampled_from(CLIENTS), product=st.sampled_from(list(WINDOWS)))
    def unbind(self, name: str, product: str) -> None:
        client = self.clients[name]
        if client.there and not client.swept and product in client.binds:
            client.binds.discard(product)
            self.append(name, Status.UNBIND, product=product)

    @rule(name=st.sampled_from(CLIENTS))
    def leave(self, name: str) -> None:
        client = self.clients[name]
        if client.there and not client.swept:
            client.there = False
            self.late.append(self.append(name, Status.OFFLINE, reason="gone"))  # its saver's answer was lost: once more

    @rule(name=st.sampled_from(CLIENTS))
    def room_is_thought_dead(self, name: str) -> None:
        client = self.clients[name]
        if client.there and not client.swept:
            client.swept = True
            self.append(name, Status.OFFLINE, reason="room lost")

    @rule(name=st.sampled_from(CLIENTS))
    def its_room_was_only_stopped(self, name: str) -> None:
        client = self.clients[name]
        if client.there and client.swept:
            client.swept = False
            self.append(name, Status.ONLINE, again=True)
            for product in sorted(client.binds):
                self.append(name, Status.BIND, product=product, again=True)

    @precondition(lambda self: self.late)
    @rule(data=st.data())
    def late_record(self, data: st.DataObject) -> None:
        event = self.late.pop(data.draw(st.integers(0, len(self.late) - 1)))
        client = self.clients[event.client]
        if client.there and client.number == event.session:
            return  # it would be no repeat: this session goes on
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

    @rule()
    def restart(self) -> None:
        self.reader.restart()

    @rule(most=st.integers(1, 20))
    def die_between_telling_and_remembering(self, most: int) -> None:
        self.reader.read(most, written=False)
        self.reader.restart()
        self.died = True

    # --- what must hold ------------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        self.reader.read(FAR)
        self.reader.wait(self.now + FAR)
        assert self.reader.presence.held == 0
        for (name, product), times in self.reachable.items():
            told = [c for c in self.reader.changes if c.key == f"main:{name}" and c.product == product and c.news in TURNS]
            once = list({(c.news, c.record.offset): c for c in told}.values())  # a repeat has the id of the first
            assert self.died or len(once) == len(told)
            assert [c.news for c in once] == [TURNS[place % 2] for place in range(len(once))]
            assert (bool(once) and once[-1].news == EventType.CLIENT_CONNECTED) == times[-1][1]
            moves = {start for who, what, start in self.moves if (who, what) == (name, product)}
            self.check_absences(once, times, WINDOWS[product], moves)

    def check_absences(self, told: list[Change], times: list[tuple[int, bool]], window: int, moves: set[int]) -> None:
        """None that is shorter than the window was told, and each that is longer than the time to come back and bind was."""
        gone = [c.record.at_ms for c in told if c.news == EventType.CLIENT_DISCONNECTED]
        unbound = {c.record.at_ms for c in told if c.reason == UNBOUND}
        assert all(there == bool(place % 2) for place, (_, there) in enumerate(times))
        absences = [(times[place][0], times[place + 1][0]) for place in range(2, len(times) - 1, 2)]
        for start, end in absences:
            among = [at for at in gone if start <= at < end and at not in unbound]
            if end - start < (max(window, REBIND_MS) if start in moves else window):
                assert not among, f"an absence of {end - start} ms was told"
            if end - start > window + REBIND_MS:
                assert [at for at in gone if start <= at <= end], f"an absence of {end - start} ms was not told"


TestSessions = Sessions.TestCase
TestSessions.settings = settings(max_examples=400, stateful_step_count=40, deadline=None, database=None)
