"""The frequency cap: so many broadcasts of a product for a client in a while, over connections and rooms."""

from __future__ import annotations

import pytest

from infra.wire import Cap, SettledJob
from schemas.codes import SLOTS
from tests.unit.fanout_room import Room

TWO_A_MINUTE = Cap(2, 60)


async def run(room: Room, name: str, offset: int, **content: object) -> tuple[int, int]:
    """Announce, walk; returns (persons, capped)."""
    room.announce(name, offset=offset, **{"cap": TWO_A_MINUTE, "expires_in_ms": 10_000_000, **content})
    reply = await room.slice(name)
    return reply.persons, reply.counts.capped


async def test_given_a_cap_when_more_broadcasts_come_then_the_client_is_left_out_until_its_time_has_passed():
    room = Room()
    bind = room.join("main:c1")
    assert await run(room, "j1", 1) == (1, 0)
    room.wall += 30
    assert await run(room, "j2", 2) == (1, 0)
    assert await run(room, "j3", 3) == (0, 1)
    room.wall += 31
    assert await run(room, "j4", 4) == (1, 0)  # the first one counts no more
    assert await run(room, "j5", 5) == (0, 1)
    assert bind.settled == 0
    assert room.got("main:c1") == ["j1", "j2", "j4"]


async def test_given_who_was_left_out_when_it_is_looked_at_again_then_it_counts_once_and_gets_it_when_the_cap_allows():
    room = Room()
    bind = room.join("main:c1")
    await run(room, "j1", 1)
    await run(room, "j2", 2)
    await run(room, "j3", 3)
    room.fanout.regrouped(bind)
    counts = (await room.slice("j3", late=5)).counts
    assert (counts.capped, counts.waiting, counts.sent) == (1, 0, 0)
    room.wall += 61
    room.fanout.regrouped(bind)
    assert (await room.slice("j3", late=5)).persons == 1


async def test_given_no_cap_when_written_then_nothing_is_kept_for_it():
    room = Room()
    bind = room.join("main:c1")
    assert await run(room, "j1", 1, cap=None) == (1, 0)
    assert bind.recent is None


async def test_given_another_product_when_written_then_it_has_a_cap_of_its_own():
    room = Room()
    client = room.connect("main:c1")
    room.bind(client)
    room.bind(client, product="other")
    await run(room, "j1", 1, cap=Cap(1, 60))
    assert await run(room, "j2", 2, product="other", cap=Cap(1, 60)) == (1, 0)


async def test_given_a_client_that_moves_when_another_room_has_what_the_register_kept_then_the_cap_holds_there():
    one, other = Room(), Room()
    bind = one.join("main:c1")
    await run(one, "j1", 1)
    one.wall += 10
    await run(one, "j2", 2)
    kept = one.fanout.settled_jobs(bind, all=True)
    assert kept == [
        SettledJob("news", 2, 1, 0, 1_800_000_000, 50),
        SettledJob("news", 2, 2, 0, 1_800_000_010, 60),
    ]
    other.wall = one.wall
    other.join("main:c1", recent=tuple((job.partition, job.offset, job.sent_s) for job in kept))
    assert await run(other, "j3", 3) == (0, 1)
    assert await run(other, "j2", 2) == (1, 0)  # unacknowledged there: it comes again, as the same one
    other.wall += 51
    assert await run(other, "j4", 4) == (1, 0)


async def test_given_what_counts_when_saved_then_only_what_is_new_is_told_and_settles_nothing():
    room = Room()
    bind = room.join("main:c1")
    await run(room, "j1", 1)
    first = room.fanout.settled_jobs(bind)
    assert [(job.offset, job.remember_s, job.sent_s > 0) for job in first] == [(1, 0, True)]
    room.fanout.puback(bind.client, 0x8000, 0)  # while the sync is under way
    room.fanout.saved(bind, first)
    assert [(job.offset, job.sent_s) for job in room.fanout.settled_jobs(bind)] == [(1, 0)]
    assert [job.sent_s > 0 for job in room.fanout.settled_jobs(bind, all=True)] == [False, True]
    room.wall += 61
    assert [job.sent_s for job in room.fanout.settled_jobs(bind, all=True)] == [0]


async def test_given_a_reused_place_when_a_client_was_left_out_there_then_the_next_job_counts_anew():
    room = Room()
    room.join("main:c1")
    await run(room, "first", 1, cap=Cap(1, 100_000))
    for i in range(2, 200):
        assert await run(room, f"j{i}", i, cap=Cap(1, 100_000)) == (0, 1)
        room.end(f"j{i}")


@pytest.mark.parametrize("cap", [Cap(0, 60), Cap(-1, 60), Cap(101, 60), Cap(1, 0)])
async def test_given_a_cap_out_of_bounds_when_announced_then_it_is_refused(cap):
    room = Room()
    assert room.announce(cap=cap) == "refused"
    assert (await room.slice(hi=SLOTS)).status == "unknown"


async def test_given_the_largest_cap_when_met_then_memory_is_bounded():
    room = Room()
    bind = room.join("main:c1", qos=0)
    for i in range(105):
        persons, _ = await run(room, f"j{i}", i, cap=Cap(100, 10_000))
        assert persons == (i < 100)
        room.fanout.drained(bind.client)
        room.end(f"j{i}")
    assert len(bind.recent._at) == 100
