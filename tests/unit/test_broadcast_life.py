"""A job that is steered while it runs, against real fan-outs in memory: pause, resume, cancel, rate, ramp, canary, schedule."""

from __future__ import annotations

import asyncio
import time
from itertools import pairwise
from typing import Any

import pytest

from infra.documents import Product
from infra.journal import JournalDown
from infra.wire import Target
from schemas import codec, names
from schemas.broadcasts import Audit, Broadcast, Canary, JobRecord, Transition
from schemas.checks import MAX_TTL_S
from schemas.jobs import Action, NotAllowed
from tests.unit.broadcast_world import Cluster, MemoryRoom, running, until
from workers.broadcast import life as joblife
from workers.broadcast.job import Claim, Shared
from workers.broadcast.pace import Pace, Pressure
from workers.broadcast.run import JobRun


class Job:
    """One run, and what a test asks of it."""

    def __init__(self, cluster: Cluster, shared: Shared | None = None, **fields: Any) -> None:
        self.cluster = cluster
        self.content = Broadcast(**{"id": "j1", "product": "news", "payload": b"hello", **fields})
        self.shared = shared or Shared(Pace(product(cluster).rate, time.monotonic()), asyncio.Semaphore(64), Pressure())
        self.offset = 100
        self.run: JobRun

    def claim(self, record: JobRecord | None = None, *, term: int = 5) -> Job:
        wall_ms = int(time.time() * 1000)
        if record is None:
            record = joblife.first(self.content, product(self.cluster), source=(1, 0), accepted_ms=wall_ms)
        claim = Claim(record, term, self.content, frozenset())
        self.run = JobRun(claim, self.cluster.tools(), self.shared, wall_ms=wall_ms, now=time.monotonic())
        return self

    async def ask(self, action: Action, **fields: Any) -> None:
        self.offset += 1
        await self.run.obey(Transition(job=self.content.id, product="news", action=action, **fields), self.offset)

    def kept(self) -> JobRecord:
        return self.cluster.journal.jobs()[self.content.id].record

    def audits(self) -> list[Audit]:
        logs = self.cluster.journal.logs.get(names.AUDIT, [])
        return [codec.decode_as(Audit, read.value or b"") for log in logs for read in log]

    def got(self) -> int:
        return sum(sum(room.got.values()) for room in self.cluster.bus.rooms.values())


def product(cluster: Cluster) -> Product:
    return cluster.keeper.products["news"]


def two_rooms(count: int = 100, **more: int) -> Cluster:
    return Cluster(MemoryRoom("a", 1, count, prefix="a"), MemoryRoom("b", 1, count, prefix="b"), **more)


async def test_given_a_running_job_when_paused_then_writing_stops_at_once_and_goes_on_with_everyone_else_when_resumed():
    job = Job(two_rooms(200), rate=100).claim()
    async with running(job.run):
        await until(lambda: job.got() >= 60)
        await job.ask(Action.PAUSE, by="ann", reason="the shop is slow")
        asked = time.monotonic()
        await asyncio.sleep(0.5)
        stopped = job.got()
        await asyncio.sleep(1.5)
        assert job.got() == stopped
        assert max(when for room in job.cluster.bus.rooms.values() for when in room.times) - asked < 0.5
        assert (job.kept().state, job.kept().reason, job.kept().applied) == ("paused", "the shop is slow", 101)
        await job.ask(Action.RESUME)
        await job.ask(Action.RATE, rate=5_000)
        await until(lambda: job.got() == 400)
        await until(lambda: job.kept().state == "completed")
    assert all(count == 1 for room in job.cluster.bus.rooms.values() for count in room.got.values())
    assert [(item.action, item.by) for item in job.audits()] == [
        ("pause", "ann"), ("resume", "unknown"), ("rate", "unknown"), ("complete", "longwire"),
    ]  # fmt: skip


