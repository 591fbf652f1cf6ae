"""One client's uplinks and pulls: a burst, then the rate, and a bucket only for who uses one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.admission.publish_rate import PublishRate
from infra.documents import Policy


def made(rate: int = 10, burst: int = 20, patience: float = 60.0) -> PublishRate[str]:
    policy = Policy(publish_rate=rate, publish_burst=burst, publish_patience=patience)
    return PublishRate(lambda: policy)


def test_given_a_burst_when_it_is_used_up_then_the_client_pauses_until_there_is_a_token() -> None:
    publishing = made()
    assert [publishing.published("c", 0.0) for _ in range(20)] == [False] * 19 + [True]
    assert publishing.due(0.05) == []
    assert publishing.due(0.11) == ["c"]
    assert publishing.due(0.2) == []
    assert publishing.published("c", 0.11)
    assert not publishing.published("other", 0.11)


def test_given_clients_whose_buckets_are_full_again_when_time_passes_then_there_are_none_left() -> None:
    publishing = made()
    for index in range(1_000):
        publishing.published(f"c{index}", 0.0)
    assert len(publishing) == 1_000
    publishing.due(1.2)
    assert len(publishing) == 0


def test_given_a_client_that_is_gone_then_nothing_is_left_of_it() -> None:
    publishing = made(burst=1)
    publishing.published("c", 0.0)
    publishing.forget("c")
    assert len(publishing) == 0
    assert publishing.due(9.0) == []


def test_given_a_client_that_always_wants_more_then_patience_ends() -> None:
    publishing, now, ended = made(patience=60), 0.0, 0.0
    while not ended and now < 100:
        for _ in range(30):
            if publishing.published("c", now):
                ended = now if publishing.wants_too_much("c", now) else 0.0
                break
        now = round(now + 0.1, 1)
        publishing.due(now)
    assert 60 < ended < 62


def test_given_a_client_with_a_large_burst_now_and_then_then_patience_does_not_end() -> None:
    publishing = made(patience=5)
    for round_ in range(20):
        for _ in range(20):
            publishing.published("c", round_ * 3.0)
        assert not publishing.wants_too_much("c", round_ * 3.0)
        publishing.due(round_ * 3.0 + 1)


@given(st.lists(st.floats(0, 0.5), min_size=1, max_size=200), st.integers(1, 30), st.integers(1, 30))
def test_given_a_client_that_is_read_only_when_it_may_then_it_gets_no_more_than_its_rate_and_one_burst(
    steps: list[float], rate: int, burst: int
) -> None:
    publishing, now, paused = made(rate, burst), 0.0, False
    taken: list[float] = []
    for passed in steps:
        now += passed
        paused = paused and "c" not in publishing.due(now)
        while not paused:
            paused = publishing.published("c", now)
            taken.append(now)
    for first in range(len(taken)):
        for last in range(first, len(taken)):
            assert last - first + 1 <= burst + rate * (taken[last] - taken[first]) + 1 + 1e-6
