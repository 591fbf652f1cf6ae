"""Explicit lists through real processes: uploaded by `pushctl` and center, sent by an owner that is killed midway, counted."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from core import TopicReader, unique
from joserfc import jwt
from joserfc.jwk import OctKey
from nats.js.errors import KeyNotFoundError
from worker_process import ROOT, environment, running, start, until

from infra.audiences import Audiences
from infra.bus import Bus
from infra.documents import Issuer, Policy, Product, SigningKey, issuer_key, product_key
from infra.journal import Entry, Journal
from infra.keeper import Keeper
from infra.register import Register
from infra.settings import Settings
from infra.system import System
from pushclient import PushClient, PushMessage
from schemas import names, records
from schemas.broadcasts import AudienceChunk, Broadcast
from workers.broadcast.receiptcount import Followed, ReceiptCounts

pytestmark = [pytest.mark.xdist_group("local-brokers"), pytest.mark.timeout(240)]

PRODUCT = "list-shop"
SECRET = "integration-secret-integration-secret"
KEY = "integration-key"
LISTED, ONLINE, AWAY, RATE = 3_000, 120, 60, 500


def token(client: str) -> str:
    claims = {"iss": "lists", "aud": "longwire", "sub": client, "exp": int(time.time()) + 600, "products": {PRODUCT: {}}}
    return jwt.encode({"alg": "HS256"}, claims, OctKey.import_key(SECRET))


class Shop:
    """A whole system but for the broadcast worker, which a test starts and kills itself."""

    def __init__(self, settings: Settings, folder: Path, bus: Bus, journal: Journal, register: Register) -> None:
        self.settings = settings
        self.folder = folder
        self.bus = bus
        self.journal = journal
        self.register = register
        self.server = ("", 0)
        self.center = ""
        self.got: Counter[tuple[str, str]] = Counter()

    async def device(self, client: str) -> PushClient:
        def take(message: PushMessage) -> None:
            self.got[client, message.id] += 1

        made = PushClient(client_id=client, token=lambda: token(client), servers=[self.server], on_message=take)
        await made.start()
        await made.bind(PRODUCT)
        return made

    async def pushctl(self, *arguments: str) -> tuple[int, str, str]:
        """Run a command against this center; returns status, stdout, stderr."""
        where: dict[str, Any] = {"center": self.center, "api_key": KEY, "data": str(self.folder), "pid": os.getpid()}
        System(**where, rooms=[], nats="", kafka="", redis="", logs="").save()
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.folder), "PYTHONPATH": str(ROOT)}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "cli", *arguments, "--data", str(self.folder), cwd=ROOT, env=environment,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, err = await process.communicate()
        assert process.returncode is not None
        return process.returncode, out.decode(), err.decode()

    async def send(self, job: str, **fields: Any) -> None:
        record = Broadcast(id=job, product=PRODUCT, payload=b"sale", **fields)
        await self.journal.produce([Entry(names.BROADCASTS, PRODUCT, record)])

    async def view(self, job: str) -> dict[str, Any]:
        bucket = await self.bus.bucket(names.KV_JOBS)
        try:
            found: dict[str, Any] = json.loads((await bucket.get(job)).value or b"{}")
        except KeyNotFoundError:
            return {}
        return found

    async def pending(self, client: str) -> int:
        view = await self.register.show(names.client_key("main", client), [PRODUCT])
        return view.pending.get(PRODUCT, 0) if view else 0


@pytest_asyncio.fixture(scope="module")
async def shop(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shop]:
    folder = tmp_path_factory.mktemp("lists")
    bus, journal = Bus(settings.nats, name="test-lists", version="0.0.0"), Journal(settings.kafka, name="test-lists")
    register = Register(settings.redis)
    async with AsyncExitStack() as stack:
        for part in (bus, journal):
            await part.start()
            stack.push_async_callback(part.stop)
        keeper = Keeper(bus, disk=folder / "keeper")
        key = SigningKey(secret=SECRET)  # type: ignore[arg-type]
        await keeper.put(product_key(PRODUCT), Product(name=PRODUCT))
        await keeper.put(issuer_key("lists"), Issuer(iss="lists", keys=(key,), products=(PRODUCT,)))
        await keeper.put("policy", Policy(lease_interval=1.0, lease_dead_after=4.0, sync_interval=5.0))
        await stack.enter_async_context(running("workers.main:delivery", settings, folder / "delivery"))  # it opens the register
        await stack.enter_async_context(running("workers.main:saver", settings, folder / "saver"))
        await register.start()
        stack.push_async_callback(register.stop)
        made = Shop(settings, folder, bus, journal, register)
        report = await stack.enter_async_context(
            running("gateway.main:main", settings, folder / "room", LONGWIRE_ROOM__ID="list-a", LONGWIRE_ROOM__DRAIN="0.2s")
        )
        made.server = report["host"], report["port"]
        report = await stack.enter_async_context(
            running("workers.center.main:main", settings, folder / "center", LONGWIRE_CENTER__API_KEY=KEY)
        )
        made.center = report["url"]
        yield made


def most_in(times: list[float], seconds: float) -> int:
    """The most of these times in any window of so many seconds."""
    most = first = 0
    for last, when in enumerate(times):
        while when - times[first] >= seconds:
            first += 1
        most = max(most, last - first + 1)
    return most


async def test_given_a_list_of_online_offline_and_unknown_clients_when_its_owner_is_killed_midway_then_everyone_has_it_once(
    shop: Shop,
):
    online, away = [f"on{i}" for i in range(ONLINE)], [f"off{i}" for i in range(AWAY)]
    unknown = [f"unknown{i}" for i in range(LISTED - ONLINE - AWAY)]
    every = LISTED // ONLINE
    listed = [client for i in range(ONLINE) for client in (online[i], *unknown[i * (every - 1) : (i + 1) * (every - 1)])]
    listed = [*listed[: LISTED - AWAY], *away]
    path = shop.folder / "list.csv"
    path.write_text("client,name\n" + "".join(f"{client},x\n" for client in listed))
    status, out, err = await shop.pushctl("audience", "upload", str(path), "--product", PRODUCT, "--id", "vips", "--json")
    assert (status, json.loads(out or "{}").get("clients")) == (0, LISTED), err
    devices = [await shop.device(client) for client in (*online, *away)]
    for device in devices[ONLINE:]:
        await device.close()
    folder = shop.folder / "killed"
    reader = TopicReader(shop.settings, names.MESSAGES)
    async with reader.open():
        first = await start("workers.main:broadcast", folder, environment(shop.settings, folder))
        try:
            await shop.send("list-job", rate=RATE, audience="vips", ttl_s=3600)
            await until(lambda: len(sent(reader, "list-job")) >= LISTED // 2, deadline=60)
        finally:
            first.kill()
            await first.wait()
        before = len(sent(reader, "list-job"))
        async with running("workers.main:broadcast", shop.settings, shop.folder / "second"):
            await until(lambda: len({m.client for m, _ in sent(reader, "list-job")}) == LISTED, deadline=60)
            await until(lambda: all(shop.got[client, "list-job"] for client in online))

            async def counted() -> bool:
                view = await shop.view("list-job")
                return bool(view) and view["state"] == "completed" and view["totals"]["acked"] == ONLINE

            await until(counted)
            view = await shop.view("list-job")
            assert (view["totals"]["sent"], view["totals"]["waiting"]) == (LISTED, LISTED - ONLINE)
            assert (view["targeted"], view["progress"]) == (LISTED, 1.0)
            back = [await shop.device(client) for client in away]
            await until(lambda: all(shop.got[client, "list-job"] for client in away))
            await until(lambda: acked(shop, "list-job", ONLINE + AWAY))
        found = sent(reader, "list-job")
    assert before < LISTED
    assert [shop.got[client, "list-job"] for client in (*online, *away)] == [1] * (ONLINE + AWAY)
    assert {await shop.pending(client) for client in unknown[::100]} == {1}
    assert {await shop.pending(client) for client in (*online[::20], *away[::20])} == {0}
    assert len(found) <= LISTED + 3 * RATE  # what the killed owner's last seconds had is produced again
    times = [when / 1000 for _, when in found]
    for seconds in (0.1, 0.5, 1.0, 2.0):
        most = most_in(times, seconds)
        assert most <= RATE * seconds + RATE * 1.25, f"{most} in {seconds} s"
    for device in (*devices[:ONLINE], *back):
        await device.close()


def sent(reader: TopicReader, job: str) -> list[tuple[records.PushMessage, int]]:
    """The messages of a job with their append times, ms."""
    return [
        (record, item.timestamp)
        for record, item in zip(reader.records, reader.raw, strict=False)
        if isinstance(record, records.PushMessage) and record.id == job
    ]


async def acked(shop: Shop, job: str, count: int) -> bool:
    view = await shop.view(job)
    return bool(view) and view["totals"]["acked"] == count


async def test_given_bad_lines_when_uploaded_by_pushctl_then_status_5_with_the_lines_or_the_good_ones_are_kept(shop: Shop):
    path = shop.folder / "bad.ndjson"
    path.write_text('"a"\n{"user": "b"}\n"c"\n')
    upload = ("audience", "upload", str(path), "--product", PRODUCT, "--id", "mixed")
    status, out, err = await shop.pushctl(*upload)
    assert (status, out) == (5, "")
    assert "1 lines give no id (line 2:" in err
    assert (await shop.pushctl("audience", "show", "mixed", "--product", PRODUCT))[0] == 4
    status, out, err = await shop.pushctl(*upload, "--keep-good")
    assert (status, out.strip()) == (0, "audience mixed: 2 clients, 1 lines left out")
    assert "line 2 left out" in err
    _, out, _ = await shop.pushctl("audience", "show", "mixed", "--product", PRODUCT)
    assert out.strip() == "audience mixed: 2 clients of realm main, sealed"
    async with httpx.AsyncClient(base_url=shop.center, headers={"X-API-Key": KEY}) as http:
        again = await http.put(
            "/v1/audiences/mixed", params={"product": PRODUCT}, content=b"x", headers={"Content-Type": "text/plain"}
        )
    assert again.status_code == 409


async def test_given_a_large_list_when_uploaded_then_center_streams_it_and_an_owner_finds_it_whole(shop: Shop):
    count = 100_000

    async def body() -> AsyncIterator[bytes]:
        for at in range(0, count, 1_000):
            yield b"".join(b"large-%d\n" % i for i in range(at, at + 1_000))

    async with httpx.AsyncClient(base_url=shop.center, headers={"X-API-Key": KEY}, timeout=60) as http:
        url, params = "/v1/audiences/large", {"product": PRODUCT}
        answer = await http.put(url, params=params, content=body(), headers={"Content-Type": "text/plain"})
    assert (answer.status_code, answer.json()["clients"], answer.json()["chunks"]) == (201, count, count // 1_000 + 1)
    audiences = Audiences(shop.settings.kafka, shop.journal.partitions, name="test")
    found = await audiences.find(PRODUCT, "large")
    assert found is not None
    assert (found.sealed, found.clients) == (True, count)
    async with aclosing(audiences.read(PRODUCT, "large", found.first)) as reading:
        chunks = [chunk async for chunk in reading]
    assert [client for chunk in chunks for client in chunk.record.clients] == [f"large-{i}" for i in range(count)]
    async with aclosing(audiences.read(PRODUCT, "large", chunks[70].offset)) as reading:
        assert [chunk.offset async for chunk in reading] == [chunk.offset for chunk in chunks[70:]]
    async with aclosing(audiences.read(PRODUCT, "large", 1 << 40)) as reading:
        assert [chunk async for chunk in reading] == []


async def test_given_two_uploads_side_by_side_when_found_then_it_is_the_first_that_was_sealed_and_never_a_mixture(shop: Shop):
    name = unique("mixed")

    async def produce(upload: str, number: int, *clients: str, sealed: int | None = None) -> None:
        chunk = AudienceChunk(audience=name, product=PRODUCT, upload=upload, number=number, clients=clients, sealed=sealed)
        await shop.journal.produce([Entry(names.AUDIENCES, names.audience_key(PRODUCT, name), chunk)])

    audiences = Audiences(shop.settings.kafka, shop.journal.partitions, name="test")
    assert await audiences.find(PRODUCT, name) is None
    await produce("one", 0, "a", "b")
    await produce("two", 0, "x")
    await produce("one", 1, "c")
    await produce("one", 1, "c")  # a repeat
    found = await audiences.find(PRODUCT, name)
    assert found is not None
    assert (found.upload, found.sealed, found.clients) == ("two", False, 1)
    await produce("two", 2, "z", sealed=2)  # one is missing
    await produce("one", 2, sealed=3)
    await produce("three", 0, "q", sealed=1)
    found = await audiences.find(PRODUCT, name)
    assert found is not None
    assert (found.upload, found.sealed, found.clients, found.chunks) == ("one", True, 3, 3)
    async with aclosing(audiences.read(PRODUCT, name, found.first)) as reading:
        assert [client async for chunk in reading for client in chunk.record.clients] == ["a", "b", "c"]


async def test_given_receipts_when_followed_from_the_start_or_from_a_place_then_each_is_counted_once_for_each_job(shop: Shop):
    job, other = unique("job"), unique("job")

    async def receipt(name: str, client: str, state: str, product: str = PRODUCT) -> None:
        record = records.Receipt(id=name, product=product, realm="main", client=client, state=state, at_ms=0)  # type: ignore[arg-type]
        for place in await shop.journal.produce([Entry(names.RECEIPTS, client, record)]):
            ends[place.partition] = place.offset + 1

    def whole(*followed: Followed) -> bool:
        """All that is here so far was looked at; `current` is true somewhat before."""
        return all(each.next.get(partition, 0) >= end for each in followed for partition, end in ends.items())

    ends: dict[int, int] = {}
    begun_ms = int(time.time() * 1000)
    for i in range(30):
        await receipt(job, f"c{i}", "acked" if i % 3 else "expired")
        await receipt(other, f"c{i}", "acked")
        await receipt(job, f"c{i}", "acked", product="another")
        await receipt(job + "x", f"c{i}", "acked")
    failed: list[str] = []
    counts = ReceiptCounts(shop.settings.kafka, shop.journal.partitions, fail=failed.append)
    await counts.start()
    try:
        first = Followed(job, PRODUCT, begun_ms)
        counts.follow(first)
        await until(lambda: whole(first) and first.current)
        assert first.counts == {"acked": 20, "expired": 10}
        kept = Followed(job, PRODUCT, begun_ms, dict(first.counts), dict(first.next))
        counts.leave(first)
        await receipt(job, "c99", "rejected")
        second = Followed(other, PRODUCT, begun_ms)  # begins far before where the one that is taken over goes on
        counts.follow(kept)
        counts.follow(second)
        await until(lambda: whole(kept, second) and kept.current and second.current)
        assert (kept.counts, second.counts) == ({"acked": 20, "expired": 10, "rejected": 1}, {"acked": 30})
        assert first.counts == {"acked": 20, "expired": 10}
    finally:
        await counts.stop()
    assert failed == []


async def test_given_an_audience_that_is_not_there_when_sent_to_then_the_job_is_cancelled_with_the_reason(shop: Shop):
    async with running("workers.main:broadcast", shop.settings, shop.folder / "unknown"):
        await shop.send("nobody-job", audience="no-such-list")

        async def cancelled() -> bool:
            view = await shop.view("nobody-job")
            return bool(view) and view["state"] == "cancelled"

        await until(cancelled, deadline=60)
    assert "has no audience no-such-list" in (await shop.view("nobody-job"))["reason"]
