"""Broadcasts through real processes: two rooms, a saver, a broadcast worker that is killed midway, and devices."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from broadcast_shop import CLIENTS, RATE, Shop, made_names, open_shop
from worker_process import environment, running, start, until

from infra.settings import Settings

pytestmark = [pytest.mark.xdist_group("local-brokers"), pytest.mark.timeout(180)]


@pytest_asyncio.fixture(scope="module")
async def shop(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shop]:
    async with open_shop(settings, tmp_path_factory.mktemp("broadcast"), "broadcast-shop") as made:
        yield made


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
        address = json.loads((shop.folder / made_names(shop.product)[0] / "report.json").read_text())
        server = (address["host"], address["port"])
        device = await shop.device("latecomer", server)
        await until(lambda: shop.got["latecomer", "late-job"] == 1)
        await device.close()
        again = await shop.device("latecomer", server)
        await shop.send("next-job", include_new=True)
        await until(lambda: shop.got["latecomer", "next-job"] == 1)
        await again.close()
    assert shop.got["latecomer", "late-job"] == 1
