"""Commands to jobs: claims, repeats, refusals; and `push.jobs` folded after a takeover."""

from __future__ import annotations

import asyncio
import time

import pytest
from msgspec.structs import replace

from infra.journal import Entry, JournalDown
from schemas import codec, names
from schemas.broadcasts import Broadcast, JobRecord, Transition
from schemas.partition import partition_of
from tests.unit.broadcast_world import PARTITIONS, Cluster, MemoryRoom, record, until
from workers.broadcast import owner as broadcast
from workers.broadcast.fold import Read, fold, number_of
from workers.broadcast.owner import Broadcasts
from workers.runner import Incoming

NEWS = partition_of("news", PARTITIONS)


def command(offset: int, *, partition: int = NEWS, value: bytes | None = None, **fields: object) -> Incoming:
    whole: dict[str, object] = {"id": "j1", "product": "news", "payload": b"hello", **fields}
    data = value if value is not None else codec.encode(Broadcast(**whole))  # type: ignore[arg-type]
    return Incoming(names.BROADCASTS, partition, offset, int(time.time() * 1000), b"news", data)


def asked(offset: int, action: str, *, job: str = "j1", product: str = "news", **fields: object) -> Incoming:
    data = codec.encode(Transition(job=job, product=product, action=action, **fields))  # type: ignore[arg-type]
    return Incoming(names.BROADCASTS, NEWS, offset, int(time.time() * 1000), product.encode(), data)


@pytest.fixture
def cluster() -> Cluster:
    return Cluster(MemoryRoom("a", 1, 20, prefix="a"))


@pytest.fixture
async def worker(cluster, monkeypatch):
    commands: dict[tuple[int, int], Broadcast] = {}

    async def read_jobs(settings: object, partitions: frozenset[int]) -> list[Read]:
        logs = cluster.journal.logs.get(names.JOBS, [[] for _ in range(PARTITIONS)])
        return [read for partition in partitions for read in logs[partition]]

    async def read_broadcasts(settings: object, positions: list[tuple[int, int]]) -> dict[tuple[int, int], Broadcast]:
        return {position: commands[position] for position in positions if position in commands}

    monkeypatch.setattr(broadcast, "read_jobs", read_jobs)
    monkeypatch.setattr(broadcast, "read_broadcasts", read_broadcasts)
    failed: list[str] = []
    made = Broadcasts(None, cluster.tools(), fail=failed.append)  # type: ignore[arg-type]
    made._born -= 60
    made.commands = commands  # type: ignore[attr-defined]
    await made.assigned(frozenset(range(PARTITIONS)))
    yield made
    await made.revoked(frozenset(range(PARTITIONS)))
    assert failed == []


async def test_given_a_command_when_handled_then_it_is_claimed_before_that_returns_and_its_number_is_the_claims_position(
    cluster, worker
):
    assert await worker.handle(NEWS, [command(0, rate=50, ttl_s=60)]) == []
    (read,) = cluster.journal.logs[names.JOBS][NEWS]
    claim = codec.decode_as(JobRecord, read.value)
    assert read.key.startswith(b"j1/new-")
    assert (claim.rate, claim.expires_ms - claim.started_ms, number_of(claim)) == (50, 60_000, (-1, -1))
    assert [(room.room, room.slot) for room in claim.rooms] == [("a", 0)]
    await until(lambda: cluster.bus.kv != {})
    kept = cluster.journal.jobs()["j1"]
    assert (number_of(kept.record), kept.term) == ((NEWS, read.offset), read.offset)


async def test_given_the_same_id_again_when_handled_then_it_is_not_started_twice(cluster, worker):
    await worker.handle(NEWS, [command(0), command(1)])
    await worker.handle(NEWS, [command(2)])
    claims = [read for read in cluster.journal.logs[names.JOBS][NEWS] if b"/new-" in read.key and read.value is not None]
    assert len(claims) == 1


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ({"value": b"junk"}, "no single-object header"),
        ({"product": "nobody"}, "product nobody is not known"),
        ({"partition": (NEWS + 1) % PARTITIONS}, "key them by the product"),
        ({"payload": b"x" * 20_000}, "more than the product's 16384"),
        ({"rate": 10_001}, "rate 10001 is more than the product's 10000"),
    ],
)
async def test_given_a_bad_command_when_handled_then_it_is_dead_with_the_reason_and_others_go_on(cluster, worker, bad, reason):
    poison = command(0, **bad)
    (dead,) = await worker.handle(poison.partition, [poison, *([command(1)] if poison.partition == NEWS else [])])
    assert reason in dead.reason
    assert dead.record is poison
    assert ("j1" in cluster.journal.jobs()) == (poison.partition == NEWS)


