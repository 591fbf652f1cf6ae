"""The system under test: real brokers, proxies where a fault needs one, two processes of each worker, and the fleet."""

from __future__ import annotations

import asyncio
import os
import signal
import struct
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx
import msgspec
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from infra import VERSION
from infra.bus import Bus
from infra.documents import Policy, Product, product_key
from infra.keeper import Keeper
from infra.local.brokers import LocalBrokers
from infra.local.ports import HOST
from infra.ops.tokens import make_token
from infra.ops.up import RunningSystem
from infra.settings import KafkaSettings, NatsSettings, RedisSettings, Settings
from infra.system import System
from tests.chaos.fleet import PRODUCT, SECOND, Device, Fleet
from tests.chaos.proxy import Proxy

STARTS_WITHIN: Final = 40.0
"""Seconds in which a process that ended is ready again: its pauses, and its group's wait for the member that was killed."""
SYNC_INTERVAL: Final = 10.0
KEEP_ALIVE: Final = 20
ACK_TIMEOUT: Final = 15.0
CONNECT_RATE: Final = 200
"""CONNECTs a second and room: low enough that a storm of the whole fleet meets it."""
ROOMS: Final = 3
TWO: Final = {"saver": 2, "delivery": 2, "broadcast": 2, "coordinator": 2}
AWAY: Final = 20
SPECIAL: Final = 20
USERS: Final = 50
"""Users, each with two of the fleet's first devices."""
CLOCK: Final = Path(__file__).with_name("clock")


@dataclass(frozen=True, slots=True)
class Scale:
    """How much: devices online, unicast messages a second, a broadcast's rate, seconds of traffic before a fault, at least after
    it, and in all at least."""

    devices: int = 2000
    per_second: float = 15.0
    rate: int = 500
    before: float = 8.0
    after: float = 12.0
    total: float = 60.0


@dataclass(frozen=True, slots=True)
class Victim:
    """A room with what is connected to it now."""

    name: str
    port: int
    devices: list[Device]


