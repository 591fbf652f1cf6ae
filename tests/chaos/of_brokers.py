"""Faults of the brokers, and of the links to them."""

from __future__ import annotations

import asyncio
import resource
import shutil
import signal
import time
from pathlib import Path
from typing import Any, Final

from nats.js.errors import KeyNotFoundError

from infra import VERSION
from infra.bus import Bus
from infra.lifecycle import STOP_DEADLINE
from infra.settings import NatsSettings
from schemas import names
from tests.chaos.fault import NobodyLeaves
from tests.chaos.of_processes import SESSION_TIMEOUT
from tests.chaos.traffic import Traffic
from tests.chaos.world import SYNC_INTERVAL, World

STOPS_WITHIN: Final = 20.0
"""Seconds for an orderly stop, brokers or not (infra.agent.STOP_GRACE)."""
ANSWERS_WITHIN: Final = 1.0
"""Seconds for a 503, for 99 of 100 requests, by center's own clock: this process, which has the devices, may be late itself. The
first requests find out that Kafka is away, and may take center's bound for it."""
FOUND_OUT: Final = 3.0
ANSWERS: Final = "longwire_center_request_seconds"


class RedisKilled(NobodyLeaves):
    """Its data is kept. While it is away nobody is known to be offline, so nobody is called that."""

    name = "redis-killed"
    held = 3.0
    target = 15.0
    replays = 1

    async def begin(self, world: World) -> None:
        """SIGKILL."""
        await world.brokers.redis.kill()

    async def end(self, world: World) -> None:
        """Start."""
        await world.brokers.redis.start()


class RedisTailLost(RedisKilled):
    """The append-only file ends where it was more than a second before the kill."""

    name = "redis-tail-lost"
    held = 2.0
    target = 30.0
    reorders = True
    _lost = 0

    async def begin(self, world: World) -> None:
        """Kill it, and cut its file to the size of before."""
        redis = world.brokers.redis
        log = append_only_file(redis.folder)
        size = log.stat().st_size
        await asyncio.sleep(1.2)
        await redis.kill()
        self._lost = log.stat().st_size - size
        with log.open("r+b") as file:
            file.truncate(size)

    async def holds(self, world: World, traffic: Traffic) -> list[str]:
        """A tail of nothing would prove nothing."""
        return [*await super().holds(world, traffic), *([] if self._lost else ["nothing was written in the lost second"])]

    def figures(self) -> dict[str, Any]:
        """How much was cut off."""
        return {"lost_bytes": self._lost}


class RedisWiped(RedisKilled):
    """Nothing is left of its data: it is folded again from Kafka and the live rooms."""

    name = "redis-wiped"
    held = 2.0
    reorders = True

    async def begin(self, world: World) -> None:
        """Kill it, and remove its files."""
        await super().begin(world)
        shutil.rmtree(world.brokers.redis.folder / "appendonlydir")


class RedisDiskFull(NobodyLeaves):
    """Its append-only file may not grow (RLIMIT_FSIZE: no root needed, and no full disk for others): it refuses writes."""

    name = "redis-disk-full"
    held = 12.0
    replays = 1

    async def begin(self, world: World) -> None:
        """Bound its files by their present size."""
        self._limit(world, append_only_file(world.brokers.redis.folder).stat().st_size)

    async def end(self, world: World) -> None:
        """Unbind."""
        self._limit(world, resource.RLIM_INFINITY)

    async def holds(self, world: World, traffic: Traffic) -> list[str]:
        """It has noticed, and it lives."""
        noticed = "AOF" in world.brokers.redis.log.read_text(errors="replace").rpartition("Ready to accept")[2]
        return [*await super().holds(world, traffic), *([] if noticed else ["Redis never met the bound"])]

    def _limit(self, world: World, size: int) -> None:
        pid = world.brokers.redis.pid
        if pid is None:
            raise RuntimeError("Redis does not run")
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


class RedisSlow(NobodyLeaves):
    """200 ms for each chunk in both directions: calls take longer, and none is given up."""

    name = "redis-slow"
    held = 10.0
    target = SYNC_INTERVAL + 5

    async def begin(self, world: World) -> None:
        """Slow every link."""
        for proxy in world.redis_proxies:
            proxy.delay = 0.2

    async def end(self, world: World) -> None:
        """As before."""
        for proxy in world.redis_proxies:
            proxy.delay = 0.0


class RedisCutFromSaver(NobodyLeaves):
    """What one saver says to Redis is dropped, while the other goes on; what was on its way is run late, when the first has given
    it up and the other has done it: then the links are reset."""

    name = "redis-cut-from-saver"
    held = 8.0
    target = SYNC_INTERVAL + 5

    async def begin(self, world: World) -> None:
        """One way."""
        world.redis_of_saver.stall("up")

    async def end(self, world: World) -> None:
        """All passes, late; then what hung is reset."""
        world.redis_of_saver.release()
        await asyncio.sleep(0.5)
        world.redis_of_saver.reset()


class NatsDown(NobodyLeaves):
    """Sessions stay; every hint that was lost is healed by a sync."""

    name = "nats-down"
    held = 20.0
    target = SYNC_INTERVAL + 5

    async def begin(self, world: World) -> None:
        """SIGKILL."""
        await world.brokers.nats.kill()

    async def end(self, world: World) -> None:
        """Start."""
        await world.brokers.nats.start()