async def test_given_kafka_away_when_handled_then_the_batch_is_to_come_again_and_then_starts_once(cluster, worker):
    cluster.journal.down = True
    with pytest.raises(JournalDown):
        await worker.handle(NEWS, [command(0)])
    cluster.journal.down = False
    await worker.handle(NEWS, [command(0)])
    await until(lambda: len(cluster.bus.rooms["a"].got) == 20)


async def test_given_a_partition_taken_away_when_given_back_then_jobs_go_on_by_number_under_a_higher_term(cluster, worker):
    worker.commands[NEWS, 0] = Broadcast(id="j1", product="news", payload=b"hello")
    await worker.handle(NEWS, [command(0, rate=20)])
    await until(lambda: len(cluster.bus.rooms["a"].got) >= 5 and cluster.bus.kv != {})
    before = cluster.journal.jobs()["j1"]
    await worker.revoked(frozenset({NEWS}))
    written = len(cluster.bus.rooms["a"].times)
    await asyncio.sleep(0.1)
    await worker.assigned(frozenset({NEWS}))
    await until(lambda: len(cluster.bus.rooms["a"].got) == 20)
    await until(lambda: cluster.journal.jobs()["j1"].record.state == "completed")
    after = cluster.journal.jobs()["j1"]
    assert after.term > before.term
    assert number_of(after.record) == number_of(before.record)
    assert after.keys == {f"j1/{after.term}"}
    assert set(cluster.bus.rooms["a"].got.values()) == {1}
    assert len(cluster.bus.rooms["a"].times) == 20 >= written


async def test_given_a_job_that_expired_unowned_when_taken_over_then_it_gets_its_last_word(cluster, worker):
    past = int(time.time() * 1000) - 1
    worker.commands[NEWS, 0] = Broadcast(id="old", product="news")
    await worker.revoked(frozenset({NEWS}))
    old = record("old", number_partition=NEWS, source_partition=NEWS, expires_ms=past)
    await cluster.journal.produce([Entry(names.JOBS, "old/3", old, by="news")])
    await worker.assigned(frozenset({NEWS}))
    await until(lambda: cluster.journal.jobs()["old"].record.state == "expired")
    assert cluster.bus.rooms["a"].got == {}
    assert await worker.handle(NEWS, [command(9, id="old")]) == []
    assert cluster.journal.jobs()["old"].record.state == "expired"


async def test_given_a_job_whose_content_is_gone_when_taken_over_then_it_ends_and_is_not_claimed_again(cluster, worker):
    await worker.revoked(frozenset({NEWS}))
    lost = record("lost", number_partition=NEWS, source_partition=NEWS)
    await cluster.journal.produce([Entry(names.JOBS, "lost/3", lost, by="news")])
    await worker.assigned(frozenset({NEWS}))
    kept = cluster.journal.jobs()["lost"]
    assert (kept.record.state, len(kept.keys)) == ("expired", 1)


async def test_given_jobs_long_over_when_taken_over_then_they_are_forgotten(cluster, worker):
    await worker.revoked(frozenset({NEWS}))
    ages = {"ancient": 32, "recent": 30}
    for job, days in ages.items():
        ended = int(time.time() * 1000) - days * 24 * 3600 * 1000
        item = record(job, state="expired", number_partition=NEWS, expires_ms=ended)
        await cluster.journal.produce([Entry(names.JOBS, f"{job}/3", item, by="news")])
    await worker.assigned(frozenset({NEWS}))
    assert set(cluster.journal.jobs()) == {"recent"}


# --- transitions --------------------------------------------------------------------------------------------------------


async def test_given_a_broadcast_and_commands_in_one_batch_when_handled_then_they_are_obeyed_in_order_and_kept(cluster, worker):
    batch = [command(0, rate=20, draft=True), asked(1, "rate", rate=5_000), asked(2, "start", by="ann")]
    assert await worker.handle(NEWS, batch) == []
    kept = cluster.journal.jobs()["j1"].record
    assert (kept.rate, kept.applied) == (5_000, 2)
    await until(lambda: len(cluster.bus.rooms["a"].got) == 20)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (asked(5, "pause", job="nobody"), "product news has no broadcast nobody"),
        (asked(5, "pause", product="other"), "product other has no broadcast j1"),
        (asked(5, "explode"), "action 'explode' is not one of"),
        (asked(5, "pause", rate=7), "a rate belongs to the action rate"),
    ],
    ids=lambda item: item if isinstance(item, str) else "",
)
async def test_given_a_command_that_fits_nothing_when_handled_then_it_is_dead_with_the_reason_and_the_job_goes_on(
    cluster, worker, bad, reason
):
    await worker.handle(NEWS, [command(0)])
    dead = await worker.handle(NEWS, [bad])
    assert [reason in item.reason for item in dead] == [True]
    await until(lambda: len(cluster.bus.rooms["a"].got) == 20)


