"""The three brokers together, in one data folder: started in parallel, stopped in parallel."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from infra.local.broker import Broker, Progress, silent
from infra.local.folder import FolderLock
from infra.local.kafka_server import KafkaServer
from infra.local.nats_server import NatsServer
from infra.local.redis_server import RedisServer

ALL = frozenset({"nats", "kafka", "redis"})
NO_PORTS: Mapping[str, int] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoints:
    """What clients are given; empty for a broker that was not wanted."""

    nats: str  # nats://127.0.0.1:PORT
    kafka: str  # 127.0.0.1:PORT
    redis: str  # redis://127.0.0.1:PORT/0


class LocalBrokers:
    """NATS, Kafka and Redis on 127.0.0.1, each of which may also be stopped, killed, paused and started by itself.

    A broker keeps its port until `stop`. The data stays in the folder, for the next start too.
    """

    def __init__(
        self,
        data: Path,
        *,
        progress: Progress = silent,
        wanted: frozenset[str] = ALL,
        ports: Mapping[str, int] = NO_PORTS,
    ) -> None:
        """`wanted` are names out of `ALL`; `ports` gives some of them a port, the others get a free one.

        Raises ValueError for an unknown name.
        """
        if unknown := (wanted | set(ports)) - ALL:
            raise ValueError(f"unknown brokers {sorted(unknown)}; there are {sorted(ALL)}")
        self._data = data.absolute()
        self._lock = FolderLock(self._data / "brokers.lock")
        self.nats = NatsServer(data, port=ports.get("nats", 0), progress=progress)
        self.kafka = KafkaServer(data, port=ports.get("kafka", 0), progress=progress)
        self.redis = RedisServer(data, port=ports.get("redis", 0), progress=progress)
        every: tuple[Broker, ...] = (self.nats, self.kafka, self.redis)
        self.wanted = tuple(broker for broker in every if broker.name in wanted)

    @property
    def endpoints(self) -> Endpoints:
        """Where they listen. Raises RuntimeError before `start` and after `stop`."""
        found = {broker.name: broker.endpoint for broker in self.wanted}
        return Endpoints(**{name: found.get(name, "") for name in ALL})

    async def start(self) -> Endpoints:
        """Start those wanted, and return when all of them answer.

        Raises LocalBrokerError for the first that cannot run; then, and when cancelled, none is left running.
        """
        self._data.mkdir(parents=True, exist_ok=True)
        self._lock.acquire()
        try:
            async with asyncio.TaskGroup() as group:
                for broker in self.wanted:
                    group.create_task(broker.start())
        except BaseExceptionGroup as failures:
            await self.stop()
            raise failures.exceptions[0] from None
        except BaseException:
            await self.stop()
            raise
        return self.endpoints

    async def stop(self) -> None:
        """Stop all of them, cleanly within their deadlines, and give the ports back. May be repeated."""
        await asyncio.gather(*(broker.stop() for broker in self.wanted))
        for broker in self.wanted:
            broker.close()
        self._lock.release()