async def test_given_an_order_that_waits_for_another_try_when_paused_then_it_is_withdrawn():
    cluster = two_rooms(100)
    cluster.bus.lose = lambda subject: subject.endswith(".control")  # no announcement is answered, so no slice goes out
    job = Job(cluster, rate=100).claim()
    async with running(job.run):
        await until(lambda: len(cluster.bus.asked) >= 2)
        await job.ask(Action.PAUSE)
        cluster.bus.lose = lambda subject: False
        await asyncio.sleep(1.5)
        assert job.got() == 0
        await job.ask(Action.RESUME)
        await until(lambda: job.got() > 0)


async def test_given_a_paused_job_when_somebody_connects_then_nothing_is_written_until_it_is_resumed():
    cluster = two_rooms(10)
    job = Job(cluster, include_new=True).claim()
    async with running(job.run):
        await until(lambda: job.kept().state == "completed" if cluster.journal.jobs() else False)
        await job.ask(Action.PAUSE)
        cluster.bus.rooms["a"].join("main:late")
        cluster.bus.rooms["c"] = MemoryRoom("c", 1, 5, prefix="c")
        await asyncio.sleep(1.5)
        assert job.got() == 20
        await job.ask(Action.RESUME)
        await until(lambda: job.got() == 26)


async def test_given_a_paused_job_when_taken_over_then_it_stays_paused_and_goes_on_from_its_cursor():
    job = Job(two_rooms(100), rate=100).claim()
    async with running(job.run):
        await until(lambda: job.got() >= 50)
        await job.ask(Action.PAUSE)
        await asyncio.sleep(1.2)  # the cursor of what was written is kept
    before, kept = job.got(), job.kept()
    job.claim(kept, term=9)
    async with running(job.run):
        await asyncio.sleep(1.0)
        assert (job.got(), job.kept().state) == (before, "paused")
        await job.ask(Action.RESUME)
        await until(lambda: job.got() == 200)
    assert all(count == 1 for room in job.cluster.bus.rooms.values() for count in room.got.values())


async def test_given_a_cancelled_job_when_rooms_are_told_then_nobody_else_gets_it_and_nothing_comes_after():
    job = Job(two_rooms(200), rate=100).claim()
    async with running(job.run) as task:
        await until(lambda: job.got() >= 50)
        await job.ask(Action.CANCEL, by="ann")
        async with asyncio.timeout(3):
            await task
        stopped = job.got()
        job.cluster.bus.rooms["a"].join("main:late")
        await asyncio.sleep(0.3)
        assert job.got() == stopped < 200
        assert job.kept().state == "cancelled"
        assert job.cluster.bus.job("j1").totals["expired"] == 0
        with pytest.raises(NotAllowed, match="cancelled job can't resume"):
            await job.ask(Action.RESUME)
    assert job.run.record.state == "cancelled"


async def test_given_a_rate_when_changed_then_it_holds_within_a_second():
    job = Job(two_rooms(500), rate=50).claim()
    async with running(job.run):
        await until(lambda: job.got() >= 60)
        await job.ask(Action.RATE, rate=400)
        began, before = time.monotonic(), job.got()
        await asyncio.sleep(2.0)
        passed = time.monotonic() - began
        assert 400 * (passed - 1.3) <= job.got() - before <= 400 * (passed + 1.3)
        assert job.kept().rate == 400


async def test_given_kafka_away_when_commanded_then_it_is_obeyed_and_kept_before_the_command_counts_as_done():
    job = Job(two_rooms(200), rate=100).claim()
    async with running(job.run):
        await until(lambda: job.got() >= 40)
        job.cluster.journal.down = True
        with pytest.raises(JournalDown):
            await job.ask(Action.PAUSE)
        job.offset -= 1  # the batch comes again
        with pytest.raises(JournalDown):
            await job.ask(Action.PAUSE)
        job.cluster.journal.down = False
        job.offset -= 1
        await job.ask(Action.PAUSE)
        assert job.kept().state == "paused"
    assert [item.action for item in job.audits()] == ["pause"]