class NatsSlow(NobodyLeaves):
    """40 ms for each chunk in both directions, in pieces of 500 bytes."""

    name = "nats-slow"
    held = 15.0
    target = SYNC_INTERVAL + 5

    async def begin(self, world: World) -> None:
        """Slow every link."""
        for proxy in world.nats_proxies:
            proxy.delay, proxy.piece = 0.04, 500

    async def end(self, world: World) -> None:
        """As before."""
        for proxy in world.nats_proxies:
            proxy.delay, proxy.piece = 0.0, 64 * 1024


class KvWiped(NatsDown):
    """JetStream's store is gone: the last known good goes on, nobody is disconnected, jobs go on where they were."""

    name = "kv-wiped"
    held = 2.0
    target = 30.0

    async def begin(self, world: World) -> None:
        """Kill NATS, and remove its store."""
        await super().begin(world)
        for store in world.brokers.nats.folder.rglob("jetstream"):
            shutil.rmtree(store)

    async def holds(self, world: World, traffic: Traffic) -> list[str]:
        """The configuration is there again, for who starts next."""
        bus = Bus(NatsSettings(url=world.settings.nats.url), name="chaos", version=VERSION)
        await bus.start()
        missing = []
        try:
            bucket = await bus.bucket(names.KV_KEEPER)
            # Asked for by name: keys() may end before the first one came (infra/mirror.py).
            for key in ("policy", "products.demo", "products.chat", "issuers.main"):
                try:
                    await bucket.get(key)
                except KeyNotFoundError:
                    missing.append(key)
        finally:
            await bus.stop()
        problems = await super().holds(world, traffic)
        return [*problems, f"the keeper's bucket lacks {', '.join(missing)}"] if missing else problems


class KafkaDown(NobodyLeaves):
    """Connections stay, uplinks wait, center answers 503 at once, and who is told to stop does, center within its own bound."""

    name = "kafka-down"
    held = 30.0
    target = 30.0

    def __init__(self) -> None:
        self._stops: dict[str, float] = {}
        self._hung: list[str] = []
        self._until = 0.0
        self._answers = self._slow = 0.0
        self._waited = 0

    async def begin(self, world: World) -> None:
        """SIGKILL."""
        await world.brokers.kafka.kill()

    async def hold(self, world: World, traffic: Traffic) -> None:
        """Meanwhile stop one of each kind that speaks Kafka."""
        await asyncio.sleep(FOUND_OUT)
        answers, slow = await self._answered(world)
        await asyncio.sleep(2)
        await asyncio.gather(*(self._stop(world, name) for name in ("delivery-2", "saver-2", "broadcast-2", "coordinator-2")))
        self._until = self.began + self.held
        await asyncio.sleep(max(0.0, self._until - time.monotonic()))
        found = await self._answered(world)
        self._answers, self._slow = found[0] - answers, found[1] - slow
        await self._stop(world, "center", within=STOP_DEADLINE)

    async def _answered(self, world: World) -> tuple[float, float]:
        """How many messages center has answered so far, and how many of them after more than `ANSWERS_WITHIN`."""
        bounds = {
            sample.labels["le"]: sample.value
            for sample in await world.samples("center")
            if sample.name == f"{ANSWERS}_bucket" and sample.labels["route"] == "/v1/messages"
        }
        return bounds["+Inf"], bounds["+Inf"] - bounds[str(ANSWERS_WITHIN)]

    async def _stop(self, world: World, name: str, *, within: float = STOPS_WITHIN) -> None:
        began = time.monotonic()
        world.signal(name, signal.SIGTERM)
        try:
            async with asyncio.timeout(within):
                await world.running.agent.processes[name].child.exited()
        except TimeoutError:
            world.signal(name, signal.SIGKILL)
            self._hung.append(name)
        self._stops[name] = round(time.monotonic() - began, 1)

    async def end(self, world: World) -> None:
        """Start."""
        await world.brokers.kafka.start()

    async def holds(self, world: World, traffic: Traffic) -> list[str]:
        """The times of center's answers and of the stops."""
        self._restarts = world.restarts()  # the five were started again as they should be
        during = [took for at, took, _ in traffic.statuses if self.began + FOUND_OUT < at < self._until - FOUND_OUT]
        self._waited = sum(took > ANSWERS_WITHIN for took in during)
        problems = await super().holds(world, traffic)
        if not self._answers or self._slow > self._answers / 100:
            problems.append(f"{self._slow:.0f} of {self._answers:.0f} requests were answered after {ANSWERS_WITHIN} s or more")
        return [*problems, *(f"{name} hung when it was stopped" for name in self._hung)]

    def figures(self) -> dict[str, Any]:
        """How long each stop took; requests that center answered meanwhile, those late by its clock, and by the senders'."""
        answers = {"answers": self._answers, "answered_late": self._slow, "waited_over_1s": self._waited}
        return {"stops_s": self._stops, **answers}


class KafkaCutFromWorker(NobodyLeaves):
    """One delivery worker hears nothing of Kafka: another takes its partitions, and both may own them for a while."""

    name = "kafka-cut-from-worker"
    held = 2.5 * SESSION_TIMEOUT
    target = SESSION_TIMEOUT + 10

    async def begin(self, world: World) -> None:
        """Nothing passes, either way."""
        world.kafka_of_worker.stall()

    async def end(self, world: World) -> None:
        """All passes; what hung is reset."""
        world.kafka_of_worker.release()
        world.kafka_of_worker.reset()


def append_only_file(folder: Path) -> Path:
    """The file that Redis appends to now."""
    return max((folder / "appendonlydir").glob("*.incr.aof"))
