"""Late joiners, windows, PUBACKs, and the masks of settled jobs."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.wire import SettledJob
from schemas.codes import PLACES, SLOTS
from tests.unit.fanout_room import TERM, Room


async def test_given_a_walked_job_when_clients_come_then_they_wait_for_grants_and_get_no_more_than_granted():
    room = Room()
    room.announce()
    await room.slice()
    for i in range(10):
        room.join(f"main:c{i}")
    assert (await room.slice(lo=SLOTS)).counts.waiting == 10
    reply = await room.slice(lo=SLOTS, late=4)
    assert (reply.persons, reply.counts.waiting) == (4, 6)
    reply = await room.slice(lo=SLOTS, late=100)
    assert (reply.persons, reply.counts.waiting, reply.counts.sent) == (6, 0, 10)


async def test_given_a_grant_with_a_spread_when_drawn_then_it_is_spread():
    room = Room()
    room.announce(slot=SLOTS)
    for i in range(100):
        room.join(f"main:c{i}")
    began = room.now
    await room.slice(lo=SLOTS, late=100, spread_ms=1000)
    times = sorted(when for wire in room.wires.values() for when, _ in wire.packets)
    assert times[-1] - began > 0.9
    assert 40 <= sum(when - began < 0.5 for when in times) <= 60


async def test_given_nobody_waits_when_granted_then_the_answer_comes_at_once():
    room = Room()
    room.announce(slot=SLOTS)
    began = room.now
    await room.slice(lo=SLOTS, late=100, spread_ms=1000)
    assert room.now == began


async def test_given_clients_here_when_a_job_comes_that_was_walked_elsewhere_then_all_are_late():
    room = Room()
    for i in range(50):
        room.join(f"main:c{i}")
    room.announce(slot=SLOTS)
    assert (await room.slice(lo=SLOTS)).counts.waiting == 50
    assert (await room.slice(lo=SLOTS, late=50)).persons == 50


async def test_given_a_walked_group_job_when_a_client_joins_or_leaves_the_group_then_it_waits_or_not():
    room = Room()
    bind = room.join("main:c1")
    room.announce(groups=["a"])
    assert (await room.slice()).counts.skipped == 1
    bind.groups = frozenset({"a"})
    room.fanout.regrouped(bind)
    assert (await room.slice()).counts.waiting == 1
    bind.groups = frozenset()
    room.fanout.regrouped(bind)
    assert (await room.slice(late=1)).persons == 0
    bind.groups = frozenset({"a"})
    room.fanout.regrouped(bind)
    assert (await room.slice(late=1)).persons == 1
    room.fanout.regrouped(bind)
    assert (await room.slice(late=1)).persons == 0


@pytest.mark.parametrize(("receive_max", "at_once"), [(1, 1), (2, 1), (4, 2), (32, 16)])
async def test_given_many_jobs_when_walked_then_broadcasts_take_half_of_the_window(receive_max, at_once):
    room = Room()
    bind = room.bind(room.connect("main:c1", receive_max=receive_max))
    for i in range(20):
        room.announce(f"j{i}", offset=i)
        await room.slice(f"j{i}")
    assert len(room.got("main:c1")) == at_once
    assert bind.client.broadcasts_inflight == at_once


async def test_given_a_full_window_when_a_place_is_freed_then_the_job_is_written_within_a_grant_only():
    room = Room()
    bind = room.bind(room.connect("main:c1", receive_max=1))
    for name, offset in (("j1", 1), ("j2", 2)):
        room.announce(name, offset=offset)
        reply = await room.slice(name)
    assert reply.counts.waiting == 1
    assert (await room.slice("j2", late=1)).persons == 0  # granted, and no place
    room.ack(bind)
    assert room.got("main:c1") == ["j1"]  # a place, and no grant
    assert (await room.slice("j2", late=1)).persons == 1
    assert room.got("main:c1") == ["j1", "j2"]


async def test_given_a_grant_that_runs_when_a_place_is_freed_meanwhile_then_the_job_is_written():
    room = Room()
    bind = room.bind(room.connect("main:c1", receive_max=1))
    for name, offset in (("j1", 1), ("j2", 2)):
        room.announce(name, offset=offset)
        await room.slice(name)
    running = asyncio.ensure_future(room.slice("j2", late=1, spread_ms=1000))
    await room.until(50.4)
    room.ack(bind)
    assert (await running).persons == 1


async def test_given_unicast_in_the_whole_window_when_it_is_settled_then_place_free_lets_the_broadcast_go_on():
    room = Room()
    bind = room.bind(room.connect("main:c1", receive_max=1))
    bind.client.inflight = {1: object()}
    room.announce()
    assert (await room.slice()).counts.waiting == 1
    bind.client.inflight = None
    room.fanout.place_free(bind.client)
    assert (await room.slice(late=1)).persons == 1


async def test_given_pubacks_when_they_come_then_the_job_is_settled_once_and_foreign_ones_change_nothing():
    room = Room()
    one, two = room.join("main:c1"), room.join("main:c2")
    room.announce()
    await room.slice()
    for packet_id in (0x8000, 0x8000, 0x8001, 0xFFFF):
        room.fanout.puback(one.client, packet_id, 0)
    room.fanout.puback(two.client, 0x8000, 0x97)
    counts = (await room.slice()).counts
    assert (counts.sent, counts.acked, counts.rejected) == (2, 1, 1)
    assert (one.client.broadcasts_inflight, two.client.broadcasts_inflight) == (0, 0)


async def test_given_a_puback_after_unsubscribe_when_it_comes_then_the_window_place_is_free_again():
    room = Room()
    bind = room.join("main:c1")
    room.announce()
    await room.slice()
    room.leave(bind)
    assert bind.client.broadcasts_inflight == 1
    room.fanout.puback(bind.client, 0x8000, 0)
    assert bind.client.broadcasts_inflight == 0


async def test_given_two_unacknowledged_after_unsubscribe_when_one_is_acknowledged_then_one_place_is_free():
    room = Room()
    bind = room.join("main:c1")
    for number, job in enumerate(("j1", "j2")):
        room.announce(job, offset=number)
        await room.slice(job)
    room.leave(bind)
    room.fanout.puback(bind.client, 0x8001, 0)
    assert bind.client.broadcasts_inflight == 1  # MQTT 5 §3.3.4: the other counts until its PUBACK
    room.fanout.puback(bind.client, 0x8000, 0)
    assert bind.client.broadcasts_inflight == 0


async def test_given_a_qos_0_bind_when_the_buffer_has_drained_then_the_job_is_settled_as_written():
    room = Room()
    bind = room.join("main:c1", qos=0)
    room.announce()
    await room.slice()
    assert room.watched == [bind.client]
    assert room.fanout.settled_jobs(bind) == []
    room.fanout.drained(bind.client)
    room.fanout.drained(bind.client)
    counts = (await room.slice()).counts
    assert (counts.sent, counts.written, bind.client.broadcasts_inflight) == (1, 1, 0)
    assert room.fanout.settled_jobs(bind) == [SettledJob("news", 2, 7, 60)]


async def test_given_a_client_that_left_unacknowledged_when_it_returns_then_it_comes_again_as_a_repeat():
    room = Room()
    bind = room.join("main:c1")
    room.announce()
    await room.slice()
    assert room.fanout.settled_jobs(bind, all=True) == []
    room.leave(bind)
    bind = room.join("main:c1")
    counts = (await room.slice(late=1)).counts
    assert room.got("main:c1") == ["j1", "j1"]
    assert (counts.sent, counts.repeated) == (1, 1)
    room.fanout.puback(bind.client, 0x8000, 0)
    jobs = room.fanout.settled_jobs(bind, all=True)
    room.leave(bind)
    room.join("main:c1", settled=tuple((job.partition, job.offset) for job in jobs))
    assert (await room.slice(late=1)).persons == 0


async def test_given_settled_jobs_when_saved_then_only_new_ones_are_told_unless_all_are_asked_for():
    room = Room()
    bind = room.join("main:c1")
    for name, offset in (("j1", 1), ("j2", 2)):
        room.announce(name, offset=offset)
        await room.slice(name)
    room.fanout.puback(bind.client, 0x8000, 0)
    first = room.fanout.settled_jobs(bind)
    room.fanout.puback(bind.client, 0x8001, 0)
    room.fanout.saved(bind, first)
    assert [job.offset for job in room.fanout.settled_jobs(bind)] == [2]
    assert [job.offset for job in room.fanout.settled_jobs(bind, all=True)] == [1, 2]
    room.end("j2")
    assert room.fanout.settled_jobs(bind) == []


async def test_given_more_jobs_over_time_than_places_when_each_ends_then_nobody_misses_one():
    room = Room()
    binds = [room.join(f"main:c{i}") for i in range(5)]
    for i in range(3 * PLACES):
        assert room.announce(f"j{i}", offset=i) == "ok"
        assert (await room.slice(f"j{i}")).persons == 5
        for bind in binds:
            room.fanout.puback(bind.client, 0x8000 + i, 0)
        assert room.end(f"j{i}") == "ok"
    assert all(len(set(room.got(bind.client.key))) == 3 * PLACES for bind in binds)


async def test_given_all_places_taken_when_one_more_is_announced_then_it_is_refused_until_one_is_over():
    room = Room()
    for i in range(PLACES):
        assert room.announce(f"j{i}", offset=i) == "ok"
    assert room.announce("more") == "full"
    assert room.announce("elsewhere", product="other") == "ok"
    room.end("j3")
    assert room.announce("more") == "ok"
    room.now += 61
    assert room.announce("later") == "ok"  # the others have expired


async def test_given_announcements_when_repeated_or_old_or_expired_then_they_say_so():
    room = Room()
    assert room.announce(expires_in_ms=0) == "gone"
    assert room.announce() == "ok"
    await room.slice(hi=100)
    assert room.announce(slot=SLOTS) == "ok"
    assert (await room.slice(hi=0)).slot == 100  # what the room knows stays
    assert room.announce(term=TERM - 1) == "old-term"
    assert room.end(term=TERM - 1) == "old-term"
    assert room.end() == "ok"
    assert room.end() == "gone"
    assert (await room.slice()).status == "unknown"


async def test_given_an_ack_under_way_when_the_job_ends_then_its_place_in_the_window_is_freed():
    room = Room()
    bind = room.join("main:c1")
    room.announce()
    await room.slice()
    room.end()
    room.fanout.puback(bind.client, 0x8000, 0)
    assert bind.client.broadcasts_inflight == 0


async def test_given_binds_when_they_come_and_go_then_the_lease_counts_them():
    room = Room()
    binds = [room.join(f"main:c{i}") for i in range(3)]
    room.join("main:c1", product="other")
    assert room.fanout.bound_counts() == {"news": 3, "other": 1}
    for bind in binds:
        room.leave(bind)
        room.fanout.unbound(bind)
    assert room.fanout.bound_counts() == {"other": 1}


ACTIONS = st.lists(
    st.tuples(st.sampled_from(["join", "leave", "slice", "late", "ack", "regroup"]), st.integers(0, 7)), max_size=60
)


@given(ACTIONS)
@settings(max_examples=150, deadline=None)
def test_given_any_history_when_a_client_stays_connected_then_it_gets_the_job_once_and_in_the_end_everyone_has_it(actions):
    asyncio.run(_history(actions))


async def _history(actions: list[tuple[str, int]]) -> None:
    room = Room()
    room.announce(groups=["a"])
    here: dict[int, object] = {}
    per_connection: dict[int, int] = {}
    hi = 0
    for action, i in actions:
        bind = here.get(i)
        if action == "join" and bind is None:
            here[i] = room.join(f"main:c{i}", groups=("a",) if i % 2 else ())
            per_connection[i] = len(room.got(f"main:c{i}"))
        elif action == "leave" and bind is not None:
            room.leave(here.pop(i))
        elif action == "slice":
            hi = min(SLOTS, hi + 600)
            await room.slice(hi=hi, late=i)
        elif action == "late":
            await room.slice(hi=hi, late=i)
        elif action == "ack" and bind is not None:
            room.fanout.puback(bind.client, 0x8000, 0)
        elif action == "regroup" and bind is not None:
            bind.groups = frozenset() if bind.groups else frozenset({"a"})
            room.fanout.regrouped(bind)
        for key in here:
            assert len(room.got(f"main:c{key}")) - per_connection[key] <= 1
    reply = await room.slice(late=100)
    assert reply.counts.waiting == 0
    assert all(room.got(bind.client.key) for bind in here.values() if bind.groups)
    writes = sum(len(wire.packets) for wire in room.wires.values())
    assert reply.counts.sent + reply.counts.repeated == writes
