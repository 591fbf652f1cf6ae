"""Slices: who gets a broadcast, once, at what pace; and which slices are refused."""

from __future__ import annotations

import asyncio

import pytest

from schemas.codes import SLOTS
from schemas.partition import slot_of
from tests.unit.fanout_room import TERM, Room


def people(room: Room, count: int, **bind: object) -> list[str]:
    keys = [f"main:c{i}" for i in range(count)]
    for key in keys:
        room.join(key, **bind)
    return keys


@pytest.mark.parametrize(
    ("bind", "content", "gets"),
    [
        ({}, {}, True),
        ({"first_bind_ms": 1_000}, {}, True),
        ({"first_bind_ms": 1_001}, {}, False),
        ({"first_bind_ms": 1_001}, {"include_new": True}, True),
        ({"groups": ("a",)}, {"groups": ["a", "b"]}, True),
        ({"groups": ("c",)}, {"groups": ["a", "b"]}, False),
        ({}, {"groups": ["a"]}, False),
        ({"settled": ((2, 7),)}, {}, False),
        ({"settled": ((2, 8),)}, {}, True),
        ({"product": "other"}, {}, False),
    ],
)
@pytest.mark.parametrize("first", ["bind", "announce"])
async def test_given_a_bind_when_the_job_is_walked_then_only_targets_get_it(bind, content, gets, first):
    room = Room()
    if first == "bind":
        room.join("main:c1", **bind)
    room.announce(**content)
    if first == "announce":
        room.join("main:c1", **bind)
    reply = await room.slice()
    assert (reply.status, reply.slot, reply.persons) == ("ok", SLOTS, int(gets))
    assert room.got("main:c1") == ["j1"] * gets
    assert reply.counts.sent == int(gets)


async def test_given_a_group_job_when_written_then_the_topic_is_the_matching_bind_and_expiry_is_what_remains():
    room = Room()
    room.join("main:c1", groups=("b", "z"))
    room.announce(groups=["a", "b"], properties=[("k", "v")], content_type="text/plain")
    room.now += 10.5
    await room.slice()
    ((_, packet),) = room.wires["main:c1"].packets
    assert packet.topic == "push/news/b"
    assert packet.message_expiry_interval == 49
    assert packet.user_properties == [("id", "j1"), ("k", "v")]
    assert packet.packet_id == 0x8000


async def test_given_slices_that_overlap_when_walked_then_everyone_gets_it_once():
    room = Room()
    keys = people(room, 300)
    room.announce()
    first = await room.slice(lo=0, hi=1000)
    again = await room.slice(lo=500, hi=2000)
    below = await room.slice(lo=0, hi=100)
    rest = await room.slice(lo=2000, hi=SLOTS)
    assert all(room.got(key) == ["j1"] for key in keys)
    assert first.persons == sum(slot_of(key) < 1000 for key in keys)
    assert (below.persons, below.slot) == (0, 2000)
    assert first.persons + again.persons + rest.persons == rest.counts.sent == 300


async def test_given_a_repeated_seq_when_sliced_then_the_answer_comes_from_memory():
    room = Room()
    people(room, 50)
    room.announce()
    order = room.order(hi=2000)
    first = await room.fanout.slice(order)
    room.now += 100
    assert await room.fanout.slice(order) == first


async def test_given_orders_that_do_not_hold_when_sliced_then_they_are_refused():
    room = Room()
    keys = people(room, 20)
    room.announce()
    late = room.order(hi=10)
    assert (await room.fanout.slice(room.order("j9"))).status == "unknown"
    assert (await room.slice(term=TERM - 1)).status == "old-term"
    room.now += 3.001
    assert (await room.fanout.slice(late)).status == "stale"
    assert not any(room.got(key) for key in keys)
    outdated = room.order(hi=10)
    assert (await room.slice(hi=0)).status == "ok"
    assert (await room.fanout.slice(outdated)).status == "stale"  # a later one was answered


