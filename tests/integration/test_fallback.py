"""What is unsettled goes once to `push.fallback`, or to the product's webhook; a loss or a death in between changes nothing."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio
from core import Core, TopicReader, eventually, unique

from infra.journal import Entry, apply_topics
from infra.local.brokers import LocalBrokers
from infra.settings import KafkaSettings, NatsSettings, OutsideSettings, RedisSettings, Settings
from infra.wire import Ack, ConfirmItem, DisconnectItem, SettledJob
from schemas import codec, names
from schemas.broadcasts import Broadcast
from schemas.codes import HANDED_OVER, State
from schemas.records import ClientProduct, ClientRecord, DeadLetter, Fallback, PushMessage, Receipt
from workers.broadcast.unreached import Due, JobFallback, Reach
from workers.coordinator.fallback import Webhooks
from workers.delivery.handover import HandOver
from workers.outside import Outside
from workers.runner import Runner


@pytest_asyncio.fixture(scope="module")
async def local(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalBrokers]:
    """Brokers of its own: a test empties Redis."""
    brokers = LocalBrokers(tmp_path_factory.mktemp("fallback"))
    await brokers.start()
    yield brokers
    await brokers.stop()


@pytest_asyncio.fixture(scope="module")
async def core(local: LocalBrokers, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Core]:
    endpoints = local.endpoints
    settings = Settings(
        data=tmp_path_factory.mktemp("data"),
        nats=NatsSettings(url=endpoints.nats),
        kafka=KafkaSettings(bootstrap=endpoints.kafka),
        redis=RedisSettings(url=endpoints.redis),
    )
    await apply_topics(settings.kafka)
    running = Core(settings)
    await running.start()
    yield running
    await running.stop()


@asynccontextmanager
async def handing_over(core: Core) -> AsyncIterator[None]:
    """A delivery worker's loop."""
    loop = HandOver(core.journal, core.register, core.runner, fail=core.failures.append)
    await loop.start()
    try:
        yield
    finally:
        await loop.stop()


class Topics:
    """Fallbacks and receipts of a test, by client."""

    def __init__(self, core: Core) -> None:
        self._fallbacks, self._receipts = TopicReader(core.settings, names.FALLBACK), TopicReader(core.settings, names.RECEIPTS)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Topics]:
        async with self._fallbacks.open(), self._receipts.open():
            yield self

    def fallbacks(self, client: str) -> list[Fallback]:
        return [each for each in self._fallbacks.records if isinstance(each, Fallback) and each.client == client]

    def receipts(self, client: str) -> list[tuple[str, str | None]]:
        found = [each for each in self._receipts.records if isinstance(each, Receipt) and each.client == client]
        return [(each.state, each.detail) for each in found]


def message(product: str, client: str, number: int = 1, **more: Any) -> PushMessage:
    fields = {"payload": b"%d" % number, "fallback_after_s": 1, **more}
    return PushMessage(id=f"{client}-{number}", product=product, client=client, **fields)


async def stored(core: Core, *messages: PushMessage) -> None:
    await core.push(*messages)
    await core.handled()


# --- messages ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["push", "pull", "both"])
async def test_given_an_unsettled_message_when_it_is_due_then_it_is_handed_over_once_and_stays_pending(
    core: Core, mode: str
) -> None:
    product, client, room = await core.product(), unique("c"), await core.room()
    await (await room.connect(client)).bind(product, user="ann")
    async with Topics(core).open() as topics, handing_over(core):
        before = int(time.time() * 1000)
        await stored(core, message(product, client, mode=mode, content_type="text/plain", properties={"k": "v"}))
        [record] = await eventually(lambda: topics.fallbacks(client), what="the fallback")
        assert (record.id, record.product, record.realm, record.user) == (f"{client}-1", product, "main", "ann")
        assert (record.payload, record.content_type, record.properties) == (b"1", "text/plain", {"k": "v"})
        assert abs(record.accepted_ms - before) < 5_000
        assert re.fullmatch(r"not settled [1-4] s after it was accepted", record.reason)
        await asyncio.sleep(3)
        assert len(topics.fallbacks(client)) == 1
        assert topics.receipts(client) == [(State.FALLBACK, None)]
        assert await core.pending(client, product) == 1


