"""A storm after a restart: the rate grows, and who comes too early is told a time that spreads all of them."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.admission.connect_rate import LONGEST, ConnectRate
from infra.documents import Policy


def made(*, jitter: float = 0.0, **policy: float) -> ConnectRate:
    document = Policy.model_validate(policy)
    return ConnectRate(lambda: document, 100.0, jitter=lambda: jitter)


def test_given_a_room_that_has_started_then_it_begins_with_a_part_of_its_rate_and_has_all_of_it_at_the_ramps_end() -> None:
    rate = made(connect_rate=1_000, connect_ramp=20, connect_ramp_from=0.25)
    assert [rate.rate(100.0 + passed) for passed in (0, 10, 20, 1_000)] == [250, 625, 1_000, 1_000]


def test_given_a_storm_at_the_start_then_what_is_let_in_each_second_follows_the_ramp() -> None:
    rate = made(connect_rate=400, connect_ramp=10, connect_ramp_from=0.1)
    let_in: Counter[int] = Counter()
    for step in range(1_200):
        now = 100.0 + step / 100
        let_in[int(now)] += sum(rate.admit(now) == 0 for _ in range(20))
    assert let_in[100] <= 40 + 60  # the bucket, and a second of it
    assert [let_in[second] for second in range(101, 111)] == sorted(let_in[second] for second in range(101, 111))
    assert let_in[110] == pytest.approx(400, rel=0.05)
    assert let_in[111] == pytest.approx(400, rel=0.05)


def test_given_many_at_once_when_they_are_told_when_to_come_then_each_differs_by_chance_and_none_comes_before_its_turn() -> None:
    early, late = made(connect_rate=10, connect_ramp_from=1), made(connect_rate=10, connect_ramp_from=1, jitter=0.999)
    waits = [(early.admit(100.0), late.admit(100.0)) for _ in range(310)][10:]
    assert waits[0] == (1, 2)
    assert waits[-1] in ((30, 45), (31, 45))  # 300 tenths of a second
    assert all(wait <= other for wait, other in waits)


def test_given_more_than_can_ever_be_served_then_nobody_is_told_to_wait_for_longer_than_the_bound() -> None:
    rate = made(connect_rate=1, jitter=0.999)
    assert max(rate.admit(100.0) for _ in range(5_000)) <= 1 + LONGEST * 1.5


@given(st.lists(st.floats(0, 3), min_size=1, max_size=200), st.integers(1, 40))
def test_given_any_times_then_in_no_window_more_is_let_in_than_the_full_rate_and_a_second_of_it(
    steps: list[float], full: int
) -> None:
    rate, now = made(connect_rate=full), 100.0
    let_in: list[float] = []
    for passed in steps:
        now += passed
        let_in += [now] * sum(rate.admit(now) == 0 for _ in range(5))
    for first in range(len(let_in)):
        for last in range(first, len(let_in)):
            assert last - first + 1 <= max(1, full) + full * (let_in[last] - let_in[first]) + 1e-6
