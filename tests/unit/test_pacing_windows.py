"""The pace as a person with a stopwatch sees it: what arrives in any 5 s of a steady broadcast, in simulated time."""

from __future__ import annotations

import random

import pytest

from tests.unit.pacing_world import World, most_in_window, room_of
from workers.broadcast.pace import Pace

WINDOW = 5.0


def worst_error(times: list[float], rate: float) -> float:
    """How far a window from the first arrival to the last is from its due, at most, as a fraction of it."""
    ordered, due = sorted(times), rate * WINDOW
    starts = [ordered[0] + 0.05 * step for step in range(int((ordered[-1] - ordered[0] - WINDOW) / 0.05))]
    return max(abs(sum(start <= when < start + WINDOW for when in ordered) - due) / due for start in starts)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("rooms", [2, 5])
def test_given_500_persons_a_second_for_20_s_when_run_then_each_5_s_are_within_a_twentieth(rooms: int, seed: int) -> None:
    rng = random.Random(seed)
    world = World(Pace(1_000_000, 0.0))
    world.add("j", 500, {f"r{number}": room_of(10_000 // rooms, rng) for number in range(rooms)})
    world.run(60)
    times = world.written["j"]
    assert len(times) == 10_000
    assert worst_error(times, 500) <= 0.05
    assert most_in_window(times, 1.0) <= 550
