"""Broadcasts that are steered through real processes: what is asked in `push.broadcasts` holds at the devices within a second."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from broadcast_shop import CLIENTS, Shop, open_shop
from worker_process import environment, running, start, until

from infra.settings import Settings

pytestmark = [pytest.mark.xdist_group("local-brokers"), pytest.mark.timeout(180)]

SLOW = 40


@pytest_asyncio.fixture(scope="module")
async def shop(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shop]:
    async with open_shop(settings, tmp_path_factory.mktemp("life"), "life-shop") as made:
        yield made


async def test_given_a_running_broadcast_when_paused_resumed_and_hurried_then_each_holds_within_a_second(shop: Shop):
    async with running("workers.main:broadcast", shop.settings, shop.folder / "steered"):
        await shop.send("steered", rate=SLOW)
        await until(lambda: shop.persons("steered") >= SLOW)
        await shop.ask("steered", "pause", by="test", reason="lunch")
        asked = time.monotonic()
        await asyncio.sleep(2.5)
        assert shop.last - asked < 1.0
        paused = shop.persons("steered")
        assert (await shop.view("steered"))["reason"] == "lunch"
        await asyncio.sleep(1.0)
        assert shop.persons("steered") == paused < 2 * CLIENTS
        await shop.ask("steered", "rate", rate=1_000)
        await shop.ask("steered", "resume")
        asked = time.monotonic()
        await until(lambda: shop.persons("steered") > paused)
        assert time.monotonic() - asked < 1.0
        await until(lambda: shop.persons("steered") == 2 * CLIENTS, deadline=5)
    assert set(shop.got.values()) == {1}


async def test_given_a_paused_broadcast_when_its_owner_is_killed_then_it_stays_paused_and_the_next_one_obeys(
    shop: Shop,
):
    folder = shop.folder / "killed"
    first = await start("workers.main:broadcast", folder, environment(shop.settings, folder))
    try:
        await shop.send("handed", rate=SLOW)
        await until(lambda: shop.persons("handed") >= SLOW)
        await shop.ask("handed", "pause")

        async def paused() -> bool:
            return await shop.state("handed") == "paused"

        await until(paused)
    finally:
        first.kill()
        await first.wait()
    written = shop.persons("handed")
    async with running("workers.main:broadcast", shop.settings, shop.folder / "second"):
        await shop.ask("handed", "rate", rate=1_000)

        async def taken_over() -> bool:
            return (await shop.view("handed"))["rate"] == 1_000

        await until(taken_over, deadline=60)
        await asyncio.sleep(1.0)
        assert shop.persons("handed") == written
        await shop.ask("handed", "resume")
        await until(lambda: shop.persons("handed") == 2 * CLIENTS)
    assert set(shop.got.values()) == {1}


async def test_given_a_broadcast_that_is_cancelled_then_nobody_gets_it_any_more_nor_who_comes_later(shop: Shop):
    async with running("workers.main:broadcast", shop.settings, shop.folder / "cancelled"):
        await shop.send("gone", rate=SLOW, include_new=True)
        await until(lambda: shop.persons("gone") >= SLOW)
        await shop.ask("gone", "cancel", by="test")
        asked = time.monotonic()

        async def cancelled() -> bool:
            return await shop.state("gone") == "cancelled"

        await until(cancelled, deadline=5)
        await asyncio.sleep(1.5)
        assert shop.last - asked < 1.0
        assert shop.persons("gone") < 2 * CLIENTS