async def test_given_many_that_are_due_at_once_then_each_is_handed_over_once_and_those_without_a_fallback_are_not(
    core: Core,
) -> None:
    product, one, others = await core.product(), unique("c"), [unique("c") for _ in range(40)]
    async with Topics(core).open() as topics, handing_over(core):
        await stored(core, *[message(product, one, i) for i in range(230)], *[message(product, each) for each in others])
        await stored(core, message(product, one, 999, fallback_after_s=None))
        await eventually(lambda: len(topics.fallbacks(one)) >= 230, what="all of one client")
        await eventually(lambda: all(topics.fallbacks(each) for each in others), what="all of the others")
        await asyncio.sleep(1.5)
        assert [each.id for each in topics.fallbacks(one)].count(f"{one}-999") == 0
        assert sorted(each.id for each in topics.fallbacks(one)) == sorted(f"{one}-{i}" for i in range(230))
        assert all(len(topics.fallbacks(each)) == 1 for each in others)


async def test_given_an_ack_before_it_is_due_then_nothing_is_handed_over(core: Core) -> None:
    product, client, room = await core.product(), unique("c"), await core.room()
    device = await room.connect(client)
    await device.bind(product)
    async with Topics(core).open() as topics, handing_over(core):
        await stored(core, message(product, client, fallback_after_s=2))
        await device.sync(product, acks=[Ack(product, f"{client}-1", State.ACKED)])
        await asyncio.sleep(4)
        assert topics.fallbacks(client) == []
        assert topics.receipts(client) == [(State.ACKED, None)]


@pytest.mark.parametrize("way", ["sync", "disconnect", "http"])
async def test_given_an_ack_after_it_was_handed_over_then_a_receipt_says_so_and_a_repeat_adds_nothing(
    core: Core, way: str
) -> None:
    product, client, room = await core.product(), unique("c"), await core.room()
    device = await room.connect(client)
    await device.bind(product)
    ack = Ack(product, f"{client}-1", State.ACKED)
    async with Topics(core).open() as topics, handing_over(core):
        await stored(core, message(product, client))
        await eventually(lambda: topics.fallbacks(client), what="the fallback")
        await eventually(lambda: (State.FALLBACK, None) in topics.receipts(client), what="its receipt")
        if way == "sync":
            await device.sync(product, acks=[ack])
            await device.sync(product, acks=[ack])
        elif way == "disconnect":
            key, room_id, epoch, _, generation, number = device.where()
            await core.saver.disconnect([DisconnectItem(key, room_id, epoch, generation, number, "test", [ack], [])])
        else:
            await core.saver.confirm([ConfirmItem(device.key, ack)])
        await eventually(lambda: (State.ACKED, HANDED_OVER) in topics.receipts(client), what="the receipt that says so")
        assert await core.pending(client, product) == 0
        assert topics.receipts(client).count((State.ACKED, HANDED_OVER)) == 1
        await asyncio.sleep(2)
        assert len(topics.fallbacks(client)) == 1


async def test_given_a_message_that_expired_before_anybody_looked_then_it_is_expired_and_not_handed_over(core: Core) -> None:
    product, client = await core.product(), unique("c")
    async with Topics(core).open() as topics:
        await stored(core, message(product, client, ttl_s=2))
        await asyncio.sleep(2.5)  # every delivery worker was away
        async with handing_over(core):
            await eventually(lambda: (State.EXPIRED, None) in topics.receipts(client), what="the expiry")
            await asyncio.sleep(1.5)
        assert topics.fallbacks(client) == []


async def test_given_a_fallback_at_the_very_end_then_it_is_handed_over_before_it_expires(core: Core) -> None:
    product, client = await core.product(), unique("c")
    async with Topics(core).open() as topics, handing_over(core):
        await stored(core, message(product, client, ttl_s=4, fallback_after_s=4))
        await eventually(lambda: topics.fallbacks(client), what="the fallback")


async def test_given_replaced_and_evicted_messages_then_they_are_not_handed_over(core: Core) -> None:
    product, client = await core.product(max_pending=2), unique("c")
    async with Topics(core).open() as topics, handing_over(core):
        await stored(
            core,
            *[message(product, client, i, collapse_key="k", fallback_after_s=2) for i in range(2)],
            *[message(product, client, 2 + i, fallback_after_s=2) for i in range(2)],
        )
        await eventually(lambda: len(topics.fallbacks(client)) >= 2, what="two fallbacks")
        await asyncio.sleep(1.5)
        assert sorted(each.id for each in topics.fallbacks(client)) == [f"{client}-2", f"{client}-3"]