async def test_given_a_ramp_when_begun_then_the_first_seconds_are_slow():
    job = Job(two_rooms(500), rate=400, ramp_s=4).claim()
    async with running(job.run):
        await until(lambda: job.got() > 0)
        began = time.monotonic()
        await until(lambda: job.got() == 1000, seconds=20)
        assert time.monotonic() - began >= 3.0  # at full speed: 2.5 s less a burst
        times = sorted(when for room in job.cluster.bus.rooms.values() for when in room.times)
    assert sum(when < times[0] + 1 for when in times) <= 400 * 0.2 * 2.25 + 400 * 0.4


async def test_given_a_draft_when_started_then_it_runs_and_before_that_nothing_does():
    job = Job(two_rooms(20), draft=True, sample_seed="s").claim()
    async with running(job.run):
        await until(lambda: "j1" in job.cluster.bus.kv)
        await asyncio.sleep(0.5)
        shown = job.cluster.bus.job("j1")
        assert (job.got(), shown.state, shown.target) == (0, "draft", Target(sample_seed="s"))
        assert job.kept().expires_ms > time.time() * 1000 + MAX_TTL_S * 990
        await job.ask(Action.START, by="bob")
        await until(lambda: job.got() == 40)
        await until(lambda: job.cluster.bus.job("j1").target is None)


async def test_given_a_schedule_when_its_time_comes_then_it_begins_with_the_rooms_of_then():
    start_ms = int(time.time() * 1000) + 1_500
    cluster = two_rooms(20)
    job = Job(cluster, start_ms=start_ms).claim()
    async with running(job.run):
        await until(lambda: "j1" in cluster.bus.kv)
        assert cluster.bus.job("j1").state == "scheduled"
        cluster.bus.rooms["c"] = MemoryRoom("c", 1, 10, prefix="c")
        await until(lambda: job.got() == 50)
        await until(lambda: cluster.bus.job("j1").state == "completed")
    first = min(when for room in cluster.bus.rooms.values() for when in room.times)
    assert time.time() * 1000 - (time.monotonic() - first) * 1000 >= start_ms - 50
    assert cluster.bus.job("j1").targeted == 50


async def test_given_a_scheduled_job_when_cancelled_then_no_room_ever_hears_of_it():
    job = Job(two_rooms(5), start_ms=int(time.time() * 1000) + 60_000).claim()
    async with running(job.run) as task:
        await until(lambda: "j1" in job.cluster.bus.kv)
        await job.ask(Action.CANCEL)
        async with asyncio.timeout(3):
            await task
    assert (job.cluster.bus.asked, job.kept().state) == ([], "cancelled")


async def test_given_no_place_when_claimed_then_it_waits_for_one_and_can_be_cancelled_meanwhile():
    cluster = two_rooms(5)
    shared = Shared(Pace(1000, time.monotonic()), asyncio.Semaphore(1), Pressure())
    first, second = Job(cluster, shared).claim(), Job(cluster, shared, id="j2").claim()
    third = Job(cluster, shared, id="j3").claim()
    async with running(first.run), running(second.run), running(third.run) as task:
        await until(lambda: job_state(cluster, "j1") == "completed")
        assert first.got() == 10
        await third.ask(Action.CANCEL)
        async with asyncio.timeout(3):
            await task
        await first.ask(Action.CANCEL)
        await until(lambda: first.got() == 20)
    assert third.run.record.state == "cancelled"


def job_state(cluster: Cluster, job: str) -> str:
    return cluster.bus.job(job).state if job in cluster.bus.kv else ""


# --- another channel ----------------------------------------------------------------------------------------------------


