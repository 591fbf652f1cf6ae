"""One class a fault: `begin` does it, `end` heals it, `holds` says what else must be true; the row runs traffic all the while."""

from __future__ import annotations

import asyncio
import shutil
import signal
import time
from pathlib import Path
from typing import ClassVar, Final

from tests.chaos.traffic import Traffic
from tests.chaos.world import SYNC_INTERVAL, World

SESSION_TIMEOUT: Final = 10.0
"""Of a consumer group (infra.settings.KafkaSettings)."""


class Fault:
    """What a row does. `held` s between `begin` and `end`; `target` s until all is settled after it, None for no target;
    `reorders`: the order may break once; `replays`: how often each client may get a window again without a reconnect."""

    name: ClassVar[str]
    held: float = 5.0
    target: float | None = None
    reorders: bool = False
    replays: int = 0

    async def begin(self, world: World) -> None:
        """Make it bad."""

    async def end(self, world: World) -> None:
        """Make it good."""

    async def holds(self, world: World, traffic: Traffic) -> list[str]:
        """What is wrong beside the ledger, once all has settled."""
        return []


class RoomSigkill(Fault):
    name = "room-sigkill"
    held = 0.0
    target = 15.0

    async def begin(self, world: World) -> None:
        world.signal("r1", signal.SIGKILL)


class RoomSigstop(Fault):
    name = "room-sigstop"
    held = 30.0
    target = 5.0

    async def begin(self, world: World) -> None:
        world.signal("r1", signal.SIGSTOP)

    async def end(self, world: World) -> None:
        world.signal("r1", signal.SIGCONT)


class RoomDrain(Fault):
    name = "room-drain"
    held = 0.0
    target = 60.0

    async def begin(self, world: World) -> None:
        world.signal("r1", signal.SIGTERM)


class RoomCutFromNats(Fault):
    name = "room-cut-from-nats"
    held = 15.0
    target = 15.0

    async def begin(self, world: World) -> None:
        self._port = world.system.rooms[0].port
        self._clients = [device for device in world.fleet.devices.values() if device.port == self._port]
        self._connections = sum(device.connections for device in self._clients)
        world.nats_of_room.stall()

    async def end(self, world: World) -> None:
        world.nats_of_room.release()

    async def holds(self, world: World, traffic: Traffic) -> list[str]:
        new = sum(device.connections for device in self._clients) - self._connections
        return [f"{new} of the room's clients reconnected"] if new else []


class WorkerSigkill(Fault):
    """One of a role's two processes; the supervisor starts it again."""

    held = 0.0
    target = 20.0

    def __init__(self, role: str) -> None:
        self._role = role
        self.name = f"{role}-sigkill"  # type: ignore[misc]

    async def begin(self, world: World) -> None:
        world.signal(world.of_role(self._role)[0], signal.SIGKILL)


class WorkerSigstop(Fault):
    """Stopped for half, once and three times its session timeout: a zombie changes nothing when it comes back."""

    target = 20.0

    def __init__(self, role: str, factor: float) -> None:
        self._role = role
        self.held = factor * SESSION_TIMEOUT
        self.name = f"{role}-sigstop-{factor:g}x"  # type: ignore[misc]

    async def begin(self, world: World) -> None:
        world.signal(world.of_role(self._role)[0], signal.SIGSTOP)

    async def end(self, world: World) -> None:
        world.signal(world.of_role(self._role)[0], signal.SIGCONT)


class CenterSigkill(Fault):
    """Senders ask again under the same id: what was accepted before is not stored twice."""

    name = "center-sigkill"
    held = 0.0
    target = 5.0

    async def begin(self, world: World) -> None:
        world.signal("center", signal.SIGKILL)


class RedisKilled(Fault):
    name = "redis-killed"
    held = 3.0
    target = 15.0
    replays = 1

    async def begin(self, world: World) -> None:
        await world.brokers.redis.kill()

    async def end(self, world: World) -> None:
        await world.brokers.redis.start()


class RedisTailLost(Fault):
    """The append-only file ends where it was more than a second before the kill."""

    name = "redis-tail-lost"
    held = 2.0
    target = 30.0
    reorders = True
    replays = 1

    async def begin(self, world: World) -> None:
        redis = world.brokers.redis
        log = _append_only_file(redis.folder)
        size = log.stat().st_size
        await asyncio.sleep(1.2)
        await redis.kill()
        with log.open("r+b") as file:
            file.truncate(size)

    async def end(self, world: World) -> None:
        await world.brokers.redis.start()


class RedisWiped(Fault):
    name = "redis-wiped"
    held = 2.0
    target = 15.0
    reorders = True
    replays = 1

    async def begin(self, world: World) -> None:
        await world.brokers.redis.kill()
        shutil.rmtree(world.brokers.redis.folder / "appendonlydir")

    async def end(self, world: World) -> None:
        await world.brokers.redis.start()


class NatsDown(Fault):
    name = "nats-down"
    held = 20.0
    target = SYNC_INTERVAL + 5

    async def begin(self, world: World) -> None:
        self._before = {client: device.connections for client, device in world.fleet.devices.items()}
        await world.brokers.nats.kill()

    async def end(self, world: World) -> None:
        await world.brokers.nats.start()

    async def holds(self, world: World, traffic: Traffic) -> list[str]:
        new = _reconnected(world, self._before)
        return [f"{new} devices reconnected, sessions should have stayed"] if new else []


