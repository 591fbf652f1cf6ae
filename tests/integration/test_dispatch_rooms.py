"""The dispatcher with what rooms really say: labels, capacity, and a drain within the pool."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from worker_process import running, until

from gateway.backend.neighbours import addresses
from infra.bus import Bus
from infra.documents import Product, product_key
from infra.keeper import Keeper
from infra.rooms import Rooms
from infra.settings import Settings
from tests.unit.mmdb_writer import mmdb

pytestmark = pytest.mark.xdist_group("local-brokers")

POOL = "dispatch-pool"
PRODUCT = "dispatch-shop"


@pytest_asyncio.fixture(scope="module")
async def bus(settings: Settings) -> AsyncIterator[Bus]:
    part = Bus(settings.nats, name="test-dispatch", version="0.0.0")
    await part.start()
    yield part
    await part.stop()


async def test_given_rooms_of_a_pool_then_their_devices_and_their_drain_stay_in_it(
    settings: Settings, bus: Bus, tmp_path: Path
) -> None:
    geo = tmp_path / "country.mmdb"
    geo.write_bytes(mmdb({"203.0.113.0/24": {"country": {"iso_code": "DE"}, "continent": {"code": "EU"}}}))
    await Keeper(bus, disk=tmp_path / "keeper").put(product_key(PRODUCT), Product(name=PRODUCT, pool=POOL))
    rooms = Rooms(bus, dead_after=lambda: 10.0)
    await rooms.start()
    async with (
        running("gateway.main:main", settings, tmp_path / "one", **told("pool-1", capacity=123, region="eu")),
        running("gateway.main:main", settings, tmp_path / "two", **told("pool-2", capacity=123)),
        running("gateway.main:main", settings, tmp_path / "alone", LONGWIRE_ROOM__ID="pool-none"),
        running(
            "workers.center.main:main",
            settings,
            tmp_path / "center",
            LONGWIRE_CENTER__API_KEY="k",
            LONGWIRE_CENTER__BALANCERS='["127.0.0.0/8"]',
            LONGWIRE_CENTER__GEO=str(geo),
            LONGWIRE_CENTER__GEO_REGIONS='{"EU": "eu"}',
        ) as center,
        httpx.AsyncClient(base_url=center["url"], trust_env=False) as http,
    ):

        async def where(product: str) -> list[str]:
            asked = {"client": "c1"} | ({"product": product} if product else {})
            answer = await http.get("/v1/dispatch", params=asked, headers={"X-Forwarded-For": "203.0.113.9"})
            return [entry["room"] for entry in answer.json()["addresses"]] if answer.is_success else []

        async def all_there() -> bool:
            return len(await where(PRODUCT)) == 2 and "pool-none" in await where("")

        await until(all_there)
        assert await where(PRODUCT) == ["pool-1", "pool-2"]  # the region's first
        assert not {"pool-1", "pool-2"} & set(await where(""))

        leases = {view.entry.room: view.lease for view in rooms.live()}
        assert (leases["pool-1"].capacity, leases["pool-1"].admits) == (123, True)

        ports = {view.entry.room: view.entry.port for view in rooms.live()}
        found = await addresses(bus, room="pool-1", pool=POOL, lease_interval=3.0)
        assert found["mqtt"] == [f"127.0.0.1:{ports['pool-2']}"]
        others = await addresses(bus, room="pool-none", pool="", lease_interval=3.0)
        assert not {f"127.0.0.1:{ports['pool-1']}", f"127.0.0.1:{ports['pool-2']}"} & set(others.get("mqtt", []))
    await rooms.stop()


def told(room: str, *, capacity: int, region: str = "") -> dict[str, str]:
    labels = f'{{"pool": "{POOL}"' + (f', "region": "{region}"' if region else "") + "}"
    return {
        "LONGWIRE_ROOM__ID": room,
        "LONGWIRE_ROOM__LABELS": labels,
        "LONGWIRE_ROOM__MAX_CONNECTIONS": str(capacity),
    }