async def test_given_a_users_message_then_each_unsettled_client_is_handed_over(core: Core) -> None:
    product, user, room = await core.product(), unique("u"), await core.room()
    devices = [await room.connect(unique("c")) for _ in range(3)]
    for device in devices:
        await device.bind(product, user=user)
    async with Topics(core).open() as topics, handing_over(core):
        push = PushMessage(id=unique("m"), product=product, user=user, payload=b"x", fallback_after_s=2)
        await core.push(push)
        for device in devices:
            await eventually(lambda d=device: _pending(core, d.client, product), what="the user's message")
        await devices[0].sync(product, acks=[Ack(product, push.id, State.ACKED)])
        for device in devices[1:]:
            await eventually(lambda d=device: topics.fallbacks(d.client), what="the fallback")
        assert topics.fallbacks(devices[0].client) == []
        assert {each.user for device in devices[1:] for each in topics.fallbacks(device.client)} == {user}


async def _pending(core: Core, client: str, product: str) -> bool:
    return await core.pending(client, product) == 1


# --- what is lost, and who dies ----------------------------------------------------------------------------------------


async def test_given_redis_emptied_in_between_then_what_waits_is_handed_over_once_and_what_was_is_not(core: Core) -> None:
    product, waits, was, acked, room = await core.product(), unique("c"), unique("c"), unique("c"), await core.room()
    device = await room.connect(acked)
    await device.bind(product)
    async with Topics(core).open() as topics, handing_over(core):
        await stored(core, message(product, was), message(product, acked))
        await eventually(lambda: topics.fallbacks(was) and topics.fallbacks(acked), what="the first two")
        await eventually(lambda: topics.receipts(was) and topics.receipts(acked), what="their receipts")
        await stored(core, message(product, waits, fallback_after_s=4))
        before = core.register.shards.all[0].incarnation
        await core.register.shards.all[0].pipe([("FLUSHALL",)])
        await eventually(lambda: _newer(core, before), within=30, what="the register open in a new generation")
        [record] = await eventually(lambda: topics.fallbacks(waits), what="the fallback")
        assert record.reason.startswith("not settled")
        await asyncio.sleep(2)
        assert [len(topics.fallbacks(client)) for client in (waits, was, acked)] == [1, 1, 1]
        assert await core.pending(was, product) == 1
        await device.sync(product, acks=[Ack(product, f"{acked}-1", State.ACKED)])  # it is known that it was handed over
        await eventually(lambda: (State.ACKED, HANDED_OVER) in topics.receipts(acked), what="the receipt that says so")


def _newer(core: Core, before: Any) -> bool:
    now = core.register.shards.all[0].incarnation
    return now is not None and now.generation > before.generation


async def test_given_a_worker_that_died_after_its_claim_then_another_hands_it_over_when_the_claim_is_over(core: Core) -> None:
    product, client = await core.product(), unique("c")
    key = names.client_key("main", client)
    async with Topics(core).open() as topics:
        await stored(core, message(product, client))
        await asyncio.sleep(1.2)
        [claimed] = await core.register.hand([(key, product, [f"{client}-1"])], 3_000)
        assert [each.id for each in claimed.messages] == [f"{client}-1"]
        async with handing_over(core):
            await asyncio.sleep(1.5)
            assert topics.fallbacks(client) == []
            await eventually(lambda: topics.fallbacks(client), what="the fallback")


