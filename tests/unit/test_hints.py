"""Hints: bounds in number and bytes, and rooms that are dead."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from prometheus_client import REGISTRY

from infra.bus import BusTimeout
from infra.register import SessionView
from infra.wire import Downlink, Hint, HintResult, Reply, Request
from workers.delivery import hints as module
from workers.delivery.hints import HintSender

HERE = SessionView(1, 1, "r1", 5, 1)


class Rooms:
    """`infra.bus.Bus` as far as hints need it: rooms that answer, or (`stalled`) do not."""

    def __init__(self) -> None:
        self.stalled = asyncio.Event()
        self.came: list[str] = []
        self.brief = False
        self.error = ""
        self._decode = msgspec.msgpack.Decoder(Request[Hint]).decode

    async def request(self, subject: str, payload: bytes, *, timeout: float) -> bytes:
        if self.stalled.is_set():
            await asyncio.sleep(timeout)
            raise BusTimeout(subject)
        request = self._decode(payload)
        self.came += [hint.message.id for hint in request.items]
        if self.error:
            return msgspec.msgpack.encode(Reply[HintResult](request.seq, [], self.error))
        if self.brief and request.brief:
            return msgspec.msgpack.encode(Reply[HintResult](request.seq, []))
        return msgspec.msgpack.encode(Reply(request.seq, [HintResult("written") for _ in request.items]))


def hint(number: int, size: int = 1) -> Hint:
    return Hint("main:c1", 1, "demo", Downlink(f"m{number}", number, b"x" * size))


def counted(outcome: str) -> float:
    return REGISTRY.get_sample_value("longwire_hints_total", {"outcome": outcome}) or 0.0


def sender(rooms: Rooms, dead: set[tuple[str, int]]) -> HintSender:
    return HintSender(rooms, instance="d1", dead=lambda room, epoch: (room, epoch) in dead)  # type: ignore[arg-type]


async def test_given_a_room_that_stalls_when_large_hints_come_then_its_queue_is_bounded_in_bytes_and_the_rest_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "QUEUE_BYTES", 100_000)
    rooms = Rooms()
    hints, before = sender(rooms, set()), counted("overflow")
    for number in range(20):
        hints.add(HERE, hint(number, size=9_000))
    assert counted("overflow") - before == 10  # each has about 9,500 bytes
    hints.flush()
    await asyncio.sleep(0.05)
    assert len(rooms.came) == 10
    hints.add(HERE, hint(99, size=9_000))  # what has left makes room
    hints.flush()
    await asyncio.sleep(0.05)
    assert rooms.came[-1] == "m99"
    await hints.stop()


async def test_given_many_rooms_that_stall_then_all_queues_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TOTAL_BYTES", 50_000)
    rooms = Rooms()
    hints, before = sender(rooms, set()), counted("overflow")
    rooms.stalled.set()
    for number in range(10):
        hints.add(SessionView(1, 1, f"r{number}", 5, 1), hint(number, size=9_000))
    assert counted("overflow") - before == 5
    await hints.stop()


async def test_given_a_room_whose_lease_is_dead_then_it_gets_no_hint_and_its_next_boot_does() -> None:
    rooms = Rooms()
    hints, before = sender(rooms, {("r1", 5)}), counted("dead room")
    hints.add(HERE, hint(1))
    hints.add(SessionView(1, 2, "r1", 6, 1), hint(2))
    hints.flush()
    await asyncio.sleep(0.05)
    assert rooms.came == ["m2"]
    assert counted("dead room") - before == 1
    await hints.stop()


@pytest.mark.parametrize("brief", [False, True])
async def test_given_a_room_that_says_written_of_each_or_of_all_at_once_then_as_many_are_counted(brief: bool) -> None:
    rooms = Rooms()
    rooms.brief = brief
    hints, before, tried = sender(rooms, set()), counted("written"), counted("let go")
    for number in range(7):
        hints.add(HERE, hint(number))
    hints.flush()
    await asyncio.sleep(0.05)
    assert (counted("written") - before, counted("let go") - tried) == (7, 0)
    assert len(rooms.came) == 7
    await hints.stop()


async def test_given_a_room_that_can_handle_no_batch_then_it_is_tried_again_and_let_go_and_nothing_counts_as_written() -> None:
    rooms = Rooms()
    rooms.error = "not now"
    hints, before = sender(rooms, set()), (counted("written"), counted("let go"))
    hints.add(HERE, hint(1))
    hints.flush()
    await asyncio.sleep(0.01)
    assert rooms.came == ["m1"] * module.TRIES
    assert (counted("written") - before[0], counted("let go") - before[1]) == (0, 1)
