"""`pushctl up`: brokers where none are configured, topics, a first product and issuer, then every process, in order."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from infra import VERSION
from infra.agent import Agent, ProcessSpec, Supervised
from infra.bus import Bus
from infra.documents import POLICY, Issuer, Policy, Product, SigningKey, issuer_key, product_key
from infra.journal import apply_topics
from infra.keeper import Keeper
from infra.local.broker import Broker
from infra.local.brokers import LocalBrokers
from infra.local.errors import LocalBrokerError
from infra.prefork import room_stops_within
from infra.settings import KafkaSettings, NatsSettings, RedisSettings, Settings
from infra.system import RoomAddress, System, forget, read
from infra.telemetry import write_json

WORKERS: Final = ("saver", "delivery", "broadcast", "coordinator", "center")
"""In their start order; center comes last, and there is one of it."""
ONE_EACH: Final[Mapping[str, int]] = {}
DEMO_PRODUCT: Final = Product(name="demo", services=("echo",))
ISSUER: Final = "longwire"
ISSUER_LABEL: Final = "main"


class AlreadyUp(Exception):
    """A system runs in this data folder."""


class RunningSystem:
    """Everything that `up` started. `start()` returns when all is ready; `stop()` takes it down in reverse order."""

    def __init__(
        self,
        settings: Settings,
        *,
        rooms: int,
        policy: Policy | None = None,
        workers: Mapping[str, int] = ONE_EACH,
        changes: Callable[[str], Mapping[str, str]] = lambda name: {},
        progress: Callable[[str], None] = lambda line: None,
    ) -> None:
        """`policy`: put into the keeper, which has the defaults otherwise; `workers`: how many of a role there are, one if it is
        not named (`saver`, then `saver-2`, …); `changes`: variables of one process by its name; `progress` gets short lines."""
        self._settings = settings
        self._rooms = rooms
        self._policy = policy
        self._workers = workers
        self._changes = changes
        self._progress = progress
        self._brokers: LocalBrokers | None = None
        self._saved = False
        self._watches: list[asyncio.Task[None]] = []
        self.data = settings.data.absolute()
        self.agent = Agent(self.data, progress=progress)

    async def start(self) -> System:
        """Bring everything up; raises AlreadyUp, LocalBrokerError, ProcessFailed, BusDown, JournalDown with a sentence."""
        if (other := read(self.data)) is not None:
            raise AlreadyUp(
                f"a system runs in {self.data} already (pid {other.pid}); stop it with: pushctl down --data {self.data}"
            )
        self.data.mkdir(parents=True, exist_ok=True, mode=0o700)
        settings = await self._with_brokers()
        created = [topic for topic, outcome in await apply_topics(settings.kafka) if outcome == "created"]
        self._progress(f"kafka: {len(created)} topics created" if created else "kafka: all topics are there")
        await self._seed(settings)
        api_key = settings.center.api_key.get_secret_value() or _kept_secret(self.data / "api-key", prefix="lw_")
        self._ports = KeptPorts(self.data / "ports.json")
        env = _environment(settings, api_key, center_port=settings.center.port or self._ports.free("center"))
        for role in WORKERS:
            for name in (role, *(f"{role}-{number}" for number in range(2, self._workers.get(role, 1) + 1))):
                started = await self.agent.start(ProcessSpec(name=name, role=role, env={**env, **self._changes(name)}))
        center = str(started.report["url"])
        started.keep("LONGWIRE_CENTER__PORT", center.rpartition(":")[2])
        rooms = [await self._start_room(number, env) for number in range(1, self._rooms + 1)]
        system = System(
            center=center,
            api_key=api_key,
            rooms=rooms,
            nats=settings.nats.url,
            kafka=settings.kafka.bootstrap,
            redis=settings.redis.url,
            pid=os.getpid(),
            data=str(self.data),
            logs=str(self.data / "logs"),
        )
        self._ports.save({"center": int(center.rpartition(":")[2]), **{room.id: room.port for room in rooms}})
        system.save()
        self._saved = True
        return system

    async def stop(self) -> None:
        """Rooms, workers, brokers: in the reverse of the start order."""
        if self._saved:
            forget(self.data)
        for watch in self._watches:
            watch.cancel()
        await self.agent.stop()
        if self._brokers is not None:
            await self._brokers.stop()

    async def kill_room(self, room: str) -> int:
        """SIGKILL a room and leave it down; returns the pid that it had."""
        return await self.agent.kill(room)

    async def _start_room(self, number: int, env: Mapping[str, str]) -> RoomAddress:
        name = f"r{number}"
        item: Supervised = await self.agent.start(
            ProcessSpec(
                name=name,
                role="gateway",
                env={
                    **env,
                    "LONGWIRE_ROOM__ID": name,
                    "LONGWIRE_ROOM__PORT": str(self._ports.free(name)),
                    **self._changes(name),
                },
                stop_within=room_stops_within(self._settings.room),
            )
        )
        address = RoomAddress(name, str(item.report["host"]), int(item.report["port"]))
        item.keep("LONGWIRE_ROOM__PORT", str(address.port))  # a client returns to its room, also after a restart
        return address

    async def _with_brokers(self) -> Settings:
        """The settings, with local brokers for what they leave empty."""
        configured = {
            "nats": self._settings.nats.url,
            "kafka": self._settings.kafka.bootstrap,
            "redis": self._settings.redis.url,
        }
        wanted = frozenset(name for name, address in configured.items() if not address)
        if not wanted:
            return self._settings
        self._brokers = LocalBrokers(self.data / "brokers", progress=self._progress, wanted=wanted)
        found = await self._brokers.start()
        self._watches = [asyncio.create_task(self._keep_running(broker)) for broker in self._brokers.wanted]
        return self._settings.model_copy(
            update={
                "nats": NatsSettings(**{**self._settings.nats.model_dump(), "url": configured["nats"] or found.nats}),
                "kafka": KafkaSettings(**{**self._settings.kafka.model_dump(), "bootstrap": configured["kafka"] or found.kafka}),
                "redis": RedisSettings(**{**self._settings.redis.model_dump(), "url": configured["redis"] or found.redis}),
            }
        )

    async def _keep_running(self, broker: Broker) -> None:
        """Start a local broker again when it ends on its own, on its port and with its data; with growing pauses."""
        delay = 1.0
        while True:
            ended = await broker.exited()
            if ended.asked:
                return
            self._progress(f"{broker.name}: {ended.reason}; started again (its log: {broker.log})")
            try:
                await broker.start()
                delay = 1.0
            except LocalBrokerError as error:
                self._progress(str(error))
                delay = min(delay * 2, 30.0)
            await asyncio.sleep(delay)

    async def _seed(self, settings: Settings) -> None:
        """The product `demo` and an issuer with a secret of its own, where the keeper has none; the policy if one was given."""
        bus = Bus(settings.nats, name="up", version=VERSION)
        keeper = Keeper(bus, disk=self.data / "up")
        try:
            await bus.start()
            await keeper.start()
            if ISSUER not in keeper.issuers:
                secret = _kept_secret(self.data / "issuer-secret")
                key = SigningKey.model_validate({"kid": "1", "secret": secret})
                await keeper.put(issuer_key(ISSUER_LABEL), Issuer(iss=ISSUER, keys=(key,)))
            if DEMO_PRODUCT.name not in keeper.products:
                await keeper.put(product_key(DEMO_PRODUCT.name), DEMO_PRODUCT)
            if self._policy is not None:
                await keeper.put(POLICY, self._policy)
        finally:
            await keeper.stop()
            await bus.stop()


class KeptPorts:
    """The ports of the last time in this data folder: addresses that were written down stay good, where they are still free."""

    def __init__(self, file: Path) -> None:
        self._file = file
        try:
            self._ports: dict[str, int] = json.loads(file.read_text())
        except (OSError, ValueError):
            self._ports = {}

    def free(self, name: str) -> int:
        """The port that `name` had, or 0 (the kernel picks one) if it had none or somebody else has it now."""
        port = self._ports.get(name, 0)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except (OSError, OverflowError, TypeError):
                return 0
        return port

    def save(self, ports: dict[str, int]) -> None:
        """Remember them."""
        write_json(self._file, {**self._ports, **ports})


def _environment(settings: Settings, api_key: str, *, center_port: int) -> dict[str, str]:
    """What every process is told: the settings that differ from their defaults, by variables."""
    env = {
        "LONGWIRE_NATS__URL": settings.nats.url,
        "LONGWIRE_KAFKA__BOOTSTRAP": settings.kafka.bootstrap,
        "LONGWIRE_KAFKA__PARTITIONS": str(settings.kafka.partitions),
        "LONGWIRE_REDIS__URL": settings.redis.url,
        "LONGWIRE_CENTER__API_KEY": api_key,
        "LONGWIRE_CENTER__PORT": str(center_port),
        "LONGWIRE_TELEMETRY__LEVEL": settings.telemetry.level,
    }
    inward = {"LONGWIRE_OUTSIDE__PRIVATE": '["127.0.0.0/8", "::1/128"]'}  # webhooks of who tries it out are on this machine
    passed = {name: value for name, value in os.environ.items() if name.startswith("LONGWIRE_")}
    return {**inward, **passed, **env}


def _kept_secret(path: Path, *, prefix: str = "") -> str:
    """The secret in a file of the data folder, made at the first start; only the owner can read it."""
    if path.exists():
        return path.read_text().strip()
    secret = prefix + secrets.token_urlsafe(32)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secret)
    return secret