async def test_given_notes_that_were_lost_when_the_walk_comes_by_then_it_is_handed_over(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a slot moved to another server of a cluster."""
    monkeypatch.setattr("workers.delivery.handover.ROUND_S", 3)
    product, client = await core.product(), unique("c")
    async with Topics(core).open() as topics:
        await stored(core, message(product, client))
        shard = core.register.shards.all[0]
        await shard.pipe([("DEL", names.due_slots_key(shard.marker_key))])
        async with handing_over(core):
            await eventually(lambda: topics.fallbacks(client), what="the fallback")


async def test_given_a_fallback_after_the_products_time_to_live_then_the_message_is_a_dead_letter(core: Core) -> None:
    product, client = await core.product(ttl_s=60), unique("c")
    async with TopicReader(core.settings, names.DEAD).open() as dead:
        await core.push(message(product, client, fallback_after_s=61))
        [letter] = await eventually(lambda: [r for r in dead.records if isinstance(r, DeadLetter) and r.client == client])
        assert letter.reason == "fallback_after_s 61 is longer than the time to live, 60 s"


# --- webhooks ----------------------------------------------------------------------------------------------------------


class Hook:
    """A product's webhook on a port of its own: takes each POST, answers with what `answers` says next, else 204."""

    def __init__(self) -> None:
        self.posts: list[dict[str, Any]] = []
        self.answers: list[str] = []

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Hook]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook?secret=s"
        yield self
        server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        size = int(head.partition("content-length: ")[2].partition("\r\n")[0])
        self.posts.append(json.loads(await reader.readexactly(size)))
        status = self.answers.pop(0) if self.answers else "204 No Content"
        writer.write(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\nLocation: /elsewhere\r\nConnection: close\r\n\r\n".encode())
        await writer.drain()
        writer.close()

    def ids(self) -> list[str]:
        return [record["id"] for post in self.posts for record in post["records"]]


@asynccontextmanager
async def posting(core: Core) -> AsyncIterator[None]:
    """A coordinator's consumer, from now on."""
    outside = Outside(OutsideSettings.model_validate({"private": ["127.0.0.0/8"]}))
    webhooks = Webhooks(core.keeper, outside, backoff=(0.05, 0.05, 0.05))
    runner = Runner(
        core.settings.kafka, core.journal, topic=names.FALLBACK, group=unique("fallback"), handler=webhooks, name="fallback",
        fail=core.failures.append,
    )  # fmt: skip
    await runner.start()
    try:
        await eventually(lambda: runner.joined, what="the consumer group")
        yield
    finally:
        await runner.stop()
        await outside.stop()


def fallback(product: str, client: str, number: int) -> Entry:
    record = Fallback(
        id=f"{client}-{number}", product=product, realm="main", client=client, user=None, payload=b"\xff", content_type=None,
        properties={}, accepted_ms=1, reason="test",
    )  # fmt: skip
    return Entry(names.FALLBACK, client, record)


async def test_given_a_webhook_then_it_gets_batches_in_order_and_other_products_are_passed(core: Core) -> None:
    async with Hook().open() as hook:
        product, other, client = await core.product(fallback_webhook=hook.url), await core.product(), unique("c")
        await core.journal.produce([fallback(other, client, 0), *[fallback(product, client, i) for i in range(250)]])
        async with posting(core):
            await eventually(lambda: len(hook.ids()) >= 250, what="all records")
        assert hook.ids() == [f"{client}-{i}" for i in range(250)]
        assert max(len(post["records"]) for post in hook.posts) <= 100
        assert {post["product"] for post in hook.posts} == {product}
        assert hook.posts[0]["records"][0] == {
            "id": f"{client}-0", "realm": "main", "client": client, "user": None, "payload_base64": "/w==",
            "content_type": None, "properties": {}, "accepted_ms": 1, "reason": "test",
        }  # fmt: skip


async def test_given_a_webhook_that_fails_for_a_moment_then_it_is_tried_again_and_nothing_is_dead(core: Core) -> None:
    async with Hook().open() as hook, TopicReader(core.settings, names.DEAD).open() as dead:
        hook.answers = ["503 Away", "307 Elsewhere", "429 Slower"]
        product, client = await core.product(fallback_webhook=hook.url), unique("c")
        await core.journal.produce([fallback(product, client, 1)])
        async with posting(core):
            await eventually(lambda: len(hook.posts) == 4, what="four attempts")
        assert hook.ids() == [f"{client}-1"] * 4
        assert [r for r in dead.records if isinstance(r, DeadLetter) and r.product == product] == []


async def test_given_a_webhook_that_is_away_then_dead_letters_have_the_reason_and_no_secret_and_others_go_on(core: Core) -> None:
    async with Hook().open() as hook, TopicReader(core.settings, names.DEAD).open() as dead:
        away = "http://127.0.0.1:1/hook?secret=s"
        bad, good, client = await core.product(fallback_webhook=away), await core.product(fallback_webhook=hook.url), unique("c")
        await core.journal.produce([*[fallback(bad, client, i) for i in range(3)], fallback(good, client, 9)])
        async with posting(core):
            await eventually(lambda: hook.ids() == [f"{client}-9"], what="the other product's")
            letters = await eventually(lambda: _of(dead, bad, 3), what="three dead letters")
        assert {letter.topic for letter in letters} == {names.FALLBACK}
        assert sorted(letter.id or "" for letter in letters) == [f"{client}-{i}" for i in range(3)]
        assert all("127.0.0.1:1 did not take it in 4 attempts" in each.reason and "secret" not in each.reason for each in letters)
        assert isinstance(codec.decode(letters[0].value or b""), Fallback)


def _of(dead: TopicReader, product: str, count: int) -> list[DeadLetter]:
    found = [r for r in dead.records if isinstance(r, DeadLetter) and r.product == product]
    return found if len(found) >= count else []


# --- broadcasts --------------------------------------------------------------------------------------------------------


def registered(product: str, client: str, **changes: Any) -> Entry:
    fields = {"user": None, "groups": (), "attrs": {}, "qos": 1, "first_bind_ms": 5, **changes}
    record = ClientRecord(realm="main", client=client, product=product, bind=ClientProduct(**fields))
    return Entry(names.CLIENTS, f"main:{client} {product}", record, by=client)


class Pass:
    """What a run of JobFallback did, and who may stop it."""

    def __init__(self) -> None:
        self.done: dict[int, Reach] = {}
        self.taken: list[int] = []

    async def take(self, count: int) -> None:
        self.taken.append(count)

    async def passed(self, partition: int, reach: Reach) -> None:
        self.done[partition] = reach

    def total(self, what: Callable[[Reach], int]) -> int:
        return sum(what(reach) for reach in self.done.values())


@pytest.mark.parametrize("held", [500_000, 7], ids=["in one go", "share by share"])
async def test_given_a_broadcasts_fallback_then_exactly_who_is_eligible_and_unsettled_is_handed_over(
    core: Core, held: int
) -> None:
    product, other, room = await core.product(), await core.product(), await core.room()
    number = (3, 77)
    unsettled, settled = [unique("c") for _ in range(25)], [unique("c") for _ in range(5)]
    left, outside = unique("c"), unique("c")
    for client in settled:
        device = await room.connect(client)
        await device.bind(product)
        await device.sync(product, jobs=[SettledJob(product, *number, 3600)])
    await core.journal.produce(
        [
            *[registered(product, client, user="old") for client in unsettled],
            *[registered(product, client, user=f"u-{client}") for client in unsettled],
            registered(product, outside, attrs={"os": "else"}),
            registered(other, unique("c")),
            registered(product, left),
            Entry(names.CLIENTS, f"main:{left} {product}", None, by=left),
        ]
    )
    job = Broadcast(id=unique("job"), product=product, payload=b"x", properties={"k": "v"}, fallback_after_s=60)
    due = Due(job=job, number=number, started_ms=9, matches=lambda record: not record.bind.attrs)
    run, fallbacks = Pass(), TopicReader(core.settings, names.FALLBACK)
    async with fallbacks.open():
        walk = JobFallback(core.settings.kafka, core.journal, core.register, held=held)
        await walk.run(due, take=run.take, passed=run.passed, skip={0})
        assert sorted(run.done) == list(range(1, core.settings.kafka.partitions))
        await walk.run(due, take=run.take, passed=run.passed, skip=set(run.done))  # as another worker would go on
        found = await eventually(lambda: _handed(fallbacks, job.id, 25), what="25 fallbacks")
    assert sorted((each.client, each.user) for each in found) == sorted((client, f"u-{client}") for client in unsettled)
    assert {(each.payload, each.accepted_ms, each.reason) for each in found} == {
        (b"x", 9, "not settled 60 s after the broadcast began")
    }
    assert (run.total(lambda r: r.eligible), run.total(lambda r: r.handed)) == (30, 25)
    assert sum(run.taken) == 25


def _handed(fallbacks: TopicReader, job: str, count: int) -> list[Fallback]:
    found = [each for each in fallbacks.records if isinstance(each, Fallback) and each.id == job]
    return found if len(found) >= count else []
