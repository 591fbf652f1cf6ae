"""A short `make chaos`: SIGKILL of each process, Redis wiped, its tail lost, NATS down, with 200 devices in one world."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.chaos.fault import Fault
from tests.chaos.faults import short
from tests.chaos.row import run_row
from tests.chaos.world import Scale, World

pytestmark = [pytest.mark.xdist_group("chaos"), pytest.mark.timeout(300)]

SCALE = Scale(devices=200, per_second=25.0, rate=100, before=2.0, after=4.0, total=0.0)


@pytest_asyncio.fixture(scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    found = World(tmp_path_factory.mktemp("chaos"), SCALE, lambda line: None)
    try:
        await found.start()
        yield found
    finally:
        await found.stop()


@pytest.mark.parametrize("fault", short(), ids=lambda fault: fault.name)
async def test_given_traffic_when_the_fault_comes_and_goes_then_nothing_is_lost(
    world: World, fault: Fault, tmp_path: Path
) -> None:
    row = await run_row(world, fault, seed=4, folder=tmp_path, progress=lambda line: None)
    assert row.ok, row.document()