async def test_given_a_fallback_when_due_then_who_is_unsettled_is_handed_over_once_at_the_pace_and_the_funnel_says_so():
    cluster = two_rooms(10)
    job = Job(cluster, fallback_after_s=1, rate=10, ttl_s=60).claim()
    async with running(job.run):
        await until(lambda: cluster.fallbacks.times != [])
        assert time.time() * 1000 >= job.run.record.started_ms + 1000
        await job.ask(Action.PAUSE)
        await asyncio.sleep(0.2)
        paused = len(cluster.fallbacks.times)
        await asyncio.sleep(0.8)
        assert len(cluster.fallbacks.times) == paused < 12
        await job.ask(Action.RESUME)
        await until(lambda: job.kept().handed == 12)
        await until(lambda: cluster.bus.job("j1").totals["fallback"] == 12)
        asked = len(cluster.fallbacks.dues)
        await asyncio.sleep(0.3)
    assert (asked, len(cluster.fallbacks.dues)) == (2, 2)  # Kafka was away once
    assert [item.action for item in job.audits()].count("fallback") == 1
    first = cluster.fallbacks.times[0]
    assert sum(when < first + 0.5 for when in cluster.fallbacks.times) <= 10 * 0.5 + 13
    job.claim(job.kept(), term=9)
    async with running(job.run):
        await asyncio.sleep(0.5)
    assert len(cluster.fallbacks.dues) == 2  # the next owner knows that it was done


# --- canaries -----------------------------------------------------------------------------------------------------------


async def test_given_a_canary_that_nobody_acknowledges_when_its_wait_is_over_then_the_job_halts_and_by_hand_it_goes_on():
    cluster = two_rooms(300)
    job = Job(cluster, canary=Canary(share_bp=1_000, wait_s=1, min_acked_bp=5_000)).claim()
    async with running(job.run):
        await until(lambda: job_state(cluster, "j1") == "halted")
        share = job.got()
        assert 30 <= share <= 95  # a tenth of 600 by hash
        assert "acknowledged after 1 s, less than 50 %" in (job.kept().reason or "")
        assert cluster.bus.job("j1").canary == {"share_bp": 1_000, "wait_s": 1, "state": "failed"}
        await asyncio.sleep(1.2)
        assert job.got() == share
        await job.ask(Action.RESUME, by="ann")
        await until(lambda: job.got() == 600)
    assert [item.action for item in job.audits()][:2] == ["halt", "resume"]


async def test_given_a_canary_that_is_well_when_its_wait_is_over_then_the_rest_follows_by_itself():
    cluster = two_rooms(300)
    job = Job(cluster, canary=Canary(share_bp=1_000, wait_s=1, max_failed_bp=100)).claim()
    async with running(job.run):
        await until(lambda: job.got() == 600)
        await until(lambda: job_state(cluster, "j1") == "completed")
    times = sorted(when for room in cluster.bus.rooms.values() for when in room.times)
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert max(gaps) >= 1.0  # the wait
    assert job.kept().canary_passed


# --- the pace of everything ---------------------------------------------------------------------------------------------


async def test_given_late_joiners_and_a_reconnect_storm_when_counted_per_100_ms_then_no_window_has_more_than_rate_and_a_burst():
    cluster = Cluster(MemoryRoom("a", 1, 300, prefix="a"), MemoryRoom("b", 1, 300, prefix="b"), rate=200)
    shared = Shared(Pace(200, time.monotonic()), asyncio.Semaphore(64), Pressure())
    bulk, urgent = Job(cluster, shared, priority=2).claim(), Job(cluster, shared, id="j2", priority=0, rate=100).claim()
    everybody = dict(cluster.bus.rooms)
    async with running(bulk.run), running(urgent.run):
        await until(lambda: bulk.got() >= 200)
        everybody["b2"] = cluster.bus.rooms["c"] = MemoryRoom("c", 1, 0, prefix="c")
        del cluster.bus.rooms["b"]
        for i in range(300):  # everyone of a room that died comes to another one, at once
            cluster.bus.rooms["c"].join(f"main:b{i}")
        await asyncio.sleep(5.0)
    times = sorted(when for room in everybody.values() for when in room.times)
    bins: dict[int, int] = {}
    for when in times:
        bins[int((when - times[0]) * 10)] = bins.get(int((when - times[0]) * 10), 0) + 1
    last = max(bins)
    for width in (1, 5, 10, 20, 40):  # windows of 0.1 s … 4 s
        most = max(sum(bins.get(i + j, 0) for j in range(width)) for i in range(last + 1))
        assert most <= 200 * width / 10 + 200 * 2.25, f"{most} in {width / 10} s"
    assert len(times) >= 200 * 4
