"""Which rooms live: silence counts only while this process could hear."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from infra import rooms as module
from infra.rooms import Rooms
from infra.wire import Lease


class Bus:
    """`infra.bus.Bus` as far as silence needs it."""

    connected = True
    on_reconnect: list[Any]

    def __init__(self) -> None:
        self.on_reconnect = []


class Clock:
    now = 1_000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def listening(clock: Clock) -> Rooms:
    return Rooms(Bus(), dead_after=lambda: 10.0)  # type: ignore[arg-type]


def lease(rooms: Rooms, epoch: int = 5) -> None:
    rooms._take_lease(msgspec.msgpack.encode(Lease("r1", epoch, 0, "open", 1, {})))


def run(rooms: Rooms, clock: Clock, seconds: int) -> None:
    for _ in range(seconds):
        clock.now += 1
        rooms._tick()


def test_given_a_room_that_fell_silent_then_it_is_dead_after_its_time(clock: Clock) -> None:
    rooms = listening(clock)
    lease(rooms)
    run(rooms, clock, 9)
    assert not rooms.dead("r1", 5)
    run(rooms, clock, 1)
    assert rooms.dead("r1", 5)
    lease(rooms, epoch=6)
    assert not rooms.dead("r1", 6)
    assert rooms.dead("r1", 5)


def test_given_we_stood_still_when_asked_before_a_lease_was_read_then_nobody_is_dead(clock: Clock) -> None:
    rooms = listening(clock)
    lease(rooms)
    run(rooms, clock, 1)
    clock.now += 50  # SIGSTOP
    assert rooms.silent_for("r1", 5) == 0
    assert not rooms.silent(10.0)
    run(rooms, clock, 10)
    assert rooms.dead("r1", 5)
