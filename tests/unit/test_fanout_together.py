"""Broadcasts whose slices pass the same slots in the same turn: one write a connection, and counts as if each went alone."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.wire import Cap, PauseJob, SliceReply
from schemas.codes import SLOTS
from tests.unit.fanout_room import TERM, Room

JOBS = [f"j{number}" for number in range(16)]


def announced(room: Room, jobs: list[str], **content: object) -> None:
    for offset, job in enumerate(jobs):
        assert room.announce(job, offset=offset, **content) == "ok"


async def slices(room: Room, jobs: list[str], **more: int) -> list[SliceReply]:
    return list(await asyncio.gather(*(room.slice(job, **more) for job in jobs)))


@pytest.mark.parametrize("qos", [0, 1])
async def test_given_a_burst_of_sixteen_then_each_connection_has_one_write_and_all_of_them_once(qos: int) -> None:
    room = Room()
    keys = [f"main:c{number}" for number in range(500)]
    for key in keys:
        room.join(key, qos=qos)
    announced(room, JOBS)
    replies = await slices(room, JOBS)
    assert all((reply.status, reply.slot, reply.persons) == ("ok", SLOTS, 500) for reply in replies)
    assert all(reply.counts.sent == 500 for reply in replies)
    for key in keys:
        assert sorted(room.wires[key].ids()) == sorted(JOBS)
        assert room.wires[key].writes == 1


async def test_given_a_burst_beyond_half_of_the_window_then_the_rest_waits() -> None:
    room = Room()
    bind = room.bind(room.connect("main:c1", receive_max=8))
    announced(room, JOBS)
    replies = await slices(room, JOBS)
    assert sum(reply.persons for reply in replies) == 4
    assert sum(reply.counts.waiting for reply in replies) == 12
    assert bind.client.broadcasts_inflight == 4


async def test_given_a_client_for_which_one_of_two_is_too_large_then_it_gets_the_other() -> None:
    room = Room()
    room.bind(room.connect("main:c1", max_packet=200))
    room.join("main:c2")
    room.announce("small", offset=1)
    room.announce("large", offset=2, payload=b"x" * 300)
    small, large = await slices(room, ["small", "large"])
    assert (room.got("main:c1"), sorted(room.got("main:c2"))) == (["small"], ["large", "small"])
    assert (small.counts.sent, large.counts.sent, large.counts.too_large) == (2, 1, 1)


async def test_given_one_that_comes_back_with_some_of_them_settled_then_it_gets_the_others() -> None:
    room = Room()
    room.join("main:c1", settled=((2, 0), (2, 3)))
    room.join("main:c2")
    announced(room, JOBS[:4])
    replies = await slices(room, JOBS[:4])
    assert sorted(room.got("main:c1")) == ["j1", "j2"]
    assert [reply.counts.skipped for reply in replies] == [1, 0, 0, 1]
    await asyncio.gather(*(room.slice(job, lo=0) for job in JOBS[:4]))
    assert sorted(room.got("main:c1")) == ["j1", "j2"]


async def test_given_a_leader_that_is_through_first_then_the_others_go_on() -> None:
    room = Room()
    for number in range(3_000):
        room.join(f"main:c{number}", qos=0)
    announced(room, JOBS[:3])
    first = asyncio.ensure_future(room.slice("j0", hi=SLOTS // 4))
    replies = await asyncio.gather(first, room.slice("j1"), room.slice("j2", hi=SLOTS // 2))
    assert [reply.slot for reply in replies] == [SLOTS // 4, SLOTS, SLOTS // 2]
    assert replies[1].persons == 3_000
    assert replies[0].persons < replies[2].persons < 3_000


async def test_given_a_leader_that_is_cancelled_then_the_others_go_on() -> None:
    room = Room()
    for number in range(3_000):
        room.join(f"main:c{number}", qos=0)
    announced(room, JOBS[:3])
    tasks = [asyncio.ensure_future(room.slice(job)) for job in JOBS[:3]]
    while not room.wires["main:c0"].writes and not room.sleeps:  # noqa: ASYNC110 - a turn of the loop at a time
        await asyncio.sleep(0)
    tasks[0].cancel()
    await asyncio.sleep(0)
    tasks[1].cancel()
    replies = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(reply) for reply in replies] == [asyncio.CancelledError, asyncio.CancelledError, SliceReply]
    assert replies[2].persons == 3_000  # type: ignore[union-attr]
    assert (await room.slice("j0")).slot == SLOTS


async def test_given_a_pause_of_one_while_they_are_walked_then_only_that_one_stops() -> None:
    room = Room()
    for number in range(3_000):
        room.join(f"main:c{number}", qos=0)
    announced(room, JOBS[:2])
    tasks = [asyncio.ensure_future(room.slice(job)) for job in JOBS[:2]]
    while len(room.sleeps) < 4:  # noqa: ASYNC110 - a turn of the loop at a time
        await asyncio.sleep(0)
    assert room.fanout.control(PauseJob("j0", TERM)).status == "ok"
    paused, other = await asyncio.gather(*tasks)
    assert 0 < paused.persons < 3_000
    assert (other.persons, other.slot) == (3_000, SLOTS)
    assert paused.slot < SLOTS


CONTENTS: list[dict[str, object]] = [
    {},
    {"groups": ["a"]},
    {"segment": 'os == "x"'},
    {"sample_bp": 5_000},
    {"cap": Cap(1, 3600)},
    {"started_ms": 500},
]


@given(
    st.lists(st.sampled_from(CONTENTS), min_size=1, max_size=5),
    st.lists(
        st.tuples(
            st.integers(0, 1),
            st.sampled_from([(), ("a",)]),
            st.sampled_from(["x", "y"]),
            st.integers(0, 1_000),
            st.integers(1, 6) | st.just(32),
        ),
        max_size=12,
    ),
)
def test_property_walked_together_is_walked_one_after_the_other(
    contents: list[dict[str, object]], people: list[tuple[int, tuple[str, ...], str, int, int]]
) -> None:
    async def run(*, together: bool) -> tuple[dict[str, Counter[str]], list[tuple[int, ...]]]:
        room = Room()
        for number, (qos, groups, os, first, places) in enumerate(people):
            client = room.connect(f"main:c{number}", receive_max=places)
            room.bind(client, qos=qos, groups=groups, attrs={"os": os}, first_bind_ms=first)
        jobs = JOBS[: len(contents)]
        for offset, (job, content) in enumerate(zip(jobs, contents, strict=True)):
            room.announce(job, offset=offset, **content)
        if together:
            replies = await slices(room, jobs)
        else:
            replies = [await room.slice(job) for job in jobs]
        got = {key: Counter(wire.ids()) for key, wire in room.wires.items()}
        return got, [
            (r.slot, r.persons, r.counts.sent, r.counts.skipped, r.counts.waiting, r.counts.capped, r.counts.written)
            for r in replies
        ]

    apart, joined = asyncio.run(run(together=False)), asyncio.run(run(together=True))
    assert {key: sum(got.values()) for key, got in joined[0].items()} == {key: sum(got.values()) for key, got in apart[0].items()}
    assert all(count == 1 for got in joined[0].values() for count in got.values())
    if all(places == 32 for *_, places in people) and not any("cap" in content for content in contents):
        assert joined == apart
