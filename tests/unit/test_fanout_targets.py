"""Whom a job means: groups, segment, sample; estimates of it; and a pause of the slice that is being written."""

from __future__ import annotations

import asyncio
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.broadcast import eligibility
from gateway.broadcast.eligibility import MAX_KNOWN, Segmented, Target
from infra.segments import Segment
from infra.wire import ControlReply, Estimate, JobContent, PauseJob
from schemas.codes import SLOTS, WHOLE
from schemas.partition import Shares
from tests.unit.fanout_room import PRODUCT, TERM, Room

IOS = {"platform": "ios", "app": "2.10"}


def content(**fields: object) -> JobContent:
    base = {"job": "j1", "number": (2, 7), "product": PRODUCT, "groups": [], "payload": b"x", "expires_in_ms": 60_000}
    return JobContent(**{**base, "started_ms": 1_000, **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("bind", "fields", "gets"),
    [
        ({"groups": ("a", "b", "c")}, {"groups": ["a", "b"], "every_group": True}, True),
        ({"groups": ("a", "c")}, {"groups": ["a", "b"], "every_group": True}, False),
        ({}, {"every_group": True}, True),
        ({"attrs": IOS}, {"segment": 'platform == "ios"'}, True),
        ({"attrs": IOS}, {"segment": 'app < version("2.9")'}, False),
        ({}, {"segment": 'platform == "ios"'}, False),
        ({"attrs": IOS, "groups": ("a",)}, {"segment": "has(app)", "groups": ["a"]}, True),
        ({"attrs": IOS}, {"segment": "has(app)", "groups": ["a"]}, False),
        ({"attrs": IOS, "first_bind_ms": 1_001}, {"segment": "has(app)"}, False),
        ({"attrs": IOS, "first_bind_ms": 1_001}, {"segment": "has(app)", "include_new": True}, True),
        ({"attrs": IOS, "groups": ("a",)}, {"segment": 'has(app) && group("a") && !group("b")'}, True),
        ({"attrs": IOS, "groups": ("a", "b")}, {"segment": 'has(app) && group("a") && !group("b")'}, False),
        ({}, {"sample_bp": WHOLE, "sample_seed": "s"}, True),
        ({}, {"sample_bp": Shares("s").of("main:c1") + 1, "sample_seed": "s"}, True),
        ({}, {"sample_bp": Shares("s").of("main:c1"), "sample_seed": "s"}, False),
    ],
)
async def test_given_conditions_when_walked_or_late_then_only_who_meets_all_gets_it_and_no_bit_is_set_else(bind, fields, gets):
    walked, late = Room(), Room()
    one = walked.join("main:c1", **bind)
    walked.announce(**fields)
    reply = await walked.slice()
    late.announce(**fields, slot=SLOTS)
    other = late.join("main:c1", **bind)
    await late.slice(late=10)
    assert walked.got("main:c1") == late.got("main:c1") == ["j1"] * gets
    assert bool(one.sent) == bool(other.sent) == gets
    assert (one.settled, other.settled) == (0, 0)
    assert (reply.counts.sent, reply.counts.skipped) == (int(gets), int(not gets))
    estimate = await walked.fanout.estimate(Estimate(content(**fields)))
    assert estimate == ControlReply("ok", persons=int(gets))


async def test_given_a_segment_when_thousands_are_walked_then_it_is_evaluated_once_for_each_attribute_set(monkeypatch):
    asked = []

    def compiled(text: str) -> Segment:
        return Segment(text, frozenset("n"), frozenset(), lambda attrs, _: asked.append(attrs["n"]) is None and attrs["n"] == "1")

    monkeypatch.setattr(eligibility.segments, "compile", compiled)
    room = Room()
    for i in range(3_000):
        room.join(f"main:c{i}", attrs={"n": str(i % 3)})
    room.announce(segment="n == 1")
    assert (await room.slice()).persons == 1_000
    assert sorted(asked) == ["0", "1", "2"]


async def test_given_a_segment_of_groups_when_attributes_are_the_same_then_each_has_the_answer_of_its_own_groups():
    room = Room()
    for i in range(300):
        room.join(f"main:c{i}", attrs=IOS, groups=("a", "x") if i % 3 else ("b",))
    room.announce(segment='has(app) && group("a")')
    assert (await room.slice()).persons == 200


def test_given_more_attribute_sets_than_are_remembered_when_asked_then_the_answers_stay_right():
    room = Room()
    condition = Segmented(Segment("", frozenset(), frozenset(), lambda attrs, _: int(attrs["n"]) % 2 == 0))
    for n in [*range(MAX_KNOWN + 10), 0, 1]:
        bind = room.join(f"main:c{n % 7}", attrs={"n": str(n)}, product=f"p{n}")
        assert condition(bind) is (n % 2 == 0)
        room.leave(bind)
    assert len(condition._known) <= MAX_KNOWN


@pytest.mark.parametrize("segment", ["platform ==", "1 == 1", "a.matches('x')"])
async def test_given_a_segment_that_does_not_compile_when_announced_or_estimated_then_it_is_refused_and_nothing_is_sent(segment):
    room = Room()
    room.join("main:c1", attrs=IOS)
    assert room.announce(segment=segment) == "refused"
    assert (await room.fanout.estimate(Estimate(content(segment=segment)))).status == "refused"
    assert (await room.slice()).status == "unknown"
    assert room.got("main:c1") == []
    assert room.announce() == "ok"  # no place is lost


@given(st.text(max_size=20), st.integers(0, WHOLE))
@settings(max_examples=30, deadline=None)
def test_given_any_seed_when_sampled_then_smaller_samples_are_in_larger_ones(seed, share):
    room = Room()
    binds = [room.join(f"main:c{i}") for i in range(50)]
    less, more = (Target(content(sample_bp=bp, sample_seed=seed)) for bp in (share // 2, share))
    chosen, wider = ({bind for bind in binds if target.means(bind)} for target in (less, more))
    assert chosen <= wider
    assert wider == {bind for bind in binds if Shares(seed).of(bind.client.key) < share}


def test_given_many_clients_when_sampled_then_shares_are_even_and_seeds_and_slots_independent():
    keys = [f"main:c{i}" for i in range(20_000)]
    for seed, other in itertools.pairwise(["", "j1", "j2"]):
        chosen = {key for key in keys if Shares(seed).of(key) < 1_000}
        assert 1_850 < len(chosen) < 2_150  # 2,000 ± 3.5 standard deviations
        assert 130 < len(chosen & {key for key in keys if Shares(other).of(key) < 1_000}) < 270
    tenths = [sum(1_000 * i <= Shares("j1").of(key) < 1_000 * (i + 1) for key in keys) for i in range(10)]
    assert all(1_850 < count < 2_150 for count in tenths)


async def test_given_many_binds_when_estimated_then_the_loop_gets_turns_and_nothing_is_kept():
    room = Room()
    binds = [room.join(f"main:c{i}", attrs=IOS if i % 2 else {}) for i in range(5_000)]
    room.fanout.fence(binds[1], away=True)
    reply = await room.fanout.estimate(Estimate(content(segment="has(app)")))
    assert reply.persons == 2_500  # who is away is meant as well
    assert room.sleeps.count(0) >= 20
    assert not any(bind.sent or bind.settled for bind in binds)
    assert (await room.slice()).status == "unknown"


async def test_given_a_slice_that_is_being_written_when_paused_then_it_stops_at_once_and_says_what_it_did():
    room = Room()
    for i in range(1_000):
        room.join(f"main:c{i}")
    room.announce()
    running = asyncio.ensure_future(room.slice(spread_ms=1000))
    await room.until(50.3)
    assert room.fanout.control(PauseJob("j1", TERM - 1)).status == "old-term"
    assert room.fanout.control(PauseJob("other", TERM)).status == "gone"
    paused = room.fanout.control(PauseJob("j1", TERM))
    reply = await running
    assert room.now < 50.32
    assert (paused.status, reply.status, reply.persons) == ("ok", "ok", paused.counts.sent)
    assert 200 < reply.persons < 400
    assert (await room.slice()).persons == 1_000 - reply.persons
    assert all(room.got(key) == ["j1"] for key in room.wires)


async def test_given_a_walk_of_many_at_once_when_paused_then_it_stops_within_a_chunk():
    room = Room()
    for i in range(3_000):
        room.join(f"main:c{i}")
    room.announce()
    running = asyncio.ensure_future(room.slice())
    while not room.sleeps:  # noqa: ASYNC110 - a turn of the loop at a time
        await asyncio.sleep(0)
    room.fanout.control(PauseJob("j1", TERM))
    assert (await running).persons <= 800
    assert (await room.slice(term=TERM + 1)).status == "ok"
