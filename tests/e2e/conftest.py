"""One whole system for all end-to-end tests: real brokers, every worker, two rooms."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from system import Stand

from infra.documents import Policy
from infra.ops.up import RunningSystem
from infra.settings import load
from tests.unit.certs import Authority

SYNC_INTERVAL = 5.0


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the rooms' certificate, and `ca.pem`, which is to be trusted."""
    folder = tmp_path_factory.mktemp("certificates")
    Authority(folder).issue("room.test")
    return folder


@pytest_asyncio.fixture(scope="session")
async def system(tmp_path_factory: pytest.TempPathFactory, authority: Path) -> AsyncIterator[Stand]:
    """A system of two rooms, as `pushctl up` starts it, with ports for TLS and WebSocket, and what the tests ask of it."""
    certificates = [{"certificate": str(authority / "room.test.crt"), "key": str(authority / "room.test.key")}]
    listeners = {
        "LONGWIRE_ROOM__TLS__CERTIFICATES": json.dumps(certificates),
        "LONGWIRE_ROOM__LISTENERS": json.dumps([{"transport": "mqtts"}, {"transport": "wss"}]),
    }
    settings = load(data=tmp_path_factory.mktemp("system"))
    running = RunningSystem(settings, rooms=2, policy=Policy(sync_interval=SYNC_INTERVAL), changes=lambda name: listeners)
    stand = None
    try:
        stand = Stand(await running.start(), settings.kafka.partitions)
        await stand.start()
        yield stand
    finally:
        if stand is not None:
            await stand.stop()
        await running.stop()