class NatsSlow(Fault):
    """40 ms for each chunk in both directions, in pieces of 500 bytes."""

    name = "nats-slow"
    held = 15.0
    target = SYNC_INTERVAL + 5

    async def begin(self, world: World) -> None:
        for proxy in (world.nats_of_all, world.nats_of_room):
            proxy.delay, proxy.piece = 0.04, 500

    async def end(self, world: World) -> None:
        for proxy in (world.nats_of_all, world.nats_of_room):
            proxy.delay, proxy.piece = 0.0, 64 * 1024


class KvWiped(Fault):
    """JetStream's store is gone: the last known good goes on, nobody is disconnected, jobs go on where they were."""

    name = "kv-wiped"
    held = 2.0
    target = 30.0

    async def begin(self, world: World) -> None:
        self._before = {client: device.connections for client, device in world.fleet.devices.items()}
        await world.brokers.nats.kill()
        for store in world.brokers.nats.folder.rglob("jetstream"):
            shutil.rmtree(store)

    async def end(self, world: World) -> None:
        await world.brokers.nats.start()

    async def holds(self, world: World, traffic: Traffic) -> list[str]:
        new = _reconnected(world, self._before)
        return [f"{new} devices were disconnected"] if new else []


class KafkaDown(Fault):
    name = "kafka-down"
    held = 30.0
    target = 30.0

    async def begin(self, world: World) -> None:
        self._from = time.monotonic()
        await world.brokers.kafka.kill()

    async def end(self, world: World) -> None:
        self._until = time.monotonic()
        await world.brokers.kafka.start()

    async def holds(self, world: World, traffic: Traffic) -> list[str]:
        during = [took for at, took, _ in traffic.statuses if self._from + 3 < at < self._until - 3]
        slow = sum(took > 1.0 for took in during)
        return [f"{slow} of {len(during)} requests waited over 1 s for their 503"] if slow else []


class KafkaCutFromWorker(Fault):
    """One delivery worker hears nothing of Kafka: another takes its partitions, and both may own them for a while."""

    name = "kafka-cut-from-worker"
    held = 2.5 * SESSION_TIMEOUT
    target = SESSION_TIMEOUT + 10

    async def begin(self, world: World) -> None:
        world.kafka_of_worker.stall()

    async def end(self, world: World) -> None:
        world.kafka_of_worker.release()
        world.kafka_of_worker.reset()


class ClientHalfOpen(Fault):
    """Nothing of some clients' packets arrives, while their sockets stay open: cut after 1.5 keep-alives at the latest."""

    name = "client-half-open"
    held = 45.0

    async def begin(self, world: World) -> None:
        world.door.stall("up")

    async def end(self, world: World) -> None:
        self._left = sum(world.fleet.devices[client].push.connected for client in world.special)
        world.door.release()

    async def holds(self, world: World, traffic: Traffic) -> list[str]:
        return [f"{self._left} of {len(world.special)} half-open clients were never cut"] if self._left else []


class ClientSlow(Fault):
    """Some clients read 300 bytes a second: nobody else feels it, their messages stay pending."""

    name = "client-slow"
    held = 20.0

    async def begin(self, world: World) -> None:
        world.door.bandwidth = 300

    async def end(self, world: World) -> None:
        world.door.bandwidth = 0


class ReconnectStorm(Fault):
    """Every client loses its connection at once."""

    name = "reconnect-storm"
    held = 0.0
    target = 30.0

    async def begin(self, world: World) -> None:
        for device in world.fleet.devices.values():
            device.push.reconnect()


def _reconnected(world: World, before: dict[str, int]) -> int:
    """How many of these devices had to connect again."""
    return sum(world.fleet.devices[client].connections > count for client, count in before.items())


def _append_only_file(folder: Path) -> Path:
    return max((folder / "appendonlydir").glob("*.incr.aof"))


ROLES: Final = ("delivery", "saver", "broadcast", "coordinator")


def every() -> list[Fault]:
    """All rows, in the order of the table in docs/guarantees.md."""
    return [
        RoomSigkill(), RoomSigstop(), RoomDrain(), RoomCutFromNats(),
        *(WorkerSigkill(role) for role in ROLES),
        *(WorkerSigstop(role, factor) for role in ROLES for factor in ((0.5, 1.0, 3.0) if role == "delivery" else (3.0,))),
        CenterSigkill(), RedisKilled(), RedisTailLost(), RedisWiped(), NatsDown(), NatsSlow(), KvWiped(), KafkaDown(),
        KafkaCutFromWorker(), ClientHalfOpen(), ClientSlow(), ReconnectStorm(),
    ]  # fmt: skip


def short() -> list[Fault]:
    """Those of `make test`: SIGKILL of each, Redis wiped, Redis's tail lost, NATS down."""
    return [
        RoomSigkill(), *(WorkerSigkill(role) for role in ROLES), CenterSigkill(), RedisWiped(), RedisTailLost(), NatsDown(),
    ]  # fmt: skip
