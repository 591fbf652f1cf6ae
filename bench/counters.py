"""What the brokers and our processes count themselves: Redis's commands, Kafka's offsets, nats-server's messages, metrics."""

from __future__ import annotations

import json
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import redis
from aiokafka import AIOKafkaConsumer, TopicPartition
from prometheus_client.parser import text_string_to_metric_families

from bench.load import Failed
from infra.journal import topic_specs
from infra.local.nats_server import config, find
from infra.local.ports import HOST, PortLease
from infra.settings import KafkaSettings

START: Final = 15.0


class Nats:
    """A nats-server as the local one, with its monitor: `/varz` has its counters."""

    def __init__(self, folder: Path) -> None:
        """Start it; raises Failed."""
        folder.mkdir(parents=True)
        self._leases = [PortLease("nats"), PortLease("nats-monitor")]
        port, monitor = (lease.port for lease in self._leases)
        file = folder / "nats.conf"
        file.write_text(config(port, folder / "store") + f"http: {HOST}:{monitor}\n", encoding="utf-8")
        self.url = f"nats://{HOST}:{port}"
        self._monitor = f"http://{HOST}:{monitor}"
        with (folder / "nats.log").open("wb") as log:
            self._process = subprocess.Popen([str(find()), "--config", str(file)], stdout=log, stderr=log)
        deadline = time.monotonic() + START
        while not self._answers():
            if time.monotonic() > deadline or self._process.poll() is not None:
                self.stop()
                raise Failed(f"nats-server did not start: see {folder / 'nats.log'}")
            time.sleep(0.1)

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self._monitor}/healthz", trust_env=False).is_success
        except httpx.TransportError:
            return False

    def messages(self) -> int:
        """Messages that it was sent so far."""
        return int(httpx.get(f"{self._monitor}/varz", trust_env=False).json()["in_msgs"])

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait()
        for lease in self._leases:
            lease.close()


@dataclass(frozen=True, slots=True)
class Touched:
    """Commands that read keys and that write them, in Redis; records, in Kafka."""

    reads: float
    writes: float
    records: float

    def __sub__(self, other: Touched) -> Touched:
        return Touched(self.reads - other.reads, self.writes - other.writes, self.records - other.records)


class RedisCounts:
    """Commands by what Redis itself says of them (flags `readonly`, `write`); those that scripts run are among them."""

    def __init__(self, url: str) -> None:
        self._client = redis.Redis.from_url(url)
        self._kinds: dict[str, str] = {}
        for name, command in self._client.command().items():
            flags = {flag.decode() if isinstance(flag, bytes) else str(flag) for flag in command["flags"]}
            self._kinds[str(name).lower()] = "write" if "write" in flags else "read" if "readonly" in flags else ""

    def take(self) -> dict[str, int]:
        """Calls so far: `read`, `write`."""
        totals = {"read": 0, "write": 0, "": 0}
        stats: dict[str, dict[str, Any]] = self._client.info("commandstats")
        for name, values in stats.items():
            command = name.removeprefix("cmdstat_").split("|")[0]
            totals[self._kinds.get(command, "")] += int(values["calls"])
        return totals


async def kafka_records(settings: KafkaSettings) -> int:
    """How many records all topics have taken so far, by their end offsets (what consumers commit is not among them)."""
    places = [TopicPartition(spec.name, part) for spec in topic_specs(settings.partitions) for part in range(spec.partitions)]
    consumer = AIOKafkaConsumer(bootstrap_servers=settings.bootstrap, enable_auto_commit=False)
    await consumer.start()
    try:
        return sum((await consumer.end_offsets(places)).values())
    finally:
        await consumer.stop()


def metric(report: dict[str, Any], name: str, **labels: str) -> float:
    """A process's counter now, by its internal listener; 0 if it has not counted yet."""
    text = httpx.get(f"{report['internal']}/metrics", trust_env=False).text
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == name and labels.items() <= sample.labels.items():
                return sample.value
    return 0.0


def save(file: Path, document: dict[str, Any]) -> None:
    """Write what was measured."""
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(document, indent=2) + "\n")
