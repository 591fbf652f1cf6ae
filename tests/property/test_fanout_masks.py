"""A room's broadcasts against a model: slices, grants and pauses interleaved with clients that come, go, join groups, are fenced,
fall into quiet hours and out of them, and jobs that end so that their places are used again.

There are two places instead of 64. The ids in brackets are those of docs/guarantees.md.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import mqtt5
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gateway.broadcast.jobs import Job
from gateway.client import BindState
from infra.wire import Cap, JobContent, PauseJob, QuietHours
from schemas.codes import SLOTS
from schemas.partition import Shares
from tests.unit.fanout_room import PRODUCT, TERM, Room, Writes

PEOPLE = 6
PLACES = 2
CAP = Cap(1, 1_800)
NIGHT = QuietHours(22 * 60, 7 * 60)
NOON = datetime(2027, 7, 1, 12, tzinfo=UTC).timestamp()
GROUPS = st.sampled_from([frozenset(), frozenset(), frozenset({"a"}), frozenset({"a", "b"})])
SELDOM = st.sampled_from([False, False, False, True])
ATTRS = st.fixed_dictionaries({}, optional={"os": st.sampled_from(["ios", "web"]), "tz": st.sampled_from(["Asia/Tokyo", "none"])})


class MaskMachine(RuleBasedStateMachine):
    """`got`: jobs by connection; `kept`: what the register would have of each person; `log`: when it was written capped jobs."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.room = Room(PLACES)
        self.room.wall = NOON
        self.contents: dict[str, JobContent] = {}
        self.announced = 0
        self.running: list[asyncio.Future[Any]] = []
        self.here: dict[int, BindState] = {}
        self.got: dict[int, set[str]] = defaultdict(set)
        self.open: dict[int, list[int]] = defaultdict(list)
        self.acked: dict[int, set[str]] = defaultdict(set)
        self.kept: dict[int, dict[tuple[int, ...], None]] = defaultdict(dict)
        self.log: dict[int, dict[str, float]] = defaultdict(dict)

    # --- the model -----------------------------------------------------------------------------------------------------

    def meant(self, content: JobContent, bind: BindState) -> bool:
        mine = set(content.groups)
        if mine and not (mine <= bind.groups if content.every_group else mine & bind.groups):
            return False
        if content.segment and bind.attrs.get("os") != "ios":
            return False
        if Shares(content.sample_seed).of(bind.client.key) >= content.sample_bp:
            return False
        return content.include_new or bind.first_bind_ms <= content.started_ms

    def quiet(self, bind: BindState) -> bool:
        zone = ZoneInfo("Asia/Tokyo") if bind.attrs.get("tz") == "Asia/Tokyo" else UTC
        hour = datetime.fromtimestamp(self.room.wall, zone).hour
        return hour >= 22 or hour < 7

    def written(self, person: int, packet: mqtt5.PublishPacket) -> None:
        """[B1], [B9], [B10], [B6] At the moment of the write."""
        bind, name = self.here[person], dict(packet.user_properties)["id"]
        content, connection = self.contents[name], bind.client.connection
        assert not bind.fenced
        assert self.meant(content, bind)
        assert name not in self.got[connection], "twice on one connection"
        assert content.number not in self.kept[person], "settled before"
        assert content.quiet is None or not self.quiet(bind)
        if content.cap is not None:
            since = self.room.wall - CAP.seconds
            lately = {other for other, when in self.log[person].items() if int(when) > since}
            assert name in lately or len(lately) < CAP.count
            self.log[person].setdefault(name, self.room.wall)
        self.got[connection].add(name)
        if packet.packet_id is not None:
            self.open[connection].append(packet.packet_id)

    # --- rules ---------------------------------------------------------------------------------------------------------

    @rule(
        groups=GROUPS, every=SELDOM, segment=SELDOM, share=st.sampled_from([10_000, 10_000, 5_000]), new=st.booleans(),
        quiet=st.booleans(), cap=st.booleans(), slot=st.sampled_from([0, 0, 2_000, SLOTS]), walk=st.booleans(),
    )  # fmt: skip
    def announce(self, *, groups, every, segment, share, new, quiet, cap, slot, walk) -> None:
        """Where no place is free, the oldest ends first; or it is told so."""
        self.announced += 1
        if len(self.contents) == PLACES and self.announced % 4:
            self._end(next(iter(self.contents)))
        name = f"j{self.announced}"
        content = JobContent(
            name, (2, self.announced), PRODUCT, sorted(groups), b"x", 1 << 40, 1_000, new, every_group=every,
            segment='os == "ios"' if segment else "", sample_bp=share, sample_seed=name, quiet=NIGHT if quiet else None,
            cap=CAP if cap else None,
        )  # fmt: skip
        fields = {field: getattr(content, field) for field in content.__struct_fields__}
        for known in ("job", "number", "product"):
            del fields[known]
        full = len(self.contents) == PLACES
        assert self.room.announce(name, slot=slot, offset=self.announced, **fields) == ("full" if full else "ok")
        if not full:
            self.contents[name] = content
            if walk:
                self._slice(name, SLOTS, late=PEOPLE, turns=500)

    @precondition(lambda self: self.contents)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        self._end(data.draw(st.sampled_from(sorted(self.contents))))

    def _end(self, name: str) -> None:
        assert self.room.end(name) == "ok"
        del self.contents[name]

    @initialize(qos=st.integers(0, 1), hours=st.sampled_from([0, 12]))
    def begin(self, qos: int, hours: int) -> None:
        """Some are here, and have a broadcast; at noon, or at midnight."""
        self.room.wall += hours * 3600
        for person in range(PEOPLE // 2):
            self._join(person, frozenset({"a"}), {"os": "ios"}, qos, 0, 2)
        self.announce(
            groups=frozenset(), every=False, segment=False, share=10_000, new=False, quiet=False, cap=False, slot=0, walk=True
        )

    @precondition(lambda self: len(self.here) < PEOPLE)
    @rule(
        data=st.data(),
        groups=GROUPS,
        attrs=ATTRS,
        qos=st.integers(0, 1),
        first=st.sampled_from([0, 2_000]),
        places=st.integers(1, 3),
    )
    def join(self, *, data: st.DataObject, groups, attrs, qos, first, places) -> None:
        person = data.draw(st.sampled_from([i for i in range(PEOPLE) if i not in self.here]))
        self._join(person, groups, attrs, qos, first, places)

    def _join(  # noqa: PLR0917 - as drawn
        self, person: int, groups: frozenset[str], attrs: dict[str, str], qos: int, first: int, places: int
    ) -> None:
        client = self.room.connect(f"main:c{person}", receive_max=places)
        keep = client.shell.write

        def write(packet: bytes) -> None:
            keep(packet)
            self.written(person, self.room.wires[client.key].packets[-1][1])

        client.shell = Writes(write)
        kept = self.kept[person]
        self.here[person] = self.room.bind(
            client, qos=qos, groups=tuple(groups), first_bind_ms=first, attrs=attrs,
            settled=tuple(item for item in kept if len(item) == 2), recent=tuple(item for item in kept if len(item) == 3),
        )  # fmt: skip

    @precondition(lambda self: self.here)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        person = data.draw(st.sampled_from(sorted(self.here)))
        bind = self.here.pop(person)
        for item in self.room.fanout.settled_jobs(bind, all=True):
            self.kept[person][(item.partition, item.offset, *([item.sent_s] if item.sent_s else []))] = None
        self.room.leave(bind)

    @precondition(lambda self: self.contents)
    @rule(
        data=st.data(),
        hi=st.sampled_from([0, 1_500, SLOTS, SLOTS]),
        late=st.integers(0, 8),
        spread=st.sampled_from([0, 500]),
        most=st.sampled_from([0, 0, 2]),
        turns=st.sampled_from([0, 2, 30, 500, 500]),
    )
    def slice(self, *, data: st.DataObject, hi, late, spread, most, turns) -> None:
        """It begins, and comes as far as these turns of the loop take it; what still runs goes on in later steps."""
        name = data.draw(st.sampled_from(sorted(self.contents)))
        self._slice(name, hi, late=late, spread_ms=spread, most=most, turns=turns)

    def _slice(self, name: str, hi: int, *, turns: int, **order: int) -> None:
        self.running.append(self.loop.create_task(self.room.fanout.slice(self.room.order(name, 0, hi, **order))))
        self.turns(turns)

    @rule(count=st.sampled_from([1, 30, 500]))
    def turns(self, count: int) -> None:
        async def some() -> None:
            for _ in range(count):
                if all(task.done() for task in self.running):
                    break
                await asyncio.sleep(0)

        self.loop.run_until_complete(some())
        for done in [task for task in self.running if task.done()]:
            done.result()
            self.running.remove(done)

    @precondition(lambda self: self.contents)
    @rule(data=st.data())
    def pause(self, data: st.DataObject) -> None:
        """What runs stops; the next slice goes on."""
        name = data.draw(st.sampled_from(sorted(self.contents)))
        assert self.room.fanout.control(PauseJob(name, TERM)).status == "ok"

    @precondition(lambda self: self.here)
    @rule(data=st.data())
    def ack(self, data: st.DataObject) -> None:
        self._settle(data.draw(st.sampled_from(sorted(self.here))))

    def _settle(self, person: int) -> None:
        bind = self.here[person]
        for packet_id in self.open.pop(bind.client.connection, ()):  # of jobs that are over, too
            self.room.fanout.puback(bind.client, packet_id, 0)
        self.room.fanout.drained(bind.client)
        self.acked[bind.client.connection] |= self.got[bind.client.connection]

    @precondition(lambda self: self.here)
    @rule(data=st.data(), groups=GROUPS, grants=st.booleans())
    def regroup(self, data: st.DataObject, groups, grants) -> None:
        """Or SUBSCRIBE again to the same. With `grants` whoever waits then gets it."""
        bind = self.here[data.draw(st.sampled_from(sorted(self.here)))]
        bind.groups = groups
        self.room.fanout.regrouped(bind)
        for name in list(self.contents) if grants else ():
            self._slice(name, 0, late=PEOPLE, turns=500)

    @precondition(lambda self: self.here)
    @rule(data=st.data())
    def fence(self, data: st.DataObject) -> None:
        """Or lift it."""
        bind = self.here[data.draw(st.sampled_from(sorted(self.here)))]
        if bind.fenced:
            self.room.fanout.unfence(bind)
        else:
            self.room.fanout.fence(bind)

    @rule(minutes=st.sampled_from([1, 31, 240, 600]))
    def time(self, minutes: int) -> None:
        self.room.wall += minutes * 60

    # --- always --------------------------------------------------------------------------------------------------------

    @property
    def active(self) -> dict[str, Job]:
        return self.room.fanout._jobs.by_id

    @invariant()
    def bits_are_of_what_was_written_and_places_do_not_leak(self) -> None:
        for person, bind in self.here.items():
            connection = bind.client.connection
            for name, job in self.active.items():
                assert bool(bind.sent & job.bit) == (name in self.got[connection])
                known = name in self.acked[connection] or job.number in self.kept[person]
                assert known or not bind.settled & job.bit

    @invariant()
    def nobody_waits_twice_or_in_vain(self) -> None:
        for name, job in self.active.items():
            deferred = [bind for waiting in job.quiet._waiting.values() for bind in waiting] if job.quiet is not None else []
            queued = [*job.late, *job.blocked, *deferred]
            assert len(queued) == len(set(queued))
            assert set(queued) <= set(self.here.values())
            assert not any(bind.fenced or not self.meant(self.contents[name], bind) for bind in queued)
            counts = job.counts()
            assert (counts.waiting, counts.deferred) == (len(job.late) + len(job.blocked), len(deferred))

    @invariant()
    def packet_ids_and_bits_are_of_one_job(self) -> None:
        bits = [job.bit for job in self.active.values()]
        assert len(bits) == len(set(bits))

    def teardown(self) -> None:
        """Everyone who is meant gets it in the end, but who is left out by a cap."""
        try:
            self._finish()
        finally:
            self.loop.close()

    def _finish(self) -> None:
        while self.running:
            self.turns(50)
        self.room.wall = NOON + 86_400 * (2 + (self.room.wall - NOON) // 86_400)  # 12 in London, 21 in Tokyo
        for bind in self.here.values():
            if bind.fenced:
                self.room.fanout.unfence(bind)
        for _ in range(3 * PEOPLE):
            for person in self.here:
                self._settle(person)
            for name in self.contents:
                self.loop.run_until_complete(self.room.slice(name, late=PEOPLE))
        for person, bind in self.here.items():
            for name, content in self.contents.items():
                if self.meant(content, bind) and content.cap is None and content.number not in self.kept[person]:
                    assert name in self.got[bind.client.connection]


TestMasks = MaskMachine.TestCase
TestMasks.settings = settings(max_examples=200, stateful_step_count=30, deadline=None, database=None)
