"""A job's run against real fan-outs in memory: pace, retries, takeover, rooms that come and die, the end."""

from __future__ import annotations

import asyncio
import random
import time

import pytest

from infra import wire
from schemas.broadcasts import Broadcast
from schemas.codes import SLOTS
from tests.unit.broadcast_world import Cluster, MemoryRoom, record, until
from workers.broadcast.cursor import first_cursors
from workers.broadcast.job import Claim, Shared
from workers.broadcast.pace import Pace, Pressure
from workers.broadcast.run import JobRun

CONTENT = Broadcast(id="j1", product="news", payload=b"hello", properties={"k": "v"})


def start(cluster: Cluster, **fields: object) -> asyncio.Task[None]:
    fields = {"rooms": first_cursors(cluster, "news"), **fields}
    term = int(fields.pop("term", 5))
    claim = Claim(record(**fields), term, CONTENT, frozenset({"j1/new-abc"}))
    shared = Shared(Pace(cluster.keeper.products["news"].rate, time.monotonic()), asyncio.Semaphore(64), Pressure())
    run = JobRun(claim, cluster.tools(), shared, wall_ms=int(time.time() * 1000), now=time.monotonic())
    return asyncio.ensure_future(run.run())


async def stop(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def two_rooms(count: int = 100, **more: int) -> Cluster:
    return Cluster(MemoryRoom("a", 1, count, prefix="a"), MemoryRoom("b", 1, count, prefix="b"), **more)


def everyone_once(cluster: Cluster) -> bool:
    return all(
        len(room.got) == room.fanout.bound_counts()["news"] and set(room.got.values()) == {1}
        for room in cluster.bus.rooms.values()
    )


async def test_given_a_claim_when_run_then_everyone_gets_it_once_at_the_rate_and_it_is_shown_and_kept():
    cluster = two_rooms(100)
    began = time.monotonic()
    task = start(cluster, rate=100)
    await until(lambda: "j1" in cluster.bus.kv and cluster.bus.job("j1").state == "completed")
    await stop(task)
    assert everyone_once(cluster)
    last = max(when for room in cluster.bus.rooms.values() for when in room.times) - began
    assert 1.5 <= last <= 3.5
    view = cluster.bus.job("j1")
    assert (view.totals["sent"], view.targeted, view.progress, view.term, view.uncertain) == (200, 200, 1.0, 5, 0)
    kept = cluster.journal.jobs()["j1"]
    assert (kept.term, kept.keys, kept.record.state) == (5, frozenset({"j1/5"}), "completed")
    assert {room.slot for room in kept.record.rooms} == {SLOTS}


async def test_given_answers_that_are_lost_when_run_then_slices_are_repeated_and_nobody_gets_it_twice():
    rng = random.Random(7)
    cluster = two_rooms(50)
    cluster.bus.lose = lambda subject: rng.random() < 0.4
    task = start(cluster, rate=100)
    await until(lambda: "j1" in cluster.bus.kv and cluster.bus.job("j1").totals["sent"] == 100, seconds=20)
    await stop(task)
    assert everyone_once(cluster)
    slices = [(name, message.seq) for name, message in cluster.bus.asked if isinstance(message, wire.Slice)]
    assert len(slices) > len(set(slices))


async def test_given_a_cursor_when_another_owner_takes_over_then_it_goes_on_there_and_the_former_one_ends():
    cluster = two_rooms(200)
    first = start(cluster, rate=150)
    await until(lambda: sum(len(room.got) for room in cluster.bus.rooms.values()) >= 120)
    kept = cluster.journal.jobs()["j1"].record
    second = start(cluster, rate=10_000, rooms=kept.rooms, term=9)
    await until(lambda: everyone_once(cluster))
    async with asyncio.timeout(5):
        await first  # old-term
    assert not second.done()
    await stop(second)
    assert everyone_once(cluster)


async def test_given_a_completed_job_when_taken_over_then_rooms_are_polled_and_latecomers_get_it():
    cluster = two_rooms(5)
    first = start(cluster)
    await until(lambda: "j1" in cluster.bus.kv and cluster.bus.job("j1").state == "completed")
    await stop(first)
    kept = cluster.journal.jobs()["j1"].record
    second = start(cluster, rooms=kept.rooms, state=kept.state, completed_ms=kept.completed_ms, term=9)
    await until(lambda: any(isinstance(message, wire.Slice) and message.term == 9 for _, message in cluster.bus.asked))
    cluster.bus.rooms["a"].join("main:latecomer")
    await until(lambda: everyone_once(cluster))
    await stop(second)


async def test_given_a_room_that_appears_later_when_run_then_its_clients_are_late_and_get_it_too():
    cluster = two_rooms(20)
    task = start(cluster)
    await until(lambda: everyone_once(cluster))
    cluster.bus.rooms["c"] = MemoryRoom("c", 1, 30, prefix="c")
    await until(lambda: everyone_once(cluster))
    cluster.bus.rooms["a"].join("main:newcomer")
    await until(lambda: everyone_once(cluster))
    await stop(task)
    announced = [message.slot for name, message in cluster.bus.asked if name == "c" and isinstance(message, wire.Announce)]
    assert announced == [SLOTS]


async def test_given_a_room_that_boots_again_when_run_then_the_job_is_announced_to_the_new_boot():
    cluster = two_rooms(20)
    task = start(cluster)
    await until(lambda: everyone_once(cluster))
    cluster.bus.rooms["a"] = MemoryRoom("a", 2, 20, prefix="a")
    await until(lambda: everyone_once(cluster))
    await stop(task)


async def test_given_a_room_that_dies_when_run_then_the_others_complete_and_its_persons_are_uncertain(monkeypatch):
    monkeypatch.setattr("workers.broadcast.pacing.GONE", 0.3)
    cluster = two_rooms(100)
    task = start(cluster, rate=100)
    await until(lambda: len(cluster.bus.rooms["b"].got) >= 20)
    del cluster.bus.rooms["b"]
    await until(lambda: cluster.bus.kv and cluster.bus.job("j1").state == "completed")
    await stop(task)
    view = cluster.bus.job("j1")
    assert set(cluster.bus.rooms["a"].got.values()) == {1}
    assert len(cluster.bus.rooms["a"].got) == 100
    assert view.uncertain >= 20


async def test_given_nats_away_when_run_then_nothing_is_sent_and_the_job_is_not_taken_for_completed():
    cluster = two_rooms(20)
    cluster.bus.connected = False
    task = start(cluster)
    await until(lambda: bool(cluster.journal.jobs()))
    await asyncio.sleep(0.2)
    assert cluster.bus.asked == []
    assert cluster.journal.jobs()["j1"].record.state == "running"
    cluster.bus.connected = True
    await until(lambda: everyone_once(cluster))
    await stop(task)


async def test_given_kafka_away_when_run_then_rooms_go_on_and_the_cursor_is_saved_later():
    cluster = two_rooms(20)
    cluster.journal.down = True
    task = start(cluster)
    await until(lambda: everyone_once(cluster))
    cluster.journal.down = False
    await until(lambda: bool(cluster.journal.jobs()))
    await until(lambda: cluster.journal.jobs()["j1"].record.state == "completed")
    await stop(task)


async def test_given_the_expiry_when_reached_then_rooms_are_told_and_the_last_word_is_kept():
    cluster = two_rooms(20)
    task = start(cluster, expires_ms=int(time.time() * 1000) + 1500)
    async with asyncio.timeout(10):
        await task
    kept = cluster.journal.jobs()["j1"].record
    view = cluster.bus.job("j1")
    assert (kept.state, view.state) == ("expired", "expired")
    assert kept.completed_ms is not None
    assert {name for name, message in cluster.bus.asked if isinstance(message, wire.EndJob)} == {"a", "b"}
    assert view.totals["sent"] == 40


async def test_given_no_place_in_a_room_when_announced_then_it_is_asked_again_until_there_is_one():
    cluster = two_rooms(5)
    room = cluster.bus.rooms["a"].fanout
    for i in range(64):
        room.control(wire.Announce(wire.JobContent(f"x{i}", (1, i), "news", [], b"", 60_000, 0), 1, 0))
    task = start(cluster)
    await until(lambda: len(cluster.bus.rooms["b"].got) == 5)
    assert cluster.bus.rooms["a"].got == {}
    room.control(wire.EndJob("x3", 1))
    await until(lambda: everyone_once(cluster))
    await stop(task)


async def test_given_a_run_whose_saving_breaks_when_run_then_it_does_not_go_on_unsaved():
    cluster = two_rooms(5)

    async def produce(entries: object, **more: object) -> None:
        raise ZeroDivisionError

    cluster.journal.produce = produce  # type: ignore[method-assign]
    with pytest.raises(ExceptionGroup):
        await start(cluster)
