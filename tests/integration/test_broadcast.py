"""Broadcasts through real processes: two rooms, a saver, a broadcast worker that is killed midway, and devices."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from joserfc import jwt
from joserfc.jwk import OctKey
from nats.js.errors import KeyNotFoundError
from worker_process import environment, running, start, until

from infra.bus import Bus
from infra.journal import Entry, Journal
from infra.keeper import Issuer, Keeper, Policy, Product, SigningKey, issuer_key, product_key
from infra.settings import Settings
from pushclient import PushClient, PushMessage
from schemas import names
from schemas.broadcasts import Broadcast

pytestmark = [pytest.mark.xdist_group("local-brokers"), pytest.mark.timeout(180)]

PRODUCT = "broadcast-shop"
SECRET = "integration-secret-integration-secret"
CLIENTS = 150
RATE = 100


class Shop:
    """Two rooms and their devices."""

    def __init__(self, bus: Bus, journal: Journal, settings: Settings, folder: Path) -> None:
        self.bus = bus
        self.journal = journal
        self.settings = settings
        self.folder = folder
        self.got: Counter[tuple[str, str]] = Counter()
        self.last = 0.0

    async def device(self, client: str, server: tuple[str, int]) -> PushClient:
        def take(message: PushMessage) -> None:
            self.got[client, message.id] += 1
            self.last = time.monotonic()

        made = PushClient(client_id=client, token=lambda: token(client), servers=[server], on_message=take)
        await made.start()
        await made.bind(PRODUCT)
        return made

    async def send(self, job: str, **fields: Any) -> None:
        record = Broadcast(id=job, product=PRODUCT, payload=b"sale", **fields)
        await self.journal.produce([Entry(names.BROADCASTS, PRODUCT, record)])

    async def view(self, job: str) -> dict[str, Any]:
        bucket = await self.bus.bucket(names.KV_JOBS)
        try:
            entry = await bucket.get(job)
        except KeyNotFoundError:
            return {}
        found: dict[str, Any] = json.loads(entry.value or b"{}")
        return found

    def persons(self, job: str) -> int:
        return sum(item == job for _, item in self.got)


def token(client: str) -> str:
    claims = {"iss": "shop", "aud": "longwire", "sub": client, "exp": int(time.time()) + 600, "products": {PRODUCT: {}}}
    return jwt.encode({"alg": "HS256"}, claims, OctKey.import_key(SECRET))


@asynccontextmanager
async def room(settings: Settings, folder: Path, name: str) -> AsyncIterator[tuple[str, int]]:
    async with running(
        "gateway.main:main", settings, folder / name, LONGWIRE_ROOM__ID=name, LONGWIRE_ROOM__DRAIN="0.2s"
    ) as report:
        yield report["host"], report["port"]


@pytest_asyncio.fixture(scope="module")
async def shop(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shop]:
    folder = tmp_path_factory.mktemp("broadcast")
    bus, journal = Bus(settings.nats, name="test-broadcast", version="0.0.0"), Journal(settings.kafka, name="test-broadcast")
    async with AsyncExitStack() as stack:
        for part in (bus, journal):
            await part.start()
            stack.push_async_callback(part.stop)
        keeper = Keeper(bus, disk=folder / "keeper")
        key = SigningKey(secret=SECRET)  # type: ignore[arg-type]
        await keeper.put(product_key(PRODUCT), Product(name=PRODUCT))
        await keeper.put(issuer_key("shop"), Issuer(iss="shop", keys=(key,), products=(PRODUCT,)))
        await keeper.put("policy", Policy(lease_interval=1.0, lease_dead_after=4.0, sync_interval=5.0))
        await stack.enter_async_context(running("workers.main:delivery", settings, folder / "delivery"))  # it opens the register
        await stack.enter_async_context(running("workers.main:saver", settings, folder / "saver"))
        servers = [await stack.enter_async_context(room(settings, folder, name)) for name in ("bcast-a", "bcast-b")]
        made = Shop(bus, journal, settings, folder)
        devices = await asyncio.gather(*(made.device(f"d{i}", servers[i % 2]) for i in range(2 * CLIENTS)))
        yield made
        await asyncio.gather(*(item.close() for item in devices))


async def test_given_a_broadcast_when_its_owner_is_killed_midway_then_another_goes_on_and_everyone_has_it_once(shop: Shop):
    folder = shop.folder / "killed"
    first = await start("workers.main:broadcast", folder, environment(shop.settings, folder))
    try:
        await shop.send("killed-job", rate=RATE)
        await until(lambda: shop.persons("killed-job") >= CLIENTS // 2)
    finally:
        first.kill()
        await first.wait()
    at_kill = shop.persons("killed-job")
    async with running("workers.main:broadcast", shop.settings, shop.folder / "second"):
        await until(lambda: shop.persons("killed-job") == 2 * CLIENTS, deadline=60)

        async def counted() -> bool:
            view = await shop.view("killed-job")
            return bool(view) and view["totals"]["acked"] == 2 * CLIENTS

        await until(counted)
    view = await shop.view("killed-job")
    assert at_kill < 2 * CLIENTS
    assert set(shop.got.values()) == {1}
    assert (view["state"], view["totals"]["sent"], view["targeted"], view["progress"]) == (
        "completed",
        2 * CLIENTS,
        2 * CLIENTS,
        1.0,
    )


async def test_given_a_rate_when_broadcast_then_it_takes_the_time_that_the_rate_says(shop: Shop):
    async with running("workers.main:broadcast", shop.settings, shop.folder / "paced"):
        began = time.monotonic()
        await shop.send("paced-job", rate=RATE)
        await until(lambda: shop.persons("paced-job") > 0)
        first = time.monotonic()
        await until(lambda: shop.persons("paced-job") == 2 * CLIENTS)
        took = shop.last - first
    assert 0.8 * 2 * CLIENTS / RATE <= took <= 1.25 * 2 * CLIENTS / RATE
    assert first - began < 30


async def test_given_a_job_that_is_over_in_the_rooms_when_a_device_comes_then_it_gets_it_late_and_only_once(shop: Shop):
    async with running("workers.main:broadcast", shop.settings, shop.folder / "late"):
        await shop.send("late-job", ttl_s=3600, include_new=True)
        await until(lambda: shop.persons("late-job") == 2 * CLIENTS)
        address = json.loads((shop.folder / "bcast-a" / "report.json").read_text())
        server = (address["host"], address["port"])
        device = await shop.device("latecomer", server)
        await until(lambda: shop.got["latecomer", "late-job"] == 1)
        await device.close()
        again = await shop.device("latecomer", server)
        await shop.send("next-job", include_new=True)
        await until(lambda: shop.got["latecomer", "next-job"] == 1)
        await again.close()
    assert shop.got["latecomer", "late-job"] == 1
