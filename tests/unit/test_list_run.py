"""A broadcast to an explicit list, in memory: paced, steered, taken over, and refused where its list can't be used."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.journal import Entry, JournalDown, Position
from schemas import codec, names
from schemas.broadcasts import AudienceChunk, Broadcast, Canary, JobRecord, Transition
from schemas.jobs import Action
from schemas.records import PushMessage
from tests.unit.broadcast_world import Cluster, running, until
from workers.broadcast import life as joblife
from workers.broadcast.job import Claim, Shared
from workers.broadcast.listplan import ListPlan, cursor, from_cursor
from workers.broadcast.listrun import ListRun
from workers.broadcast.pace import Pace, Pressure
from workers.broadcast.receiptcount import Followed

CHUNK = 50


class ListJob:
    """One run to a list, and what a test asks of it."""

    def __init__(self, cluster: Cluster, shared: Shared | None = None, **fields: Any) -> None:
        self.cluster = cluster
        self.content = Broadcast(**{"id": "j1", "product": "news", "payload": b"hello", "audience": "list", **fields})
        self.shared = shared or Shared(Pace(self.product.rate, time.monotonic()), asyncio.Semaphore(64), Pressure())
        self.offset = 100
        self.run: ListRun

    @property
    def product(self) -> Any:
        return self.cluster.keeper.products["news"]

    def claim(self, record: JobRecord | None = None, *, term: int = 5) -> ListJob:
        wall_ms = int(time.time() * 1000)
        record = record or joblife.first(self.content, self.product, source=(1, 0), accepted_ms=wall_ms)
        claim = Claim(record, term, self.content, frozenset())
        self.run = ListRun(claim, self.cluster.tools(), self.shared, wall_ms=wall_ms, now=time.monotonic())
        return self

    async def ask(self, action: Action, **fields: Any) -> None:
        self.offset += 1
        await self.run.obey(Transition(job=self.content.id, product="news", action=action, **fields), self.offset)

    def kept(self) -> JobRecord:
        return self.cluster.journal.jobs()[self.content.id].record

    def state(self) -> str:
        return self.cluster.bus.job(self.content.id).state if self.content.id in self.cluster.bus.kv else ""


class Wire(Cluster):
    """A cluster that notes when each message was produced."""

    def __init__(self, *, rate: int = 10_000) -> None:
        super().__init__(rate=rate)
        self.messages: list[PushMessage] = []
        self.times: list[float] = []
        self.failing = 0
        self._produce = self.journal.produce
        self.journal.produce = self.produce  # type: ignore[method-assign]

    async def produce(self, entries: Any, *, timeout: float | None = None) -> list[Position]:
        found = [codec.decode_as(PushMessage, codec.encode(e.record)) for e in entries if isinstance(e.record, PushMessage)]
        if found and self.failing:
            self.failing -= 1
            raise JournalDown("Kafka is away")
        positions = await self._produce(entries)
        self.messages += found
        self.times += [time.monotonic()] * len(found)
        return positions

    async def audience(self, count: int, *, sealed: bool = True, realm: str = "main") -> list[str]:
        clients = [f"c{i}" for i in range(count)]
        parts = [tuple(clients[at : at + CHUNK]) for at in range(0, count, CHUNK)]
        for number, part in enumerate(parts):
            end = count if sealed and number == len(parts) - 1 else None
            chunk = AudienceChunk(
                audience="list", product="news", realm=realm, upload="u1", number=number, clients=part, sealed=end
            )
            await self.journal.produce([Entry(names.AUDIENCES, names.audience_key("news", "list"), chunk)])
        return clients

    def got(self) -> Counter[str]:
        return Counter(message.client or "" for message in self.messages)


async def test_given_a_list_when_run_then_everyone_on_it_has_one_message_under_the_jobs_id_at_the_pace():
    cluster = Wire()
    clients = await cluster.audience(420)
    job = ListJob(
        cluster, rate=200, ttl_s=600, priority=2, properties={"k": "v"}, content_type="text/plain", fallback_after_s=300
    ).claim()
    async with running(job.run):
        await until(lambda: job.state() == "completed")
        view = cluster.bus.job("j1")
    assert [message.client for message in cluster.messages] == clients
    first = cluster.messages[0]
    assert (first.id, first.payload, first.qos, first.priority, first.content_type) == ("j1", b"hello", 1, 2, "text/plain")
    assert first.properties == {"k": "v"}
    assert 590 <= (first.ttl_s or 0) <= 600
    assert 290 <= (first.fallback_after_s or 0) <= 300
    took = cluster.times[-1] - cluster.times[0]
    assert 1.8 <= took <= 2.9
    bins = Counter(int((when - cluster.times[0]) * 10) for when in cluster.times)
    assert max(bins.values()) <= 2 * 2 * 20 + 1  # at most twice a beat's part, and two beats may fall into one window
    assert (view.totals["sent"], view.totals["waiting"], view.targeted, view.progress, view.rooms) == (420, 420, 420, 1.0, [])
    assert [item.room for item in job.kept().rooms] == ["list"]


async def test_given_two_lists_and_a_product_rate_when_run_then_together_they_keep_to_it():
    cluster = Wire(rate=300)
    await cluster.audience(400)
    shared = Shared(Pace(300, time.monotonic()), asyncio.Semaphore(64), Pressure())
    bulk, urgent = ListJob(cluster, shared, priority=2).claim(), ListJob(cluster, shared, id="j2", priority=0).claim()
    async with running(bulk.run), running(urgent.run):
        await until(lambda: urgent.run.record.state == "completed")
        assert Counter(message.id for message in cluster.messages)["j1"] < 100  # one part of seventeen
        await until(lambda: bulk.state() == "completed")
    bins = Counter(int((when - cluster.times[0]) * 10) for when in cluster.times)
    for width in (1, 5, 10, 20):
        most = max(sum(bins.get(i + j, 0) for j in range(width)) for i in range(max(bins) + 1))
        assert most <= 300 * width / 10 + 300 * 1.25, f"{most} in {width / 10} s"


async def test_given_a_cursor_when_another_owner_takes_over_then_it_goes_on_there():
    cluster = Wire()
    clients = await cluster.audience(400)
    job = ListJob(cluster, rate=200).claim()
    async with running(job.run):
        await until(lambda: len(cluster.messages) >= 200)
        cluster.receipts.followed["j1"].counts.update(acked=30)
        cluster.receipts.followed["j1"].next.update({0: 7, 2: 9})
        await asyncio.sleep(1.2)
        cluster.audiences.down = 1  # and its next look at the list fails
    kept = job.kept()
    async with running(job.claim(kept, term=9).run):
        await until(lambda: job.state() == "completed" and cluster.bus.job("j1").term == 9)
        followed = cluster.receipts.followed["j1"]
    assert set(cluster.got()) == set(clients)
    assert sum(cluster.got().values()) <= 400 + 200 * 1.5  # what one second's cursor may repeat, stored once by its id
    assert (followed.counts, followed.next) == ({"acked": 30}, {0: 7, 2: 9})
    assert cluster.bus.job("j1").totals["acked"] == 30


async def test_given_kafka_away_when_produced_then_the_same_comes_again_and_nobody_is_left_out():
    cluster = Wire()
    clients = await cluster.audience(150)
    cluster.audiences.down, cluster.failing = 3, 2
    job = ListJob(cluster, rate=300).claim()
    async with running(job.run):
        await until(lambda: job.state() == "completed", seconds=15)
    assert [message.client for message in cluster.messages] == clients


async def test_given_a_running_list_when_paused_then_nothing_more_is_produced_until_it_is_resumed():
    cluster = Wire()
    await cluster.audience(200)
    job = ListJob(cluster, rate=100).claim()
    async with running(job.run):
        await until(lambda: len(cluster.messages) >= 50)
        await job.ask(Action.PAUSE, by="ann")
        await asyncio.sleep(0.2)
        stopped = len(cluster.messages)
        await asyncio.sleep(1.0)
        assert (len(cluster.messages), job.kept().state) == (stopped, "paused")
        await job.ask(Action.RESUME)
        await job.ask(Action.RATE, rate=5_000)
        await until(lambda: job.state() == "completed")
    assert set(cluster.got().values()) == {1}
    assert len(cluster.messages) == 200


async def test_given_a_cancelled_list_when_its_owner_ends_then_nothing_more_is_produced():
    cluster = Wire()
    await cluster.audience(300)
    job = ListJob(cluster, rate=100).claim()
    async with running(job.run) as task:
        await until(lambda: len(cluster.messages) >= 20)
        await job.ask(Action.CANCEL)
        async with asyncio.timeout(3):
            await task
    assert len(cluster.messages) < 200
    assert (job.kept().state, cluster.receipts.followed) == ("cancelled", {})


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        (None, "has no audience list: upload it first"),
        ({"sealed": False}, "not sealed: its upload has not ended, or broke off after 120 ids"),
        ({"realm": "other"}, "clients of realm other, the broadcast is for realm main"),
    ],
)
async def test_given_a_list_that_cant_be_used_then_the_job_is_cancelled_with_the_reason(fields: Any, reason: str):
    cluster = Wire()
    if fields is not None:
        await cluster.audience(120, **fields)
    job = ListJob(cluster).claim()
    async with running(job.run) as task:
        async with asyncio.timeout(5):
            await task
    assert (job.kept().state, job.state()) == ("cancelled", "cancelled")
    assert reason in (job.kept().reason or "")
    assert cluster.messages == []


async def test_given_a_list_that_is_gone_from_kafka_when_taken_over_then_the_job_is_cancelled_with_the_reason():
    cluster = Wire()
    await cluster.audience(200)
    job = ListJob(cluster, rate=50).claim()
    async with running(job.run):
        await until(lambda: len(cluster.messages) >= 20)
        await asyncio.sleep(1.2)
    cluster.journal.logs[names.AUDIENCES] = []
    async with running(job.claim(job.kept(), term=9).run) as task:
        async with asyncio.timeout(5):
            await task
    assert job.kept().state == "cancelled"
    assert "no longer in Kafka" in (job.kept().reason or "")


async def test_given_a_canary_when_its_share_is_not_acknowledged_then_it_halts_and_by_hand_it_goes_on():
    cluster = Wire()
    await cluster.audience(300)
    job = ListJob(cluster, rate=2_000, canary=Canary(share_bp=1_000, wait_s=1, min_acked_bp=5_000)).claim()
    async with running(job.run):
        await until(lambda: job.state() == "halted")
        assert len(cluster.messages) == 30
        assert "0 of 30 were acknowledged" in (job.kept().reason or "")
        await job.ask(Action.RESUME)
        await until(lambda: len(cluster.messages) == 300)


async def test_given_a_canary_when_its_share_is_acknowledged_then_the_rest_follows_and_not_before_its_receipts_are_counted():
    cluster = Wire()
    await cluster.audience(300)
    job = ListJob(cluster, rate=2_000, canary=Canary(share_bp=1_000, wait_s=1, min_acked_bp=5_000)).claim()
    async with running(job.run):
        await until(lambda: len(cluster.messages) == 30)
        followed = cluster.receipts.followed["j1"]
        followed.current = False  # Kafka is away: nobody knows what was acknowledged
        await asyncio.sleep(3.5)
        assert (len(cluster.messages), job.run.record.state) == (30, "running")
        followed.counts["acked"] = 16
        followed.current = True
        await until(lambda: len(cluster.messages) == 300)
    assert job.run.record.canary_passed


async def test_given_a_list_that_expires_then_who_has_no_receipt_is_shown_as_expired():
    cluster = Wire()
    await cluster.audience(100)
    job = ListJob(cluster, rate=5_000, ttl_s=3).claim()
    async with running(job.run) as task:
        await until(lambda: job.state() == "completed")
        cluster.receipts.followed["j1"].counts.update(acked=60, rejected=1)
        async with asyncio.timeout(6):
            await task
    view = cluster.bus.job("j1")
    assert (view.state, view.totals["acked"], view.totals["expired"], view.totals["waiting"]) == ("expired", 60, 39, 0)


@given(
    st.integers(0, 10_000_000), st.integers(0, 1 << 40), st.dictionaries(st.integers(0, 99), st.integers(0, 1 << 50), max_size=9),
    st.dictionaries(st.sampled_from(["acked", "expired", "dead"]), st.integers(0, 1 << 30), max_size=3),
)  # fmt: skip
def test_given_any_cursor_when_kept_and_read_back_then_it_is_the_same(position, offset, places, counts):
    plan = ListPlan(size=10_000_000, offset=offset, base=position // 2, position=position, expired=3, limit=10_000_000)
    followed, again = Followed("j", "p", 0, counts=dict(counts), next=dict(places)), Followed("j", "p", 0)
    read = from_cursor(cursor(plan, followed), again)
    assert (read, again.counts, again.next) == (plan, counts, places)


@given(st.floats(0.1, 50_000), st.lists(st.floats(0.0, 3.0), min_size=1, max_size=60), st.floats(0, 1e6))
def test_given_any_delays_then_a_beat_never_has_more_than_its_part_twice_and_all_of_it_no_more_than_the_rate(rate, gaps, room):
    plan = ListPlan()
    plan.begin(10_000_000, 0)
    now = total = 0.0
    plan.due(share=rate, available=0, most=2_000, now=now)
    for gap in gaps:
        now += gap
        count = plan.due(share=rate, available=room, most=2_000, now=now)
        assert count <= min(2_000, room, max(1.0, 0.2 * rate))
        total += count
        plan.produced(count)
    assert total <= rate * (now + 0.1) + 1 + 1e-6 * total
    assert (plan.position, plan.taken) == (total, 0)
