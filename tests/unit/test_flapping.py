"""Clients that connect too often: banned for a while, and neither a million ids nor a thousand bans make the tables grow."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.admission.flapping import MAX_BANNED, MAX_SEEN, Flapping
from infra.documents import Policy

LIMIT = 5
BAN = 300.0


def made(**limits: float) -> Flapping:
    policy = Policy.model_validate({"flapping_connects": LIMIT, "flapping_ban": BAN, **limits})
    return Flapping(lambda: policy, 0.0)


def test_given_a_client_that_connects_too_often_then_it_is_banned_for_the_time_and_is_told_what_is_left_of_it() -> None:
    flapping = made()
    assert [flapping.connects("main:c1", float(second)) for second in range(LIMIT)] == [0] * LIMIT
    assert flapping.connects("main:c1", 5.0) == 300
    assert flapping.connects("main:c1", 104.5) == 201
    assert flapping.connects("main:c2", 104.5) == 0
    assert flapping.connects("main:c1", 305.0) == 0


def test_given_tries_while_banned_then_the_ban_grows_no_longer() -> None:
    flapping = made()
    waits = [flapping.connects("main:c1", second / 10) for second in range(3_100)]
    assert waits[LIMIT] == 300
    assert waits[LIMIT + 3_000] == 0


def test_given_a_client_that_connects_as_often_as_it_may_in_each_window_then_it_is_never_banned() -> None:
    flapping = made()
    assert not any(flapping.connects("main:c1", minute * 60.0 + second) for minute in range(50) for second in range(LIMIT))


def test_given_a_million_ids_when_they_connect_then_a_window_counts_no_more_than_its_bound_and_the_next_forgets_them() -> None:
    flapping = made()
    for index in range(MAX_SEEN * 2):
        assert flapping.connects(f"main:{index}", 1.0) == 0
    assert len(flapping) == MAX_SEEN
    assert [flapping.connects("main:0", 2.0) for _ in range(LIMIT)] == [0] * (LIMIT - 1) + [300]
    flapping.forget(61.0)
    assert len(flapping) == 1


def test_given_more_clients_that_flap_than_bans_are_kept_then_the_oldest_ban_ends() -> None:
    flapping = made(flapping_connects=1)
    for index in range(MAX_BANNED + 10):
        flapping.connects(f"main:{index}", 1.0)
        assert flapping.connects(f"main:{index}", 1.0) == 300
    assert len(flapping) == MAX_BANNED
    assert flapping.connects("main:0", 2.0) == 0
    assert flapping.connects(f"main:{MAX_BANNED}", 2.0) == 299


def test_given_bans_that_are_over_when_another_begins_then_they_are_forgotten() -> None:
    flapping = made(flapping_connects=1)
    for key in ("main:a", "main:a", "main:b", "main:b"):
        flapping.connects(key, 0.0)
    for _ in range(2):
        flapping.connects("main:c", 400.0)
    assert len(flapping) == 1


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0, 40)), max_size=200))
def test_given_any_connects_then_nobody_is_let_in_more_often_than_twice_the_limit_in_a_minute(
    steps: list[tuple[int, float]],
) -> None:
    flapping, now = made(), 0.0
    let_in: dict[int, list[float]] = {}
    for client, passed in steps:
        now += passed
        if not flapping.connects(f"main:{client}", now):
            let_in.setdefault(client, []).append(now)
    for times in let_in.values():
        assert all(sum(at <= other < at + 60 for other in times) <= 2 * LIMIT for at in times)
