"""The pace of broadcasts: never faster than the rate, as fast as the rate, and fair; in simulated time."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.wire import Counts, SliceReply
from schemas.codes import SLOTS, Priority
from tests.unit.pacing_world import World, most_in_window, room_of
from workers.broadcast.pace import BURST, PERIOD, SLOWEST, Ask, Bucket, Pace, Pressure, fair_shares, ramped
from workers.broadcast.pacing import FOLDED, GONE, MAX_DEAD, JobPlan, RoomPlan

BURST_S = BURST + PERIOD
"""What may lie in a window beyond the rate: a full bucket, and a slice that was taken before the window and written in it."""


def assert_never_faster(times: list[float], rate: float, slot: int) -> None:
    for width in (0.5, 1.0, 2.0, 5.0):
        assert most_in_window(times, width) <= rate * (width + BURST_S) + slot


async def test_given_100_a_second_and_two_rooms_of_500_when_run_then_all_are_reached_in_ten_seconds():
    rng = random.Random(1)
    world = World(Pace(10_000, 0.0))
    world.add("j", 100, {"a": room_of(500, rng), "b": room_of(500, rng)})
    world.run(30)
    times = world.written["j"]
    assert len(times) == 1000
    assert 9.0 <= max(times) <= 11.0
    assert world.orders <= 40
    assert_never_faster(times, 100, 3)
    per_second = [sum(second <= when < second + 1 for when in times) for second in range(9)]
    assert all(75 <= count <= 135 for count in per_second)


async def test_given_a_rate_beyond_the_persons_when_run_then_it_is_over_in_a_moment():
    rng = random.Random(2)
    world = World(Pace(10_000, 0.0))
    world.add("j", 10_000, {"a": room_of(500, rng), "b": room_of(500, rng)})
    world.run(10)
    assert len(world.written["j"]) == 1000
    assert max(world.written["j"]) <= 0.5


@given(
    seed=st.integers(0, 10_000),
    rate=st.sampled_from([1, 3, 10, 47, 100, 400]),
    sizes=st.lists(st.integers(0, 400), min_size=1, max_size=5),
    slow=st.floats(0.0, 3.0),
    eligible=st.sampled_from([1.0, 0.3, 0.02]),
)
@settings(max_examples=40, deadline=None)
def test_given_any_rooms_when_run_then_no_window_has_more_than_rate_and_burst_and_everyone_is_reached(
    seed, rate, sizes, slow, eligible
):
    rng = random.Random(seed)
    bound = {f"r{i}": size for i, size in enumerate(sizes)}
    rooms = {name: room_of(round(size * eligible), rng) for name, size in bound.items()}
    rooms["r0"].delay = slow
    persons = sum(sum(room.slots) for room in rooms.values())
    world = World(Pace(10_000, 0.0))
    world.add("j", rate, rooms, bound=bound)
    ideal = persons / rate
    world.run(3 * ideal + 20 * (1 + slow) + 60)
    assert len(world.written["j"]) == persons
    assert_never_faster(world.written["j"], rate, max(max(room.slots) for room in rooms.values()) * len(rooms))
    if slow < 0.1 and eligible == 1.0:
        assert max(world.written["j"], default=0.0) <= 1.1 * ideal + 3


async def test_given_a_room_that_hangs_when_run_then_the_others_go_on_with_its_share():
    rng = random.Random(3)
    rooms = {name: room_of(300, rng) for name in ("a", "b", "c")}
    rooms["c"].delay = 1000.0
    world = World(Pace(1000, 0.0))
    plan = world.add("j", 60, rooms)
    world.run(16, stop_when_walked=False)
    assert plan.rooms["a", 1].walked
    assert plan.rooms["b", 1].walked
    assert len(world.written["j"]) <= 60 * (16 + BURST_S)


async def test_given_two_jobs_of_a_product_when_run_then_they_share_its_rate_and_the_slow_one_leaves_the_rest():
    rng = random.Random(4)
    world = World(Pace(100, 0.0))
    world.add("slow", 20, {"a": room_of(1000, rng)})
    world.add("fast", 100, {"a": room_of(1000, rng)})
    world.run(10, stop_when_walked=False)
    slow, fast = len(world.written["slow"]), len(world.written["fast"])
    assert 180 <= slow <= 240
    assert 720 <= fast <= 920
    assert_never_faster(world.written["slow"] + world.written["fast"], 100, 6)


async def test_given_late_joiners_when_granted_then_they_and_the_walk_share_one_rate():
    rng = random.Random(5)
    room = room_of(300, rng)
    room.waiting = 300
    world = World(Pace(1000, 0.0))
    plan = world.add("j", 50, {"a": room})
    world.run(40)
    assert len(world.written["j"]) == 600
    assert room.waiting == 0
    assert plan.walked(world.now)
    assert 10.8 <= max(world.written["j"]) <= 14
    assert_never_faster(world.written["j"], 50, 3)


async def test_given_a_walked_room_when_nothing_changes_then_it_is_polled_ever_more_rarely_with_a_small_grant():
    world = World(Pace(100, 0.0))
    room = room_of(10, random.Random(6))
    world.add("j", 100, {"a": room})
    world.run(60, stop_when_walked=False)
    assert 10 <= world.orders <= 20
    room.waiting = 3
    world.run(66, stop_when_walked=False)
    assert room.waiting == 0
    before = world.orders
    world.run(67, stop_when_walked=False)
    assert world.orders - before <= 2


@pytest.mark.parametrize(
    ("rate", "asks", "shares"),
    [
        (90, {}, {}),
        (90, {"a": 10}, {"a": 10}),
        (90, {"a": 100, "b": 100, "c": 100}, {"a": 30, "b": 30, "c": 30}),
        (90, {"a": 10, "b": 100, "c": 100}, {"a": 10, "b": 40, "c": 40}),
        (90, {"a": 10, "b": 20, "c": 100}, {"a": 10, "b": 20, "c": 60}),
    ],
)
def test_given_asks_when_divided_then_shares_are_max_min_fair(rate, asks, shares):
    assert fair_shares(rate, {name: Ask(ask) for name, ask in asks.items()}) == pytest.approx(shares)


@given(
    rate=st.floats(1, 1e6),
    asks=st.dictionaries(st.text("abcdef", min_size=1, max_size=3), st.tuples(st.floats(0.1, 1e6), st.sampled_from([1, 4, 16]))),
)
def test_given_weights_when_divided_then_nothing_is_left_while_somebody_wants_it_and_nobody_envies(rate, asks):
    wanted = {name: Ask(*ask) for name, ask in asks.items()}
    shares = fair_shares(rate, wanted)
    assert sum(shares.values()) == pytest.approx(min(rate, sum(ask.rate for ask in wanted.values())))
    for name, ask in wanted.items():
        assert shares[name] <= ask.rate * 1.000001
        if shares[name] < ask.rate * 0.999999:  # who has less than it asks has as much for its weight as anybody
            assert all(shares[name] / ask.weight >= shares[other] / wanted[other].weight * 0.999999 for other in wanted)


async def test_given_a_transactional_job_beside_bulk_when_run_then_it_overtakes_and_bulk_does_not_stop():
    rng = random.Random(8)
    world = World(Pace(100, 0.0))
    world.add("bulk", 100, {"a": room_of(2000, rng)}, priority=Priority.LOW)
    world.run(5, stop_when_walked=False)
    world.add("urgent", 100, {"a": room_of(300, rng)}, priority=Priority.HIGH)
    before = len(world.written["bulk"])
    world.run(9.5, stop_when_walked=False)
    assert len(world.written["urgent"]) == 300
    in_time = sum(when <= max(world.written["urgent"]) for when in world.written["bulk"][before:])
    assert 10 <= in_time <= 120
    assert_never_faster(world.written["bulk"] + world.written["urgent"], 100, 6)


@given(rate=st.floats(1, 1e6), ramp=st.integers(0, 3600), steps=st.lists(st.floats(0, 100), max_size=30))
def test_given_a_ramp_when_time_passes_then_the_rate_grows_evenly_to_the_whole(rate, ramp, steps):
    elapsed, last = 0.0, 0.0
    for step in steps:
        elapsed += step
        now = ramped(rate, ramp, elapsed)
        assert last <= now <= max(1.0, rate)
        last = now
    assert ramped(rate, ramp, ramp) == pytest.approx(rate)
    if ramp:
        assert ramped(rate, ramp, ramp / 2) == pytest.approx(max(1.0, rate * (ramp / 2 + 1) / (ramp + 1)))


@given(st.lists(st.booleans(), max_size=60))
def test_given_any_probes_when_taken_then_the_factor_halves_and_comes_back_and_never_leaves_its_bounds(probes):
    pressure = Pressure()
    for healthy in probes:
        before = pressure.factor
        pressure.probed(healthy=healthy)
        assert SLOWEST <= pressure.factor <= 1.0
        assert pressure.factor == (min(1.0, before * 2) if healthy else max(SLOWEST, before / 2))
    for _ in range(4):
        pressure.probed(healthy=True)
    assert pressure.factor == 1.0


async def test_given_a_plan_that_stops_early_when_run_then_only_that_share_is_reached_and_who_waits_is_left_alone():
    rng = random.Random(9)
    room = room_of(1000, rng)
    room.waiting = 50
    world = World(Pace(10_000, 0.0))
    plan = world.add("j", 1_000, {"a": room})
    plan.stop_at(SLOTS // 10)
    world.run(10)
    first = sum(room.slots[: SLOTS // 10])
    assert len(world.written["j"]) == first
    assert (room.waiting, plan.walked(world.now), plan.done(world.now)) == (50, True, False)
    plan.stop_at(SLOTS)
    world.run(20)
    assert len(world.written["j"]) == 1050


async def test_given_a_plan_on_hold_when_run_then_rooms_are_asked_and_nobody_is_written_to():
    room = room_of(1000, random.Random(10))
    room.waiting = 50
    world = World(Pace(10_000, 0.0))
    plan = world.add("j", 200, {"a": room})
    world.run(1.5)
    world.hold = True
    world.run(3, stop_when_walked=False)
    settled = len(world.written["j"])  # the order that was out is through
    orders = world.orders
    world.run(9, stop_when_walked=False)
    assert len(world.written["j"]) == settled
    assert world.orders > orders
    assert not plan.walked(world.now)


@given(
    rate=st.floats(0.5, 1000),
    steps=st.lists(st.tuples(st.floats(0, 3), st.floats(0, 1), st.floats(0, 1)), max_size=50),
)
def test_given_any_takes_and_returns_when_counted_then_a_bucket_gives_no_more_than_rate_and_burst(rate, steps):
    bucket, now, taken, returned = Bucket(rate, 0.0), 0.0, 0.0, 0.0
    for passed, part, back in steps:
        now += passed
        amount = bucket.available(now) * part
        bucket.take(amount)
        bucket.give(amount * back)
        taken += amount
        returned += amount * back
        assert taken - returned <= rate * (now + BURST) * 1.0001


def plan_of(*rooms: RoomPlan) -> JobPlan:
    return JobPlan("j", {room.key: room for room in rooms})


def test_given_rooms_that_come_and_go_when_seen_then_new_ones_are_late_and_dead_ones_hold_nothing_up():
    plan = plan_of(RoomPlan("a", 1, slot=100, bound=10, start=10, next_at=0.0))
    assert plan.see({("a", 1): 12, ("b", 1): 5}, 0.0)
    assert plan.rooms["b", 1].slot == SLOTS
    assert not plan.see({("b", 1): 5}, 1.0)
    assert not plan.walked(1.0)
    assert not plan.walked(1.0 + GONE - 0.1)
    assert plan.walked(1.0 + GONE)
    plan.see({("a", 1): 12, ("b", 1): 5}, 20.0)  # it was only cut off
    assert not plan.walked(20.0)
    assert plan.see({("a", 2): 3}, 21.0)  # a new boot of the same room
    assert plan.rooms["a", 2].walked


def test_given_a_reply_when_confirmed_then_unused_persons_come_back_and_a_second_reply_changes_nothing():
    pace = Pace(100, 0.0)
    plan = plan_of(RoomPlan("a", 1, slot=0, bound=1000, start=1000, next_at=0.0))
    pace.ask("j", 100, 0.0)
    (order,) = plan.due(pace, 0.0)
    assert order.reserved == 100
    assert plan.due(pace, 5.0) == []  # not before the answer
    reply = SliceReply("ok", order.seq, 77, 40, Counts(sent=40))
    assert plan.confirmed(order, reply, pace) is not None
    assert pace.available("j", 0.0) == pytest.approx(60)
    assert plan.confirmed(order, reply, pace) is None
    assert plan.rooms["a", 1].slot == 77


def test_given_a_room_that_knows_an_earlier_cursor_when_it_answers_then_its_cursor_is_the_truth():
    pace = Pace(100, 0.0)
    plan = plan_of(RoomPlan("a", 1, slot=SLOTS, bound=10, start=0, next_at=0.0))
    pace.ask("j", 100, 0.0)
    (order,) = plan.due(pace, 0.0)
    plan.confirmed(order, SliceReply("ok", order.seq, 500, 0), pace)
    assert not plan.walked(0.0)


def test_given_dead_rooms_when_counted_then_what_they_may_have_lost_is_uncertain_and_survives_their_names():
    pace = Pace(100, 0.0)
    rooms = [RoomPlan(f"r{i}", 1, slot=SLOTS, bound=0, start=2, next_at=0.0) for i in range(MAX_DEAD + 1)]
    plan = plan_of(*rooms)
    for room in rooms:
        room.counts = Counts(sent=5, acked=2, written=1, rejected=1, waiting=9)
    plan.see({}, 0.0)
    assert plan.uncertain(0.0) == 0
    plan.see({}, GONE)
    assert plan.uncertain(GONE) == MAX_DEAD + 1
    assert plan.totals(GONE).waiting == 0
    plan.forget_dead(GONE)
    assert list(plan.rooms) == [FOLDED]
    assert (plan.uncertain(GONE), plan.totals(GONE).sent) == (MAX_DEAD + 1, 5 * (MAX_DEAD + 1))
    assert sum(room.start for room in plan.rooms.values()) == 2 * (MAX_DEAD + 1)
    assert plan.due(pace, GONE + 1) == []


def test_given_rooms_of_different_size_when_half_done_then_progress_weighs_clients():
    plan = plan_of(
        RoomPlan("a", 1, slot=SLOTS, bound=30, start=30, next_at=0.0),
        RoomPlan("b", 1, slot=0, bound=10, start=10, next_at=0.0),
        RoomPlan("late", 1, slot=SLOTS, bound=500, start=0, next_at=0.0),
    )
    assert plan.progress() == pytest.approx(0.75)
