"""The register against a model, on a real server: any order of connects, binds, stores, acks, ends, sweeps and losses of Redis.

The ids in brackets are those of docs/guarantees.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import Any, ClassVar, TypeVar

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test
from msgspec.structs import replace
from register_world import (
    CAP,
    FUTURE,
    LIMIT,
    LONG,
    LONG_AGO,
    PARK_AFTER,
    PRODUCT,
    REALMS,
    Connection,
    Kept,
    Message,
    Snapshot,
    a_message,
    begin_fold,
    counter_of,
    due_of,
    dumped,
    last,
    made_due,
    only_shard,
    opened,
    rolled_back,
    wiped,
)

from infra.local.brokers import LocalBrokers
from infra.register import LastSession, Owed, Parking, Register, Settlement, Stored, StoreItem, StoreMessage
from infra.register.due import corrected, members_due, remind, slots_due
from infra.register.slots import due_key, slot_of_client
from infra.settings import RedisSettings
from infra.wire import NOTICED, Ack, Bind, BindItem, ConnectItem, DisconnectItem, ProductWindow, PullItem, SyncItem
from schemas import names
from schemas.codes import State

T = TypeVar("T")


class Machine(RuleBasedStateMachine):
    """One client and one product. `log`, `receipts` and `events` are Kafka: what was accepted, in order, and its ends."""

    register: ClassVar[Register]
    loop: ClassVar[asyncio.AbstractEventLoop]
    runs: ClassVar[Iterator[int]]

    def __init__(self) -> None:
        super().__init__()
        self.run_number = next(self.runs)
        self.key = ""
        self.log: list[Message] = []
        self.receipts: list[tuple[str, str]] = []
        self.events: list[LastSession] = []  # online or not, as `push.status` tells it
        self.connections: list[Connection] = []
        self.serial = 0
        self.n = 0
        self.newest: tuple[int, int] = (0, 0)
        self.session: Connection | None = None  # what the register has
        self.claimed = True  # False: it was folded, and its room has not asked since
        self.snapshot: Snapshot | None = None
        self.counter = 0
        self.asked: list[ConnectItem] = []  # connects that took a session from another room
        self.guard: dict[str, int] = {}  # message → connections in a row that acknowledged nothing
        self.owing: list[tuple[str, str, str]] = []

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    # --- what the model knows ------------------------------------------------------------------------------------------

    @property
    def pending(self) -> list[Message]:
        """In the order in which pages bring it [U2]."""
        return sorted((m for m in self.log if not m.state), key=lambda m: (m.priority, m.n))

    def where(self, c: Connection) -> tuple[Any, ...]:
        return (self.key, c.room, 1, c.serial, c.generation, c.number)

    def claims(self, c: Connection) -> bool:
        """[S3] The latest session wins; a missing one is registered again, unless the counter has passed it."""
        held = self.session
        if held is None and self.counter > c.number:
            return False
        if held is not None and held is not c and held.order >= c.order:
            return False
        self.session, self.counter, self.claimed = c, max(self.counter, c.number), True
        return True

    def told(self, c: Connection, *, online: bool) -> None:
        """The saver tells `push.status`."""
        self.events.append(LastSession(self.key, online, c.generation, c.number, c.room, 1))

    def owes(self, owed: list[Owed]) -> None:
        """[U7] What a script ended is owed exactly once until it is paid; [F3] so is the word that it had been handed over."""
        assert sorted((due.id, due.state, due.detail) for due in owed) == sorted(self.owing)
        for due in owed:
            self.receipts.append((due.id, due.state))
        self.run(self.register.paid(owed))
        self.owing = []

    def end(self, message: Message, state: str) -> None:
        """A script ends a message."""
        message.state, message.waits = state, False
        self.owing.append((message.id, state, "handed over" if message.marked else ""))

    # --- rules ---------------------------------------------------------------------------------------------------------

    @initialize(realm=st.sampled_from(REALMS))
    def begin(self, realm: str) -> None:
        """One connection has some messages from the start: rules on empty windows prove little."""
        self.key = f"{realm}:machine-{self.run_number}"
        self.run(opened(self.register))
        self.store(ids=[0, 1, 2], priority=1, collapse="", pull=False, fallback=True)
        self.connect(room="r1")
        self._bind(self.connections[0])

    @rule(room=st.sampled_from(["r1", "r2", "r3"]))
    def connect(self, room: str) -> None:
        """[S1] Every session is newer than all before it, whatever Redis lost."""
        self.serial += 1
        item = ConnectItem(self.key, room, 1, self.serial)
        [found] = self.run(self.register.connect([item]))
        if self.session is not None and self.session.room != room:  # [S10] nothing is taken from another room unseen
            assert (found.status, found.generation, found.number) == ("elsewhere", *self.session.order)
            item = replace(item, seen=(found.generation, found.number), until_ms=found.now_ms + LONG)
            self.asked.append(item)
            [found] = self.run(self.register.connect([item]))
        assert (found.generation, found.number) > self.newest
        self.newest = (found.generation, found.number)
        [again] = self.run(self.register.connect([item]))
        assert (again.generation, again.number) == self.newest  # [S2] a repeat gets the same number
        self.session, self.claimed = Connection(room, found.number, found.generation, self.serial), True
        self.counter = found.number
        self.told(self.session, online=True)
        self.connections.append(self.session)

    @precondition(lambda self: self.asked)
    @rule(data=st.data(), late=st.booleans())
    def connect_late(self, data: st.DataObject, late: bool) -> None:
        """[S10] A connect that comes once more, after another or after its time, takes nothing from another room."""
        item = data.draw(st.sampled_from(self.asked))
        held = self.session
        if held is None or held.room == item.room or item.seen == held.order:
            return
        if late:  # though it is still what was seen
            item = replace(item, seen=held.order, until_ms=1)
        [found] = self.run(self.register.connect([item]))
        assert (found.status, found.generation, found.number) == ("elsewhere", *held.order)

    @rule(
        ids=st.lists(st.integers(0, 12), min_size=1, max_size=4),
        priority=st.integers(0, 2),
        collapse=st.sampled_from(["", "", "k"]),
        pull=st.booleans(),
        fallback=st.booleans(),
    )
    def store(self, ids: list[int], priority: int, collapse: str, pull: bool, fallback: bool) -> None:
        """[U1] an id that is pending or settled is not stored again; [U5] collapse; [U6] caps evict the lowest class, oldest."""
        messages = [a_message(f"m{n}", priority, collapse, pull, FUTURE if fallback else None) for n in ids]
        [found] = self.run(self.register.store([StoreItem(self.key, PRODUCT, CAP, messages)]))
        for message in messages:
            self._stored(message)
        self.owes(found.owed)
        for message, number in zip(messages, found.numbers, strict=True):
            known = next(m for m in self.log if m.id == message.id)
            assert number == (0 if known.state else known.n), message

    def _stored(self, message: StoreMessage) -> None:
        """What storing it does in the model."""
        if any(m.id == message.id for m in self.log):
            return
        if message.collapse_key:
            for before in [m for m in self.pending if m.collapse == message.collapse_key]:
                self.end(before, "replaced")
        self.n += 1
        pull, waits = message.body.mode == "pull", message.due_ms is not None
        self.log.append(Message(message.id, message.priority, message.collapse_key, pull, waits, self.n, waits=waits))
        while len(self.pending) > CAP:
            lowest = max(m.priority for m in self.pending)
            self.end(min((m for m in self.pending if m.priority == lowest), key=lambda m: m.n), "evicted")

    @precondition(lambda self: self.connections)
    @rule(data=st.data())
    def bind(self, data: st.DataObject) -> None:
        """[U3] bind and page are one step: everything pending that is not in the window, as far as the limit goes."""
        self._bind(data.draw(st.sampled_from(self.connections)))

    def _bind(self, c: Connection) -> None:
        [found] = self.run(self.register.bind([BindItem(*self.where(c), Bind(PRODUCT, 1, []), sorted(c.window), LIMIT)]))
        if self._loses(c, found.status):
            return
        self.owes(found.owed)
        assert found.page is not None
        c.bound = True
        self._page(c, found.page)

    @precondition(lambda self: any(c.bound for c in self.connections))
    @rule(data=st.data())
    def sync(self, data: st.DataObject) -> None:
        """[U4] acks settle; [S3] a session that is missing is registered again, an older one is told that it lost."""
        c = data.draw(st.sampled_from([c for c in self.connections if c.bound]))
        acks = data.draw(st.lists(st.sampled_from(sorted(c.window)), unique=True)) if c.window else []
        for each in acks:  # the receipt is in Kafka first
            self.receipts.append((each, "acked"))
        notices = sorted({m.id for m in self.log if m.pull} & c.window - set(acks))
        noticed = data.draw(st.lists(st.sampled_from(notices), unique=True)) if notices else []
        item = SyncItem(
            *self.where(c),
            [ProductWindow(Bind(PRODUCT, 1, []), sorted(c.window - {*acks, *noticed}), LIMIT)],
            [*(Ack(PRODUCT, each, "acked") for each in acks), *(Ack(PRODUCT, each, NOTICED) for each in noticed)],
            [],
        )
        [found] = self.run(self.register.sync([item]))
        self._settle(acks)  # whoever has the session
        c.window -= {*acks, *noticed}
        if self._loses(c, found.status):
            return
        self.owes(found.owed)
        if found.registered:
            self.told(c, online=True)
        for message in self.pending:
            if message.id in noticed:  # [U13] it stays pending, and this session has its notice
                message.noticed = c.order
        self._page(c, found.pages[0])

    @precondition(lambda self: any(c.bound for c in self.connections))
    @rule(data=st.data())
    def acks_only(self, data: st.DataObject) -> None:
        """[U4] The same for acks alone: the session is left as it is, and it is told where it is not this one."""
        c = data.draw(st.sampled_from([c for c in self.connections if c.bound]))
        acks = data.draw(st.lists(st.sampled_from(sorted(c.window)), unique=True)) if c.window else []
        for each in acks:
            self.receipts.append((each, "acked"))
        item = SyncItem(*self.where(c), [], [Ack(PRODUCT, each, "acked") for each in acks], [], only_acks=True)
        [found] = self.run(self.register.sync([item]))
        self._settle(acks)
        c.window -= set(acks)
        held = self.session
        newer = held is not None and held.order > c.order
        assert (found.status, found.pages) == ("superseded" if newer else "ok", [])
        assert found.missing == (not newer and (held is not c or not self.claimed))
        if not newer:
            self.owes(found.owed)

    def _loses(self, c: Connection, status: str) -> bool:
        """Exactly the session that the register has, or may have, goes on."""
        assert status == ("ok" if self.claims(c) else "superseded"), (c, self.session)
        return status != "ok"

    def _settle(self, ids: list[str]) -> None:
        for message in self.log:
            if message.id in ids and not message.state:
                message.state, message.waits = "acked", False
                if message.marked:
                    self.owing.append((message.id, "acked", "handed over"))
            elif message.id in ids and message.marked:  # a repeat, or it was ended before: the last word counts
                self.owing = [(each, "acked" if each == message.id else state, detail) for each, state, detail in self.owing]

    def _page(self, c: Connection, page: Any) -> None:
        assert isinstance(page.items, list)
        free = [m for m in self.pending if m.id not in c.window and m.noticed != c.order]
        assert [item.id for item in page.items] == [m.id for m in free[:LIMIT]]
        assert page.more == (len(free) > LIMIT)
        assert page.n == self.n
        c.window |= {item.id for item in page.items}

    @precondition(lambda self: self.connections)
    @rule(data=st.data(), fruitless=st.integers(0, 3), acked=st.sampled_from([False, False, True]), repeated=st.booleans())
    def disconnect(self, data: st.DataObject, fruitless: int, acked: bool, repeated: bool) -> None:
        """[S4] An end counts its acks whoever has the session, and removes it only if it is still this one."""
        c = data.draw(st.sampled_from([c for c in self.connections if c.window] or self.connections))
        acks = sorted(c.window)[:1] if acked else []
        for each in acks:
            self.receipts.append((each, "acked"))
        unacked = sorted(c.window - set(acks))
        key, room, epoch, _, generation, number = self.where(c)
        item = DisconnectItem(
            key, room, epoch, generation, number, "test", [Ack(PRODUCT, each, "acked") for each in acks], [],
            [(PRODUCT, each) for each in unacked], fruitless, acked,
        )  # fmt: skip
        [found] = self.run(self.register.disconnect([item], Parking(PARK_AFTER, 0)))
        assert found.status == ("ok" if self.session is c else "superseded")
        if repeated:  # its answer was lost: what is to be parked is named again, and nothing counts twice [U12]
            [again] = self.run(self.register.disconnect([item], Parking(PARK_AFTER, 0)))
            assert (again.status, again.parked) == ("superseded", found.parked)
        self.told(c, online=False)
        if self.session is c:
            self.session, self.counter = None, self.counter + 1
        self._settle(acks)
        self.owes(found.owed)
        self._parked([(each.id, each.body.payload) for each in found.parked], unacked, fruitless, acked)
        c.window.clear()
        self.connections.remove(c)

    def _parked(self, found: list[tuple[str, bytes]], unacked: list[str], fruitless: int, acked: bool) -> None:
        """[U12] What was written in so many connections in a row that acknowledged nothing is named, with its body."""
        due: list[str] = []
        if fruitless or acked:
            before, self.guard = self.guard, {}
            for each in [m.id for m in self.log if m.id in unacked and not m.state and not acked]:
                self.guard[each] = before.get(each, 0) + fruitless
                due += [each] if self.guard[each] >= PARK_AFTER else []
        assert sorted(found) == sorted((each, each[1:].encode()) for each in due)
        self.receipts += [(each, "dead") for each in due]
        self.run(self.register.settle([(self.key, PRODUCT, [Settlement(each, LONG_AGO, State.DEAD)]) for each in due]))
        for message in self.log:
            if message.id in due:
                message.state, message.waits = "dead", False

    @rule(number=st.integers(0, 12))
    def pull(self, number: int) -> None:
        """[U13] What is pending has its body, in either mode; what is settled has none."""
        [found] = self.run(self.register.pull([PullItem(self.key, 0, 0, PRODUCT, f"m{number}")]))
        if any(m.id == f"m{number}" for m in self.pending):
            assert found.item is not None
            assert found.item.body.payload == b"%d" % number
        else:
            assert found.status == "gone"

    @precondition(lambda self: any(m.waits for m in self.log))
    @rule(data=st.data())
    def advance_to_due(self, data: st.DataObject) -> None:
        """The time of some has come, or the claim of a worker that died is over."""
        waiting = [m for m in self.log if m.waits]
        shard = only_shard(self.register)
        for message in data.draw(st.lists(st.sampled_from(waiting), min_size=1, unique_by=lambda m: m.id)):
            member = names.due_member(self.key, PRODUCT, message.id)
            self.run(shard.pipe([("ZADD", due_key(slot_of_client(self.key)), "XX", 1, member)]))
            message.due = True
        self.run(remind(shard, {slot_of_client(self.key): 1}))

    @rule(dies=st.sampled_from(["", "", "before kafka", "before the mark"]))
    def hand_over(self, dies: str) -> None:
        """[F1] Exactly what is due and unsettled is claimed; [F2] a worker that dies leaves it to the next."""
        shard, slot = only_shard(self.register), slot_of_client(self.key)
        now, slots = self.run(slots_due(shard))
        expected = {m.id for m in self.pending if m.due and m.waits}
        assert slot in slots or not expected
        members = self.run(members_due(shard, [slot], now))
        ids = [message for key, _, message in members if key == self.key]
        assert set(ids) == expected
        [found] = self.run(self.register.hand([(self.key, PRODUCT, ids)], 1 << 40))
        self.owes(found.owed)
        assert [(m.id, m.body.payload) for m in found.messages] == [(each, each[1:].encode()) for each in ids]
        [again] = self.run(self.register.hand([(self.key, PRODUCT, ids)], 1 << 40))
        assert again.messages == []  # it is claimed
        for message in [m for m in self.log if m.id in ids]:
            message.due, message.marked = False, True
            message.handed += dies != "before kafka"
            message.crashes += dies == "before the mark"
            message.waits = bool(dies)
        if dies != "before kafka":
            self.receipts += [(each, "fallback") for each in ids]
        if not dies:
            self.run(self.register.handed([(self.key, PRODUCT, ids)]))
        self.run(corrected(shard, [slot]))

    @precondition(lambda self: self.connections)
    @rule(data=st.data())
    def sweep(self, data: st.DataObject) -> None:
        """[S4] A session of a dead room goes if it is still that one; the counter stays, a stalled room comes back."""
        self._sweep(data.draw(st.sampled_from(self.connections)))

    def _sweep(self, c: Connection) -> None:
        if self.session is c:  # told first (workers/saver/sweep.py); of another one the walk had found nothing
            self.told(c, online=False)
            self.session = None
        self.run(self.register.sweep([(self.key, c.view)]))

    @precondition(lambda self: self.pending)
    @rule(data=st.data())
    def expire(self, data: st.DataObject) -> None:
        """[U10] What has expired in a queue that nobody touches is ended once, and nothing else."""
        over = data.draw(st.lists(st.sampled_from(self.pending), unique_by=lambda m: m.id))
        self.run(made_due(self.register, self.key, [m.id for m in over]))
        owed = self.run(self.register.expire([(self.key, PRODUCT)]))
        for message in over:
            self.end(message, "expired")
        self.owes(owed)

    @rule(number=st.integers(0, 12))
    def store_late(self, number: int) -> None:
        """[U10] What has expired when it is stored is ended at once, and never pending."""
        late = StoreMessage(f"m{number}", 1, 1, "", Stored(b""))
        [found] = self.run(self.register.store([StoreItem(self.key, PRODUCT, CAP, [late])]))
        if not any(m.id == late.id for m in self.log):
            assert found.numbers == [0]
            self.log.append(Message(late.id, 1, "", False, False, 0))
            self.end(self.log[-1], "expired")
        self.owes(found.owed)

    # --- what Redis loses ----------------------------------------------------------------------------------------------

    @rule()
    def lose_redis(self) -> None:
        """[R1] Emptied, then folded from Kafka: what was pending is pending, what was settled is settled, and nothing else."""
        self.run(wiped(self.register))
        self.n, self.guard, self.owing, self.snapshot = 0, {}, [], None
        self._fold(0)

    @rule()
    def remember(self) -> None:
        """What is written by now will survive."""
        kept = {m.id: Kept(m.n, m.noticed, m.waits, m.due, m.marked) for m in self.log}
        redis = self.run(dumped(self.register, self.key))
        self.snapshot = Snapshot(redis, len(self.log), self.n, kept, dict(self.guard), list(self.owing))

    @precondition(lambda self: self.snapshot is not None)
    @rule(meanwhile=st.sampled_from(["", "connected", "ended"]))
    def lose_tail(self, meanwhile: str) -> None:
        """[R1] Rolled back, then folded from the position that survived: as it was. Often a whole session is in the tail."""
        if meanwhile:
            self.connect(room="r3")
        if meanwhile == "ended":
            self._sweep(self.connections[-1])
        assert self.snapshot is not None
        before, self.snapshot = self.snapshot, None
        self.run(rolled_back(self.register, self.key, before.redis))
        self.n, self.guard = before.n, before.guard
        self.owing = [each for each in before.owing if each[2]]  # a receipt that is there does not say so
        for message in self.log[: before.log]:
            kept = before.messages[message.id]
            message.n, message.noticed, message.due, message.marked = kept.n, kept.noticed, kept.due, kept.marked
            message.waits = kept.waits and not message.state
        self._fold(before.log)

    def _fold(self, position: int) -> None:
        """[R3] The session is the one that was there, or none (where a sweep had told its end): never an older one."""
        before = self.session
        self.run(self._folded(position))
        [now] = self.run(self.register.sessions([self.key]))
        assert now is None or (before is not None and (now.generation, now.number, now.room) == (*before.order, before.room))
        self.session, self.claimed = before if now is not None else None, now is not None and now.connection != -1
        self.counter = self.run(counter_of(self.register, self.key))
        for message in self.log[position:]:
            message.noticed, message.due, message.marked, message.waits = (0, 0), False, False, False
            if not message.state:
                self.n += 1
                message.n, message.waits = self.n, message.fallback
        for message in self.pending:  # [F2] what went there is not handed over again
            if message.fallback and (message.id, "fallback") in self.receipts:
                message.marked, message.waits = True, False

    async def _folded(self, position: int) -> None:
        fold = await begin_fold(self.register)
        if self.events:
            await fold.restore([last(self.events)])
        settled = {message for message, state in self.receipts if state != "fallback"}
        handed = {message for message, state in self.receipts if state == "fallback"}
        receipts = [
            Settlement(message, LONG_AGO, State(state))
            for message, state in self.receipts
            if message in settled and state != "fallback"
        ]
        await fold.settle([(self.key, PRODUCT, receipts)])
        await fold.handed([(self.key, PRODUCT, sorted(handed))])
        again = [
            a_message(m.id, m.priority, m.collapse, m.pull, (0 if m.id in handed else FUTURE) if m.fallback else None)
            for m in self.log[position:]
            if m.id not in settled
        ]
        owed = await fold.store([StoreItem(self.key, PRODUCT, CAP, again)]) if again else []
        assert sorted((each.id, each.state, each.detail) for each in owed) in ([], sorted(self.owing))  # all has its receipt
        assert await fold.done("0", 1, len(self.log), [])

    # --- always --------------------------------------------------------------------------------------------------------

    @invariant()
    def holds_what_the_model_holds(self) -> None:
        view = self.run(self.register.show(self.key, [PRODUCT]))
        assert (view.pending[PRODUCT] if view else 0) == len(self.pending)

    @invariant()
    def has_the_latest_session(self) -> None:
        [found] = self.run(self.register.sessions([self.key]))
        assert (found and (found.generation, found.number)) == (self.session and self.session.order)

    @invariant()
    def every_end_has_one_receipt(self) -> None:
        """[U7] What is not pending has its receipt in Kafka, in the state in which it ended first."""
        first: dict[str, str] = {}
        for message, state in self.receipts:
            if state != "fallback":
                first.setdefault(message, state)
        for message in self.log:
            assert bool(message.state) == (message.id in first), message

    @invariant()
    def every_message_stands_as_the_model_has_it(self) -> None:
        """[U19] Pending, or settled in a state for which there is a receipt."""
        found = self.run(self.register.standing([(self.key, PRODUCT, m.id) for m in self.log]))
        for message, standing in zip(self.log, found, strict=True):
            assert (standing.expires_ms is not None) == (not message.state), message
            assert (standing.settled_ms is not None) == bool(message.state), message
            if message.state:
                assert (message.id, standing.state) in self.receipts, (message, standing)
            else:
                assert standing.handed == (message.marked and not message.waits), (message, standing)
        [unknown] = self.run(self.register.standing([(self.key, PRODUCT, "nobody's")]))
        assert (unknown.expires_ms, unknown.settled_ms) == (None, None)

    @invariant()
    def the_due_index_has_what_waits(self) -> None:
        """[F1] What is settled, on whatever path, leaves the index; what is handed over leaves it too."""
        members = [names.parse_due_member(member) for member in self.run(due_of(self.register, self.key))]
        assert sorted(members) == sorted((self.key, PRODUCT, m.id) for m in self.pending if m.waits)

    @invariant()
    def handed_over_once(self) -> None:
        """[F2] Once, and once more for each worker that died after Kafka had it."""
        for message in self.log:
            assert message.handed <= 1 + message.crashes, message


@pytest_asyncio.fixture(scope="module")
async def redis(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    brokers = LocalBrokers(tmp_path_factory.mktemp("machine"), wanted=frozenset({"redis"}))
    yield (await brokers.start()).redis
    await brokers.stop()


@pytest.mark.timeout(600)  # a failure is made small before it is shown
def test_the_register_is_what_the_model_says(redis: str) -> None:
    loop = asyncio.new_event_loop()
    try:
        Machine.loop, Machine.runs = loop, iter(range(1_000_000))
        Machine.register = Register(RedisSettings(url=redis))
        loop.run_until_complete(Machine.register.start())
        run_state_machine_as_test(
            Machine,
            settings=settings(
                max_examples=80, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck), database=None
            ),
        )
        loop.run_until_complete(Machine.register.stop())
    finally:
        loop.close()
