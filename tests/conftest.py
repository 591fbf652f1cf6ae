"""Real brokers for the tests that need them: one set a session, started when the first test asks for it."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import hypothesis
import pytest
import pytest_asyncio

from gateway import compiled
from infra.journal import apply_topics
from infra.local.brokers import Endpoints, LocalBrokers
from infra.settings import KafkaSettings, NatsSettings, RedisSettings, Settings

ROOM = os.environ.setdefault("LONGWIRE_ROOM__COMPILED", "off")
"""`on` (`make test-compiled`): the rooms of the tests, in this process and in others, are compiled; else interpreted, though a
build may be there."""
compiled.choose(ROOM)

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in the background of a shell: children would ignore it, too
    signal.signal(signal.SIGINT, signal.default_int_handler)

hypothesis.settings.register_profile("longwire", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("longwire")


@pytest_asyncio.fixture(scope="session")
async def brokers(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Endpoints]:
    """NATS, Kafka and Redis on 127.0.0.1; a broker that can't start fails the tests."""
    local = LocalBrokers(tmp_path_factory.mktemp("brokers"))
    endpoints = await local.start()
    try:
        yield endpoints
    finally:
        await local.stop()


@pytest_asyncio.fixture(scope="session")
async def settings(brokers: Endpoints, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings that point at the brokers, with the topics applied."""
    found = Settings(
        data=Path(tmp_path_factory.mktemp("data")),
        nats=NatsSettings(url=brokers.nats),
        kafka=KafkaSettings(bootstrap=brokers.kafka),
        redis=RedisSettings(url=brokers.redis),
    )
    await apply_topics(found.kafka)
    return found
