"""The wheel: nothing early, nothing more than a tick late, nothing twice."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.wheel import IDLE, NEVER, RESOLUTION, Wheel


class Alarm:
    def __init__(self, due: float = NEVER) -> None:
        self.due_tick = IDLE
        self.due = due
        self.rang: list[float] = []
        self.checks = 0

    def check(self, now: float) -> float:
        self.checks += 1
        if now >= self.due:
            self.rang.append(now)
            self.due = NEVER
        return self.due


def run(wheel: Wheel, until: float, start: float = 0.0) -> None:
    for i in range(int((until - start) / RESOLUTION) + 2):
        wheel.advance(start + i * RESOLUTION)


def test_given_an_alarm_when_it_moved_later_then_it_rings_once_at_its_new_time() -> None:
    wheel, alarm = Wheel(0.0), Alarm(1.0)
    wheel.at(alarm, alarm.due)
    alarm.due = 2.0
    run(wheel, 3.0)
    assert len(alarm.rang) == 1
    assert 2.0 <= alarm.rang[0] <= 2.0 + 2 * RESOLUTION


def test_given_an_alarm_when_it_moved_earlier_then_the_old_place_is_skipped() -> None:
    wheel, alarm = Wheel(0.0), Alarm(2.0)
    wheel.at(alarm, 2.0)
    alarm.due = 0.5
    wheel.at(alarm, 0.5)
    run(wheel, 3.0)
    assert alarm.checks == 1
    assert 0.5 <= alarm.rang[0] <= 0.5 + 2 * RESOLUTION


def test_given_never_when_scheduled_then_nothing_is_kept() -> None:
    wheel, alarm = Wheel(0.0), Alarm()
    wheel.at(alarm, NEVER)
    run(wheel, 2.0)
    assert alarm.checks == 0


def test_given_a_stalled_loop_when_time_jumps_then_all_that_is_due_rings() -> None:
    wheel = Wheel(0.0)
    alarms = [Alarm(i / 10) for i in range(1, 50)]
    for alarm in alarms:
        wheel.at(alarm, alarm.due)
    wheel.advance(100.0)
    assert all(alarm.rang == [100.0] for alarm in alarms)


@given(st.lists(st.floats(0.01, 20.0), min_size=1, max_size=20))
def test_given_any_times_when_turned_then_each_rings_in_its_time(times: list[float]) -> None:
    wheel = Wheel(0.0)
    alarms = [Alarm(time) for time in times]
    for alarm in alarms:
        wheel.at(alarm, alarm.due)
    run(wheel, 21.0)
    for alarm, time in zip(alarms, times, strict=True):
        assert len(alarm.rang) == 1
        assert time <= alarm.rang[0] <= time + 2 * RESOLUTION
