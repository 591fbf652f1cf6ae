"""A product whose broadcasts run through real processes: two rooms, a saver, a delivery worker, and devices that count."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from joserfc import jwt
from joserfc.jwk import OctKey
from nats.js.errors import KeyNotFoundError
from worker_process import running

from infra.bus import Bus
from infra.documents import Issuer, Policy, Product, SigningKey, issuer_key, product_key
from infra.journal import Entry, Journal
from infra.keeper import Keeper
from infra.settings import Settings
from pushclient import PushClient, PushMessage
from schemas import names
from schemas.broadcasts import Broadcast, Transition

SECRET = "integration-secret-integration-secret"
CLIENTS = 150
RATE = 100


class Shop:
    """Two rooms and their devices."""

    def __init__(self, bus: Bus, journal: Journal, settings: Settings, folder: Path, product: str) -> None:
        self.product = product
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

        made = PushClient(client_id=client, token=lambda: token(client, self.product), servers=[server], on_message=take)
        await made.start()
        await made.bind(self.product)
        return made

    async def send(self, job: str, **fields: Any) -> None:
        record = Broadcast(id=job, product=self.product, payload=b"sale", **fields)
        await self.journal.produce([Entry(names.BROADCASTS, self.product, record)])

    async def ask(self, job: str, action: str, **fields: Any) -> None:
        """A command, as center would produce it; returns when Kafka has it."""
        record = Transition(job=job, product=self.product, action=action, **fields)
        await self.journal.produce([Entry(names.BROADCASTS, self.product, record)])

    async def state(self, job: str) -> str:
        return str((await self.view(job)).get("state", ""))

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


def made_names(product: str) -> tuple[str, str]:
    return f"{product}-a", f"{product}-b"


def token(client: str, product: str) -> str:
    claims = {"iss": product, "aud": "longwire", "sub": client, "exp": int(time.time()) + 600, "products": {product: {}}}
    return jwt.encode({"alg": "HS256"}, claims, OctKey.import_key(SECRET))


@asynccontextmanager
async def room(settings: Settings, folder: Path, name: str) -> AsyncIterator[tuple[str, int]]:
    async with running(
        "gateway.main:main", settings, folder / name, LONGWIRE_ROOM__ID=name, LONGWIRE_ROOM__DRAIN="0.2s"
    ) as report:
        yield report["host"], report["port"]


@asynccontextmanager
async def open_shop(settings: Settings, folder: Path, product: str) -> AsyncIterator[Shop]:
    """Open it; `product` is its own, and the rooms' ids come from it."""
    bus, journal = Bus(settings.nats, name="test-broadcast", version="0.0.0"), Journal(settings.kafka, name="test-broadcast")
    async with AsyncExitStack() as stack:
        for part in (bus, journal):
            await part.start()
            stack.push_async_callback(part.stop)
        keeper = Keeper(bus, disk=folder / "keeper")
        key = SigningKey(secret=SECRET)  # type: ignore[arg-type]
        await keeper.put(product_key(product), Product(name=product))
        await keeper.put(issuer_key(product), Issuer(iss=product, keys=(key,), products=(product,)))
        await keeper.put("policy", Policy(lease_interval=1.0, lease_dead_after=4.0, sync_interval=5.0))
        await stack.enter_async_context(running("workers.main:delivery", settings, folder / "delivery"))  # it opens the register
        await stack.enter_async_context(running("workers.main:saver", settings, folder / "saver"))
        servers = [await stack.enter_async_context(room(settings, folder, name)) for name in made_names(product)]
        made = Shop(bus, journal, settings, folder, product)
        devices = await asyncio.gather(*(made.device(f"d{i}", servers[i % 2]) for i in range(2 * CLIENTS)))
        yield made
        await asyncio.gather(*(item.close() for item in devices))
