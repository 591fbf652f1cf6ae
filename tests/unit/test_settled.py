"""The settled ids of a fold: the same answers as a set of them gives, in ten bytes each."""

from __future__ import annotations

import tracemalloc

from hypothesis import given, settings
from hypothesis import strategies as st

from workers.saver.settled import Settled

IDS = st.tuples(st.sampled_from(["main:a", "main:b"]), st.sampled_from(["p", "q"]), st.text("abc", max_size=4))


@settings(max_examples=50, deadline=None)
@given(st.lists(IDS), st.lists(IDS))
def test_given_ids_that_were_added_when_asked_then_exactly_those_are_known(
    added: list[tuple[str, str, str]], asked: list[tuple[str, str, str]]
) -> None:
    settled = Settled()
    for each in added:
        settled.add(*each)
    settled.seal()
    assert [settled.has(*each) for each in [*added, *asked]] == [each in set(added) for each in [*added, *asked]]


def test_given_many_ids_then_each_takes_about_ten_bytes() -> None:
    count = 200_000
    tracemalloc.start()
    settled = Settled()
    empty = tracemalloc.get_traced_memory()[0]
    for number in range(count):
        settled.add("main:device", "demo", str(number))
    settled.seal()
    used = tracemalloc.get_traced_memory()[0] - empty
    tracemalloc.stop()
    assert used / count < 12
    assert settled.has("main:device", "demo", "77")
    assert not settled.has("main:device", "demo", str(count))
