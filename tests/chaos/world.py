"""The system under test: real brokers, proxies where a fault needs one, two processes of each worker, and the fleet."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from infra.keeper import Policy
from infra.local.brokers import LocalBrokers
from infra.local.ports import HOST
from infra.ops.tokens import make_token
from infra.ops.up import RunningSystem
from infra.settings import KafkaSettings, NatsSettings, RedisSettings, Settings
from infra.system import System
from tests.chaos.fleet import PRODUCT, Fleet
from tests.chaos.proxy import Proxy

SYNC_INTERVAL: Final = 10.0
ROOMS: Final = 3
TWO: Final = {"saver": 2, "delivery": 2, "broadcast": 2, "coordinator": 2}
AWAY: Final = 20
SPECIAL: Final = 20


@dataclass(frozen=True, slots=True)
class Scale:
    """How much: devices online, unicast messages a second, a broadcast's rate, seconds of traffic before and after a fault."""

    devices: int = 2000
    per_second: float = 15.0
    rate: int = 500
    before: float = 8.0
    after: float = 6.0


class World:
    """Started once; rows run in it one after the other."""

    def __init__(self, folder: Path, scale: Scale, progress: Callable[[str], None]) -> None:
        self.scale = scale
        self.brokers = LocalBrokers(folder / "brokers", progress=progress)
        self.nats_of_room = Proxy(0)
        self.nats_of_all = Proxy(0)
        self.kafka_of_worker = Proxy(0)
        self.door = Proxy(0)
        self.away = [f"away-{number:02}" for number in range(AWAY)]
        self.special = [f"special-{number:02}" for number in range(SPECIAL)]
        self._folder = folder
        self._progress = progress
        self._proxies = (self.nats_of_room, self.nats_of_all, self.kafka_of_worker, self.door)

    async def start(self) -> None:
        """Brokers, proxies, processes, devices; those that will be away have bound once."""
        for proxy in self._proxies:
            await proxy.start()
        self.kafka_of_worker.target = self.brokers.kafka.behind(self.kafka_of_worker.port)
        found = await self.brokers.start()
        self.nats_of_room.target = self.nats_of_all.target = self.brokers.nats.port
        self.settings = Settings(
            data=self._folder / "system",
            nats=NatsSettings(url=found.nats),
            kafka=KafkaSettings(bootstrap=found.kafka),
            redis=RedisSettings(url=found.redis),
        )
        policy = Policy(sync_interval=SYNC_INTERVAL, keep_alive_default=20, keep_alive={"wifi": 20}, ack_timeout=15)
        self.running = RunningSystem(
            self.settings, rooms=ROOMS, policy=policy, workers=TWO, changes=self._changes, progress=self._progress
        )
        self.system: System = await self.running.start()
        self.door.target = self.system.rooms[1].port
        self.fleet = Fleet(self.system.center, self._token)
        await self.fleet.join([f"device-{number:05}" for number in range(self.scale.devices - SPECIAL)])
        await self.fleet.join(self.special, servers=[(HOST, self.door.port)])
        await self.fleet.join(self.away)
        await self.fleet.leave(self.away)

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
        """r1 has a NATS proxy of its own, delivery a Kafka proxy; the others' NATS runs through one."""
        nats = self.nats_of_room if name == "r1" else self.nats_of_all
        changes = {"LONGWIRE_NATS__URL": f"nats://{HOST}:{nats.port}"}
        if name == "delivery":
            changes["LONGWIRE_KAFKA__BOOTSTRAP"] = f"{HOST}:{self.kafka_of_worker.port}"
        return changes

    def _token(self, client: str) -> str:
        return make_token(Path(self.system.data), client=client, product=PRODUCT)

    # --- processes -----------------------------------------------------------------------------------------------------

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal to a process; the supervisor starts it again if it ends."""
        pid = self.running.agent.processes[name].child.pid
        if pid is None:
            raise RuntimeError(f"{name} does not run")
        os.kill(pid, number)

    def of_role(self, role: str) -> list[str]:
        """The names of a role's processes."""
        return [name for name, item in self.running.agent.processes.items() if item.spec.role == role]

    async def all_connected(self, within: float) -> bool:
        """Wait until every device is connected."""
        try:
            async with asyncio.timeout(within):
                while self.fleet.connected() < len(self.fleet.devices):  # noqa: ASYNC110 - of 2,000 devices
                    await asyncio.sleep(0.1)
        except TimeoutError:
            return False
        return True