async def test_given_a_new_owner_when_its_slice_comes_then_the_running_one_of_the_old_owner_ends():
    room = Room()
    keys = people(room, 400)
    room.announce()
    old = asyncio.ensure_future(room.slice(spread_ms=1000))
    await room.until(50.3)
    taken_over = await room.slice(lo=0, hi=0, term=TERM + 1)
    assert 0 < taken_over.counts.sent < 250
    assert (await old).slot == taken_over.slot
    await room.slice(term=TERM + 1)
    assert all(room.got(key) == ["j1"] for key in keys)


async def test_given_a_spread_when_sliced_then_writes_are_even_over_it():
    room = Room()
    people(room, 1000)
    room.announce()
    await room.slice(spread_ms=800)
    times = sorted(when - 50.0 for wire in room.wires.values() for when, _ in wire.packets)
    assert times[-1] <= 0.81
    quarters = [sum(0.2 * i <= when < 0.2 * (i + 1) for when in times) for i in range(4)]
    assert all(200 <= count <= 300 for count in quarters)


async def test_given_many_due_at_once_when_sliced_then_the_loop_gets_a_turn_every_few_hundred_writes():
    room = Room()
    people(room, 2000)
    room.announce()
    await room.slice()
    assert room.sleeps.count(0) >= 8


async def test_given_a_bound_of_persons_when_sliced_then_the_walk_stops_there_and_goes_on_from_there():
    room = Room()
    keys = people(room, 500)
    room.announce()
    persons, slot = [], 0
    while slot < SLOTS:
        reply = await room.slice(most=60)
        persons.append(reply.persons)
        slot = reply.slot
    assert max(persons) <= 63  # the last slot is walked whole
    assert sum(persons) == 500
    assert all(room.got(key) == ["j1"] for key in keys)


async def test_given_a_bound_and_slots_beyond_it_when_sliced_then_the_persons_are_spread_over_its_time():
    room = Room()
    people(room, 1000)
    room.announce()
    assert (await room.slice(spread_ms=800, most=500)).persons >= 500
    times = sorted(when - 50.0 for wire in room.wires.values() for when, _ in wire.packets)
    quarters = [sum(0.2 * i <= when < 0.2 * (i + 1) for when in times) for i in range(4)]
    assert all(110 <= count <= 140 for count in quarters)


async def test_given_fewer_persons_than_the_bound_when_sliced_then_they_go_no_faster_than_it_says():
    room = Room()
    people(room, 250)
    room.announce()
    assert (await room.slice(spread_ms=800, most=500)).persons == 250
    times = sorted(when - 50.0 for wire in room.wires.values() for when, _ in wire.packets)
    assert 0.35 <= times[-1] <= 0.45


async def test_given_a_job_that_expires_when_it_is_being_walked_then_writing_stops():
    room = Room()
    people(room, 1000)
    room.announce(expires_in_ms=500)
    reply = await room.slice(spread_ms=1000)
    assert 400 < reply.persons < 600
    assert (await room.slice(late=100)).persons == 0


async def test_given_a_packet_too_large_for_a_client_when_walked_then_it_is_settled_as_rejected_unwritten():
    room = Room()
    bind = room.bind(room.connect("main:c1", max_packet=20))
    room.announce()
    reply = await room.slice(late=5)
    assert room.got("main:c1") == []
    assert (reply.counts.rejected, reply.counts.waiting) == (1, 0)
    assert [(job.partition, job.offset) for job in room.fanout.settled_jobs(bind)] == [(2, 7)]


async def test_given_a_job_that_is_over_when_asked_what_was_settled_then_it_is_not_told_and_the_others_are():
    room = Room()
    bind = room.bind(room.connect("main:c1"))
    room.announce("j1", offset=7)
    room.announce("j2", offset=8)
    await room.slice("j1")
    await room.slice("j2", lo=0)
    room.ack(bind)
    assert len(room.fanout.settled_jobs(bind)) == 2
    room.end("j1")
    left = room.fanout.settled_jobs(bind)
    assert [job.offset for job in left] == [8]
    room.end("j2")
    assert room.fanout.settled_jobs(bind) == []
