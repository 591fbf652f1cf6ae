"""The pace of own queues: whatever comes and goes, all members together keep to the rate and one burst."""

from __future__ import annotations

from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.delivery.throttle import BURST, Throttle, capacity, share_of

PARTITIONS = 6

rates = st.one_of(st.just(0.0), st.integers(1, 5000).map(float))
steps = st.lists(st.tuples(st.floats(0, 3), rates, st.integers(1, 10_000)), min_size=1, max_size=60)
owners = st.lists(st.integers(0, 2), min_size=PARTITIONS, max_size=PARTITIONS)


@given(steps)
def test_given_any_changes_of_the_rate_then_in_no_window_more_is_taken_than_it_gives_and_one_burst(
    turns: list[tuple[float, float, int]],
) -> None:
    throttle, now, share = Throttle(), 0.0, 0.0
    given_, taken, bursts = [0.0], [0], [0.0]
    for elapsed, rate, wanted in turns:
        now += elapsed
        given_.append(share * elapsed)
        bursts.append(capacity(share))
        count = min(wanted, throttle.allowed(now, rate))
        throttle.take(count)
        taken.append(count)
        share = rate
    gains, takes = list(accumulate(given_)), list(accumulate(taken))
    for first in range(len(turns)):
        for last in range(first + 1, len(turns) + 1):
            assert takes[last] - takes[first] <= gains[last] - gains[first] + bursts[first] + 1e-6


@given(st.lists(st.tuples(st.floats(0, 1), owners, st.integers(0, 2)), min_size=1, max_size=60), st.integers(PARTITIONS, 2000))
def test_given_members_that_come_and_go_then_all_together_keep_to_the_rate_and_one_burst(
    turns: list[tuple[float, list[int], int]], rate: int
) -> None:
    members, now, total = [Throttle() for _ in range(3)], 0.0, 0
    before: list[int] | None = None
    for elapsed, owned, who in turns:
        now += elapsed
        if owned != before:  # a rebalance: everybody's assignment is a new one
            members, before = [Throttle(at=now) for _ in range(3)], owned
        shares = [share_of(rate, owned.count(member), PARTITIONS) for member in range(3)]
        for member in range(3):
            allowed = members[member].allowed(now, shares[member])
            if member == who:
                members[member].take(allowed)
                total += allowed
        assert total <= rate * now + rate * BURST + 1e-6


@given(st.integers(1, 1000), st.integers(1, 500))
def test_given_more_taken_than_a_new_assignment_had_then_nothing_is_allowed_until_that_is_paid(debt: int, rate: int) -> None:
    throttle = Throttle(share=float(rate))
    throttle.take(debt)
    paid = debt / rate
    assert throttle.allowed(paid / 2, rate) == 0
    assert throttle.wait() == pytest.approx(paid / 2 + 1 / rate)
    assert throttle.allowed(paid / 2 + throttle.wait() + 0.001, rate) == 1


@given(st.integers(2, 1000), st.floats(0.02, 0.5))
def test_given_a_backlog_then_the_rate_is_reached(rate: int, step: float) -> None:
    throttle, now, total = Throttle(), 0.0, 0
    throttle.allowed(0.0, rate)
    while now < 20:
        now += step
        allowed = throttle.allowed(now, rate)
        throttle.take(allowed)
        total += allowed
    assert total >= rate * now - 1 - 1e-6


def test_given_a_pause_then_nothing_is_allowed_and_nothing_was_saved_up_meanwhile() -> None:
    throttle = Throttle()
    throttle.allowed(0.0, 100)
    assert throttle.allowed(5.0, 100) == 100
    assert throttle.allowed(5.0, 0) == 0
    assert throttle.allowed(60.0, 100) == 0
    assert throttle.allowed(60.5, 100) == 50


@pytest.mark.parametrize(("share", "wait"), [(10.0, 0.1), (0.5, 2.0), (0.0, float("inf"))])
def test_given_an_empty_bucket_then_it_says_when_one_more_is_allowed(share: float, wait: float) -> None:
    throttle = Throttle()
    assert throttle.allowed(0.0, share) == 0
    assert throttle.wait() == pytest.approx(wait)
    if share:
        assert throttle.allowed(wait + 1e-9, share) == 1


def test_given_a_share_below_one_a_second_then_a_message_comes_all_the_same() -> None:
    throttle = Throttle()
    throttle.allowed(0.0, 0.1)
    assert [throttle.allowed(at, 0.1) for at in (5.0, 10.1, 100.0)] == [0, 1, 1]
    assert share_of(1, 0, 0) == 0
