"""Ways in which Redis loses data, for the tests of its recovery."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from core import Core, eventually

from infra.journal import apply_topics
from infra.local.brokers import LocalBrokers
from infra.settings import KafkaSettings, NatsSettings, RedisSettings, Settings


@asynccontextmanager
async def running_core(local: LocalBrokers, data: Path) -> AsyncIterator[Core]:
    """A core on brokers of its own: what it does to Redis disturbs nobody else."""
    endpoints = local.endpoints
    settings = Settings(
        data=data,
        nats=NatsSettings(url=endpoints.nats),
        kafka=KafkaSettings(bootstrap=endpoints.kafka),
        redis=RedisSettings(url=endpoints.redis, timeout=1.0),
    )
    await apply_topics(settings.kafka)
    running = Core(settings)
    await running.start()
    yield running
    await running.stop()


class Loss:
    """The ways in which Redis loses data. After each one it answers again, and the register is not open at once."""

    def __init__(self, local: LocalBrokers) -> None:
        self._redis = local.redis
        self._folder = local.redis.folder

    async def flushed(self, core: Core) -> None:
        await core.register.shards.all[0].pipe([("FLUSHALL",)])

    async def wiped(self, core: Core) -> None:
        await self._redis.kill()
        shutil.rmtree(self._folder / "appendonlydir")
        await self._redis.start()

    async def killed(self, core: Core) -> None:
        await self._redis.kill()
        await self._redis.start()

    async def tail_lost(self, core: Core) -> None:
        """The last half of what was appended since the file was opened: more than a second's worth."""
        await asyncio.sleep(2.5)  # a beat or two behind what was stored, and written
        await self._redis.kill()
        file = self.log()
        data = file.read_bytes()
        file.write_bytes(data[: len(data) * 2 // 3])  # Redis truncates the command that is cut
        await self._redis.start()

    async def cut(self, core: Core, size: int) -> None:
        """All that was appended after the file had this size."""
        await self._redis.kill()
        with self.log().open("r+b") as file:
            file.truncate(size)
        await self._redis.start()

    def log(self) -> Path:
        """The file that Redis appends to."""
        return max((self._folder / "appendonlydir").glob("*.incr.aof"))


async def opened(core: Core, generation: int, *, within: float = 30.0) -> None:
    def newer() -> bool:
        found = core.register.shards.all[0].incarnation
        return found is not None and found.generation > generation

    await eventually(newer, within=within, what="the register open in a new generation")


def generation_of(core: Core) -> int:
    found = core.register.shards.all[0].incarnation
    assert found is not None
    return found.generation
