"""One whole system for all end-to-end tests: real brokers, every worker, two rooms."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from system import Stand

from infra.keeper import Policy
from infra.ops.up import RunningSystem
from infra.settings import load

SYNC_INTERVAL = 5.0


@pytest_asyncio.fixture(scope="session")
async def system(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stand]:
    """A system of two rooms, as `pushctl up` starts it, and what the tests ask of it."""
    settings = load(data=tmp_path_factory.mktemp("system"))
    running = RunningSystem(settings, rooms=2, policy=Policy(sync_interval=SYNC_INTERVAL))
    stand = None
    try:
        stand = Stand(await running.start(), settings.kafka.partitions)
        await stand.start()
        yield stand
    finally:
        if stand is not None:
            await stand.stop()
        await running.stop()
