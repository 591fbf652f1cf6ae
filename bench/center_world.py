"""A whole system for `make bench-center`: brokers, workers, a room, and center on a core of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx

from bench.process import cores, cpu_seconds, pin
from infra import VERSION
from infra.bus import Bus
from infra.documents import Document, Policy
from infra.keeper import Keeper
from infra.local.brokers import LocalBrokers
from infra.ops.up import RunningSystem
from infra.settings import KafkaSettings, NatsSettings, RedisSettings, Settings
from infra.system import System

UNLIMITED: Final = 1_000_000
"""Connects, uplinks of a client, questions to the dispatcher a second: more than there are."""


class Failed(Exception):
    """The system did not do what the measurement needs; the text says what was seen."""


class World:
    """`start()` it, measure, `stop()` it. `changes`: variables of a process by its name."""

    def __init__(self, folder: Path, changes: dict[str, dict[str, str]]) -> None:
        self.folder = folder
        self._changes = changes
        self._brokers = LocalBrokers(folder / "brokers")
        self.core, self.other_cores = cores()

    async def start(self) -> None:
        """Everything, center on a core of its own and all the rest on the others."""
        found = await self._brokers.start()
        self.settings = Settings(
            data=self.folder / "system",
            nats=NatsSettings(url=found.nats),
            kafka=KafkaSettings(bootstrap=found.kafka),
            redis=RedisSettings(url=found.redis),
        )
        policy = Policy(
            connect_rate=UNLIMITED,
            connect_ramp_from=1.0,
            dispatch_rate=UNLIMITED,
            publish_rate=UNLIMITED,
            publish_burst=UNLIMITED,
        )
        self._running = RunningSystem(self.settings, rooms=1, policy=policy, changes=lambda name: self._changes.get(name, {}))
        self.system: System = await self._running.start()
        for pid in self._pids():
            pin(pid, frozenset([self.core]) if pid == self.pid("center") else self.other_cores)
        self._bus = Bus(self.settings.nats, name="bench", version=VERSION)
        await self._bus.start()

    async def stop(self) -> None:
        """Everything."""
        await self._bus.stop()
        await self._running.stop()
        await self._brokers.stop()

    @contextmanager
    def unpinned(self) -> Iterator[None]:
        """Every process runs on any core meanwhile, as where nobody measures."""
        where = {pid: os.sched_getaffinity(pid) for pid in self._pids()}
        try:
            for pid in where:
                pin(pid, frozenset([self.core]) | self.other_cores)
            yield
        finally:
            for pid, cores_before in where.items():
                pin(pid, frozenset(cores_before))

    def _pids(self) -> list[int]:
        """Of all processes and brokers."""
        return [
            *map(self.pid, self._running.agent.processes),
            *(each.pid for each in self._brokers.wanted if each.pid is not None),
        ]

    def pid(self, name: str) -> int:
        """Of a process: `center`, `coordinator`, `r1`, …"""
        pid = self._running.agent.processes[name].child.pid
        if pid is None:
            raise Failed(f"{name} does not run")
        return pid

    def cpu_seconds(self) -> dict[str, float]:
        """What every process and broker has used so far, s."""
        used = {name: cpu_seconds(self.pid(name)) for name in self._running.agent.processes}
        return used | {broker.name: cpu_seconds(broker.pid) for broker in self._brokers.wanted if broker.pid is not None}

    async def put(self, key: str, document: Document) -> None:
        """Write a document of the keeper."""
        await Keeper(self._bus, disk=self.folder / "keeper").put(key, document)

    async def get(self, path: str) -> Any:
        """A document of center's API."""
        async with httpx.AsyncClient(
            base_url=self.system.center, headers={"X-API-Key": self.system.api_key}, trust_env=False
        ) as http:
            return (await http.get(path)).raise_for_status().json()