class World:
    """Started once; rows run in it one after the other."""

    def __init__(self, folder: Path, scale: Scale, progress: Callable[[str], None]) -> None:
        self.scale = scale
        self.brokers = LocalBrokers(folder / "brokers", progress=progress)
        self.nats_of_room = {f"r{number}": Proxy(0) for number in range(1, ROOMS + 1)}
        self.nats_of_workers = Proxy(0)
        self.kafka_of_worker = Proxy(0)
        self.redis_of_saver = Proxy(0)
        self.redis_of_workers = Proxy(0)
        self.center = Proxy(0)
        self.door = Proxy(0)
        self.away = [f"away-{number:02}" for number in range(AWAY)]
        self.special = [f"special-{number:02}" for number in range(SPECIAL)]
        self.users = {f"user-{number:02}": [f"device-{2 * number + half:05}" for half in (0, 1)] for number in range(USERS)}
        self._user_of = {client: user for user, clients in self.users.items() for client in clients}
        self._folder = folder
        self._progress = progress
        self._clock = folder / "clock"
        self._proxies = (
            *self.nats_proxies, self.kafka_of_worker, self.redis_of_saver, self.redis_of_workers, self.center, self.door,
        )  # fmt: skip

    @property
    def nats_proxies(self) -> list[Proxy]:
        """All links to NATS."""
        return [*self.nats_of_room.values(), self.nats_of_workers]

    @property
    def redis_proxies(self) -> list[Proxy]:
        """All links to Redis of who writes to it."""
        return [self.redis_of_saver, self.redis_of_workers]

    async def start(self) -> None:
        """Brokers, proxies, processes, devices; those that will be away have bound once."""
        self._clock.write_bytes(struct.pack("<d", 0.0))
        for proxy in self._proxies:
            await proxy.start()
        self.kafka_of_worker.target = self.brokers.kafka.behind(self.kafka_of_worker.port)
        found = await self.brokers.start()
        for proxy in self.nats_proxies:
            proxy.target = self.brokers.nats.port
        for proxy in self.redis_proxies:
            proxy.target = self.brokers.redis.port
        self.settings = Settings(
            data=self._folder / "system",
            nats=NatsSettings(url=found.nats),
            kafka=KafkaSettings(bootstrap=found.kafka),
            redis=RedisSettings(url=found.redis),
        )
        policy = Policy(
            sync_interval=SYNC_INTERVAL,
            keep_alive_default=KEEP_ALIVE,
            keep_alive={"wifi": KEEP_ALIVE},
            ack_timeout=ACK_TIMEOUT,
            connect_rate=CONNECT_RATE,
        )
        self.running = RunningSystem(
            self.settings, rooms=ROOMS, policy=policy, workers=TWO, changes=self._changes, progress=self._progress
        )
        self.system: System = await self.running.start()
        await self.put(Product(name=SECOND))
        self.door.target = self.system.rooms[1].port
        self.center.target = httpx.URL(self.system.center).port or 80
        self.fleet = Fleet(self.system.center, self._token)
        await self.fleet.join([f"device-{number:05}" for number in range(self.scale.devices - SPECIAL)])
        await self.fleet.join(self.special, servers=[(HOST, self.door.port)])
        await self.fleet.join(self.away)
        await self.fleet.leave(self.away)

    @property
    def behind_proxy(self) -> System:
        """The system for who sends: center is behind its proxy."""
        return msgspec.structs.replace(self.system, center=f"http://{HOST}:{self.center.port}")

    async def stop(self) -> None:
        """Everything, in reverse."""
        fleet = getattr(self, "fleet", None)
        if fleet is not None:
            await fleet.leave(list(fleet.devices))
        if hasattr(self, "running"):
            await self.running.stop()
        for proxy in self._proxies:
            await proxy.stop()
        await self.brokers.stop()

    def _changes(self, name: str) -> Mapping[str, str]:
        """Each room has a NATS proxy of its own, the workers share one; the first delivery worker has a Kafka proxy, and the
        first saver a Redis proxy, the other savers and delivery workers another."""
        nats = self.nats_of_room.get(name, self.nats_of_workers)
        changes = {
            "LONGWIRE_NATS__URL": f"nats://{HOST}:{nats.port}",
            "PYTHONPATH": str(CLOCK),
            "CHAOS_CLOCK": str(self._clock),
        }
        if name.partition("-")[0] in ("saver", "delivery"):
            redis = self.redis_of_saver if name == "saver" else self.redis_of_workers
            changes["LONGWIRE_REDIS__URL"] = f"redis://{HOST}:{redis.port}"
        if name == "delivery":
            changes["LONGWIRE_KAFKA__BOOTSTRAP"] = f"{HOST}:{self.kafka_of_worker.port}"
        return changes

    async def put(self, product: Product) -> None:
        """A product's document."""
        bus = Bus(NatsSettings(url=self.settings.nats.url), name="chaos", version=VERSION)
        keeper = Keeper(bus, disk=self._folder / "keeper")
        try:
            await bus.start()
            await keeper.start()
            await keeper.put(product_key(product.name), product)
        finally:
            await keeper.stop()
            await bus.stop()

    def _token(self, client: str) -> str:
        data, user = Path(self.system.data), self._user_of.get(client, "")
        return make_token(data, client=client, product=PRODUCT, user=user, also=(SECOND,))

    # --- processes -----------------------------------------------------------------------------------------------------

    def pid(self, name: str) -> int | None:
        """Of the process that runs now under a name."""
        return self.running.agent.processes[name].child.pid

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal to a process; the supervisor starts it again if it ends."""
        pid = self.pid(name)
        if pid is None:
            raise RuntimeError(f"{name} does not run")
        os.kill(pid, number)

    def of_role(self, role: str) -> list[str]:
        """The names of a role's processes."""
        return [name for name, item in self.running.agent.processes.items() if item.spec.role == role]

    def restarts(self) -> int:
        """How often the supervisor has started something again."""
        return sum(item.restarts for item in self.running.agent.processes.values())

    async def down(self) -> list[str]:
        """A sentence for each process that does not get ready; one that was just started again has a while for it."""
        deadline = time.monotonic() + STARTS_WITHIN
        while True:
            found = [f"{name} is down" for name, item in self.running.agent.processes.items() if not item.ready]
            if not found or time.monotonic() > deadline:
                return found
            await asyncio.sleep(0.2)

    async def gather_at_door(self) -> None:
        """The special clients that went elsewhere begin anew, through the door."""
        elsewhere = [client for client in self.special if self.fleet.devices[client].port != self.door.port]
        await self.fleet.leave(elsewhere)
        await self.fleet.join(elsewhere, servers=[(HOST, self.door.port)])

    def fullest_room(self) -> Victim:
        """The room that has the most devices: a fault there is felt."""
        found = [
            Victim(room.id, room.port, [device for device in self.fleet.devices.values() if device.port == room.port])
            for room in self.system.rooms
        ]
        return max(found, key=lambda victim: len(victim.devices))

    def room_of(self, device: Device) -> str:
        """The id of the room that a device is connected to, through the door or not."""
        port = self.door.target if device.port == self.door.port else device.port
        return next((room.id for room in self.system.rooms if room.port == port), "")

    async def metric(self, process: str, name: str, **labels: str) -> float:
        """The sum of a metric's samples with these labels, now; 0 if the process does not answer."""
        samples = await self.samples(process)
        return sum(sample.value for sample in samples if sample.name == name and labels.items() <= sample.labels.items())

    async def samples(self, process: str) -> list[Sample]:
        """All that a process shows, at one moment; nothing if it does not answer."""
        report = self.running.agent.processes[process].report
        try:
            async with httpx.AsyncClient(trust_env=False, timeout=5) as http:
                text = (await http.get(f"{report['internal']}/metrics")).text
        except httpx.HTTPError:
            return []
        return [sample for family in text_string_to_metric_families(text) for sample in family.samples]

    def shift_clocks(self, seconds: float) -> None:
        """Move the wall clock of every process of ours, at once (clock/sitecustomize.py); 0 is the true time."""
        with self._clock.open("r+b") as file:
            file.write(struct.pack("<d", seconds))

    async def all_connected(self, within: float) -> bool:
        """Wait until every device is connected."""
        try:
            async with asyncio.timeout(within):
                while self.fleet.connected() < len(self.fleet.devices):  # noqa: ASYNC110 - of 2,000 devices
                    await asyncio.sleep(0.1)
        except TimeoutError:
            return False
        return True
