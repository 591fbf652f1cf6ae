"""Brokers of one module: where what it writes would stand in the way of others, who share a set."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from infra.journal import apply_topics
from infra.local.brokers import LocalBrokers
from infra.settings import KafkaSettings, NatsSettings, RedisSettings, Settings


@asynccontextmanager
async def own_brokers(folder: Path) -> AsyncIterator[Settings]:
    """Settings that point at them, with the topics applied."""
    local = LocalBrokers(folder / "brokers")
    try:
        brokers = await local.start()
        settings = Settings(
            data=folder / "data",
            nats=NatsSettings(url=brokers.nats),
            kafka=KafkaSettings(bootstrap=brokers.kafka),
            redis=RedisSettings(url=brokers.redis),
        )
        await apply_topics(settings.kafka)
        yield settings
    finally:
        await local.stop()