async def test_given_a_job_that_is_over_when_commanded_then_a_repeat_is_nothing_and_anything_else_is_refused(cluster, worker):
    worker.commands[NEWS, 0] = Broadcast(id="j1", product="news", payload=b"hello")
    await worker.handle(NEWS, [command(0), asked(1, "cancel")])
    await until(lambda: worker._owned[NEWS].runs == {})
    for _ in range(2):  # for this owner, and for the next one
        assert await worker.handle(NEWS, [asked(1, "cancel")]) == []
        (dead,) = await worker.handle(NEWS, [asked(2, "resume")])
        assert dead.reason == "broadcast j1 is over: it can't resume"
        await worker.revoked(frozenset({NEWS}))
        await worker.assigned(frozenset({NEWS}))


async def test_given_a_paused_job_when_the_partition_is_given_back_then_it_is_still_paused(cluster, worker):
    worker.commands[NEWS, 0] = Broadcast(id="j1", product="news", payload=b"hello")
    await worker.handle(NEWS, [command(0, rate=10), asked(1, "pause", reason="lunch")])
    await worker.revoked(frozenset({NEWS}))
    await worker.assigned(frozenset({NEWS}))
    await until(lambda: "j1" in cluster.bus.kv)
    written = len(cluster.bus.rooms["a"].times)
    await asyncio.sleep(0.5)
    view = cluster.bus.job("j1")
    assert (view.state, view.reason, len(cluster.bus.rooms["a"].times)) == ("paused", "lunch", written)
    await worker.handle(NEWS, [asked(1, "pause"), asked(2, "resume"), asked(3, "rate", rate=10_000)])
    await until(lambda: len(cluster.bus.rooms["a"].got) == 20)


async def test_given_too_many_open_broadcasts_when_one_more_comes_then_it_is_refused(cluster, worker, monkeypatch):
    monkeypatch.setattr(broadcast, "MAX_OPEN", 2)
    batch = [command(i, id=f"d{i}", draft=True) for i in range(4)]
    reasons = [item.reason for item in await worker.handle(NEWS, batch)]
    assert reasons == ["product news has 2 broadcasts that are not over: cancel some"] * 2


# --- the fold ----------------------------------------------------------------------------------------------------------


def read(offset: int, key: str, item: JobRecord | None) -> Read:
    return Read(1, offset, key.encode(), codec.encode(item) if item is not None else None)


def test_given_only_a_claim_when_folded_then_its_own_offset_is_term_and_number():
    claim = record(number_partition=-1, number_offset=-1)
    folded = fold([read(41, "j1/new-x", claim)])["j1"]
    assert (folded.term, number_of(folded.record)) == (41, (1, 41))


def test_given_a_former_owner_that_writes_late_when_folded_then_the_highest_term_wins():
    mine, late = record(rate=2), record(rate=1)
    folded = fold([read(1, "j1/new-x", mine), read(2, "j1/1", mine), read(3, "j1/new-y", mine), read(4, "j1/1", late)])["j1"]
    assert (folded.term, folded.record.rate) == (3, 2)
    assert folded.keys == {"j1/new-x", "j1/1", "j1/new-y"}


def test_given_tombstones_when_folded_then_keys_are_gone():
    item = record()
    assert fold([read(1, "j1/1", item), read(2, "j1/1", None)]) == {}
    folded = fold([read(1, "j1/1", item), read(2, "j1/7", replace(item, rooms=())), read(3, "j1/1", None)])["j1"]
    assert (folded.term, folded.keys) == (7, {"j1/7"})


def test_given_bytes_that_are_no_job_when_folded_then_they_are_left_out():
    good = read(3, "j2/3", record("j2"))
    bad = [Read(1, 1, b"j1/1", b"junk"), Read(1, 2, b"nokey", good.value), Read(1, 2, None, good.value)]
    assert set(fold([*bad, good])) == {"j2"}


def test_given_a_claim_key_and_a_term_key_when_parsed_then_they_are_told_apart():
    assert names.parse_job_key(names.job_claim_key("a:b", "f00"), 9) == ("a:b", 9)
    assert names.parse_job_key(names.job_key("a:b", 4), 9) == ("a:b", 4)
    for bad in ("j1", "j1/", "j1/x", "/4", "j1/-4"):
        with pytest.raises(names.BadName):
            names.parse_job_key(bad, 9)
