"""Times from a write to its PUBACK, and what is too large for a client."""

from __future__ import annotations

import asyncio
from bisect import bisect_left

import pytest

from gateway.client import BindState
from infra.wire import ACK_BOUNDS_MS, Counts
from schemas.codes import SLOTS
from tests.unit.fanout_room import Room

BUCKETS = len(ACK_BOUNDS_MS) + 1


def ack(room: Room, bind: BindState, reason: int = 0) -> None:
    room.fanout.puback(bind.client, 0x8000, reason)


def bucket(seconds: float) -> list[int]:
    counts = [0] * BUCKETS
    counts[bisect_left(ACK_BOUNDS_MS, seconds * 1000)] = 1
    return counts


async def counts_of(room: Room) -> Counts:
    return (await room.slice(lo=SLOTS)).counts


@pytest.mark.parametrize("seconds", [0.0, 0.049, 0.051, 0.4, 9.0, 3_599.0, 4_000.0])
@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("reason", [0, 0x97])
async def test_given_a_client_when_it_answers_then_its_time_is_in_one_bucket(seconds, late, reason):
    room = Room()
    if not late:
        bind = room.join("main:c1")
    room.announce(expires_in_ms=10_000_000)
    await room.slice()
    if late:
        room.now += 100
        bind = room.join("main:c1")
        await room.slice(late=1)
    room.now += seconds
    ack(room, bind, reason)
    ack(room, bind, reason)  # a second one is none
    assert (await counts_of(room)).ack_times == bucket(seconds)


async def test_given_a_spread_walk_when_each_answers_after_its_write_then_times_are_from_its_own_write():
    room = Room()
    binds = [room.join(f"main:c{i}") for i in range(1_000)]
    room.announce()
    await room.slice(hi=2_000, spread_ms=1_000)
    room.now += 30
    await room.slice(spread_ms=1_000)
    for bind in sorted(binds, key=lambda bind: room.wires[bind.client.key].packets[0][0]):
        room.now = room.wires[bind.client.key].packets[0][0] + 0.15
        ack(room, bind)
    counts = await counts_of(room)
    assert counts.ack_times[ACK_BOUNDS_MS.index(200)] == counts.acked == 1_000


async def test_given_a_late_joiner_that_left_unanswered_when_it_is_back_and_answers_then_the_new_write_counts():
    room = Room()
    room.announce(slot=SLOTS)
    bind = room.join("main:c1")
    await room.slice(late=1)
    room.leave(bind)
    room.now += 20
    bind = room.join("main:c1")
    await room.slice(late=1)
    room.now += 0.3
    ack(room, bind)
    assert (await counts_of(room)).ack_times == bucket(0.3)


async def test_given_a_client_that_blinked_when_it_answers_then_the_time_is_from_the_first_write():
    room = Room()
    room.announce(slot=SLOTS)
    bind = room.join("main:c1")
    await room.slice(late=1)
    room.fanout.fence(bind, away=True)
    room.now += 3
    assert len(room.fanout.again(bind, 10)) == 1
    room.fanout.unfence(bind)
    ack(room, bind)
    assert (await counts_of(room)).ack_times == bucket(3.0)


async def test_given_qos_0_when_written_then_nothing_is_timed_or_kept():
    room = Room()
    bind = room.join("main:c1", qos=0)
    room.announce(slot=SLOTS)
    await room.slice(late=1)
    room.fanout.drained(bind.client)
    counts = await counts_of(room)
    assert (counts.written, sum(counts.ack_times)) == (1, 0)
    assert not room.fanout._jobs.by_id["j1"].times._late


async def test_given_late_joiners_when_they_leave_or_the_job_ends_then_nothing_is_kept_of_them():
    room = Room()
    room.announce(slot=SLOTS)
    binds = [room.join(f"main:c{i}") for i in range(10)]
    await room.slice(late=10)
    times = room.fanout._jobs.by_id["j1"].times
    assert len(times._late) == 10
    for bind in binds[:5]:
        room.leave(bind)
    assert len(times._late) == 5
    room.end()
    assert not times._late


async def test_given_a_packet_too_large_for_some_when_walked_then_it_is_counted_as_rejected_and_too_large():
    room = Room()
    for i in range(6):
        room.bind(room.connect(f"main:c{i}", max_packet=20 if i % 3 else 1 << 20))
    room.announce()
    counts = (await room.slice()).counts
    assert (counts.sent, counts.rejected, counts.too_large) == (2, 4, 4)


def test_given_many_chunks_when_marked_then_marks_are_bounded_by_slots():
    async def run() -> int:
        room = Room()
        for i in range(20_000):
            room.join(f"main:c{i}", qos=0)
        room.announce()
        for hi in range(8, SLOTS + 1, 8):
            await room.slice(hi=hi)
        return len(room.fanout._jobs.by_id["j1"].times._ends)

    assert asyncio.run(run()) <= SLOTS
