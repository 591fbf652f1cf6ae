"""At-least-once unicast, whole: Kafka, store, hint, room, device, PUBACK, receipt. How many messages a CPU-second brings.

One process of each kind, real brokers, a thousand devices that acknowledge everything. Messages are produced to Kafka at a steady
rate, each for a random device; the clock stops when every receipt is in Kafka. CPU is what the system's processes used in that
time, as Linux counts it; the producer and the devices are this process, and not counted.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Final, cast

import mqtt5
import uvloop
from aiokafka import AIOKafkaConsumer, TopicPartition
from rich.console import Console
from rich.table import Table

from bench.process import cpu_seconds, raise_descriptor_limit
from infra.documents import Policy
from infra.journal import Entry, Journal
from infra.local.brokers import LocalBrokers
from infra.ops.tokens import make_token
from infra.ops.up import RunningSystem
from infra.settings import KafkaSettings, NatsSettings, RedisSettings, Settings
from infra.system import System
from schemas import codec, names
from schemas.records import PushMessage, Receipt

FILE: Final = Path("build/bench-unicast.json")
PRODUCT: Final = "demo"
DEVICES: Final = 1_000
WARM_UP: Final = 10_000
MESSAGES: Final = 30_000
RATE: Final = 2_500
TICK: Final = 0.02
PAYLOAD: Final = b"x" * 108
STAMP: Final = 20
"""Bytes of the time at a payload's begin."""
SETTLE: Final = 60.0
BROKERS: Final = ("nats", "kafka", "redis")


class Failed(Exception):
    """Not everything was settled in time."""


class Device(asyncio.Protocol):
    """A connection that acknowledges everything at once. `took`: seconds from produce to arrival."""

    def __init__(self, client: str, token: str, took: list[float]) -> None:
        self.bound = asyncio.get_running_loop().create_future()
        self._client = client
        self._token = token
        self._took = took
        self._data = bytearray()
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say who we are, and bind."""
        self._transport = cast("asyncio.Transport", transport)
        connect = mqtt5.ConnectPacket(self._client, password=self._token.encode(), receive_max=32)
        subscribe = mqtt5.SubscribePacket(1, [mqtt5.TopicFilter(f"push/{PRODUCT}", max_qos=mqtt5.QoS.AT_LEAST_ONCE)])
        self._transport.write(connect.write() + subscribe.write())

    def data_received(self, data: bytes) -> None:
        """Acknowledge what came."""
        self._data += data
        whole, acks, at, now = memoryview(bytes(self._data)), bytearray(), 0, time.monotonic()
        while at < len(whole):
            try:
                packet, size = mqtt5.read(whole[at:])
            except IndexError:
                break
            at += size
            if isinstance(packet, mqtt5.PublishPacket):
                self._took.append(now - float(bytes(packet.payload[:STAMP])))
                acks += b"\x40\x02" + (packet.packet_id or 0).to_bytes(2, "big")
            elif isinstance(packet, mqtt5.SubAckPacket):
                self.bound.set_result(None)
        del self._data[:at]
        if acks:
            self._transport.write(bytes(acks))

    def close(self) -> None:
        """Leave."""
        self._transport.abort()


class Receipts:
    """Counts the receipts of this run. `seen` grows as Kafka has them."""

    def __init__(self, kafka: KafkaSettings) -> None:
        self.seen: set[str] = set()
        self._kafka = kafka
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin at the topic's end."""
        self._consumer = AIOKafkaConsumer(  # it shall cost Kafka little: it is not the system's
            bootstrap_servers=self._kafka.bootstrap, enable_auto_commit=False, fetch_min_bytes=64 * 1024, fetch_max_wait_ms=200
        )
        await self._consumer.start()
        self._consumer.assign([TopicPartition(names.RECEIPTS, partition) for partition in range(self._kafka.partitions)])
        await self._consumer.seek_to_end()
        for place in self._consumer.assignment():
            await self._consumer.position(place)
        self._task = asyncio.create_task(self._read())

    async def stop(self) -> None:
        """End."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            await self._consumer.stop()

    async def _read(self) -> None:
        async for source in self._consumer:
            record = codec.decode(source.value)
            if isinstance(record, Receipt):
                self.seen.add(record.id)


class Bench:
    """A system, its devices, and what its processes have used."""

    def __init__(self, folder: Path, console: Console) -> None:
        self._console = console
        self._brokers = LocalBrokers(folder / "brokers")
        self._folder = folder
        self._took: list[float] = []
        self._devices: list[Device] = []
        self._sent = 0

    async def run(self) -> None:
        """The whole measurement; raises Failed."""
        found = await self._brokers.start()
        settings = Settings(
            data=self._folder / "system",
            nats=NatsSettings(url=found.nats),
            kafka=KafkaSettings(bootstrap=found.kafka),
            redis=RedisSettings(url=found.redis),
        )
        self._running = RunningSystem(settings, rooms=1, policy=Policy(connect_ramp_from=1.0))
        self._journal, self._receipts = Journal(settings.kafka, name="bench"), Receipts(settings.kafka)
        try:
            system = await self._running.start()
            await self._journal.start()
            await self._receipts.start()
            await self._connect(system)
            await self._send(WARM_UP)
            self._took.clear()
            before, began = self._used(), time.monotonic()
            await self._send(MESSAGES)
            seconds = time.monotonic() - began
            used = {name: value - before[name] for name, value in self._used().items()}
            self._report(used, seconds)
        finally:
            for device in self._devices:
                device.close()
            await self._receipts.stop()
            await self._journal.stop()
            await self._running.stop()
            await self._brokers.stop()

    async def _connect(self, system: System) -> None:
        loop, room = asyncio.get_running_loop(), system.rooms[0]
        for number in range(DEVICES):
            token = make_token(Path(system.data), client=_client(number), product=PRODUCT)
            _, device = await loop.create_connection(
                lambda number=number, token=token: Device(_client(number), token, self._took),  # type: ignore[misc]
                room.host,
                room.port,
            )
            self._devices.append(device)
        async with asyncio.timeout(60):
            await asyncio.gather(*(device.bound for device in self._devices))

    async def _send(self, count: int) -> None:
        """Produce at `RATE`, and wait until every one has its receipt."""
        chance, tasks = random.Random(count), set[asyncio.Task[object]]()
        wanted, begun, first = len(self._receipts.seen) + count, time.monotonic(), self._sent
        while self._sent - first < count:
            due = min(count, int((time.monotonic() - begun) * RATE) + 1)
            entries = [self._entry(_client(chance.randrange(DEVICES))) for _ in range(due - (self._sent - first))]
            if entries:
                task = asyncio.create_task(self._journal.produce(entries))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
            await asyncio.sleep(TICK)
        await asyncio.gather(*tasks)
        deadline = time.monotonic() + SETTLE
        while len(self._receipts.seen) < wanted:
            if time.monotonic() > deadline:
                raise Failed(f"{wanted - len(self._receipts.seen)} of {count} messages have no receipt after {SETTLE:.0f} s")
            await asyncio.sleep(TICK)

    def _entry(self, client: str) -> Entry:
        self._sent += 1
        payload = f"{time.monotonic():<{STAMP}.6f}".encode() + PAYLOAD
        return Entry(names.MESSAGES, client, PushMessage(id=f"b{self._sent}", product=PRODUCT, client=client, payload=payload))

    def _used(self) -> dict[str, float]:
        pids = {name: item.child.pid for name, item in self._running.agent.processes.items()}
        pids |= {broker.name: broker.pid for broker in self._brokers.wanted}
        return {name: cpu_seconds(pid) for name, pid in pids.items() if pid is not None}

    def _report(self, used: dict[str, float], seconds: float) -> None:
        own = sum(value for name, value in used.items() if name not in BROKERS)
        total = sum(used.values())
        took = sorted(self._took)
        document = {
            "messages": MESSAGES,
            "devices": DEVICES,
            "rate": round(MESSAGES / seconds),
            "messages_per_total_cpu_s": round(MESSAGES / total),
            "messages_per_own_cpu_s": round(MESSAGES / own),
            "p50_ms": round(1000 * took[len(took) // 2], 1),
            "p99_ms": round(1000 * took[len(took) * 99 // 100], 1),
            "cpu_s": {name: round(value, 2) for name, value in sorted(used.items(), key=lambda pair: -pair[1])},
        }
        FILE.parent.mkdir(exist_ok=True)
        FILE.write_text(json.dumps(document, indent=2) + "\n")
        shown = Table("process", "CPU-s", "µs a message", box=None)
        for name, value in sorted(used.items(), key=lambda pair: -pair[1]):
            shown.add_row(name, f"{value:.2f}", f"{1e6 * value / MESSAGES:.0f}")
        self._console.print(shown)
        self._console.print(
            f"{MESSAGES:,} messages to {DEVICES:,} devices, {document['rate']}/s: "
            f"[bold]{document['messages_per_total_cpu_s']:,}[/bold] a CPU-second with the brokers, "
            f"[bold]{document['messages_per_own_cpu_s']:,}[/bold] without; "
            f"p50 {document['p50_ms']} ms, p99 {document['p99_ms']} ms"
        )
        self._console.print(f"[dim]{FILE} written[/dim]")


def _client(number: int) -> str:
    return f"device-{number:04}"


def main() -> int:
    """The entry point; returns the exit status."""
    console = Console(highlight=False)
    raise_descriptor_limit()
    with tempfile.TemporaryDirectory(prefix="longwire-unicast-") as folder:
        try:
            uvloop.run(Bench(Path(folder), console).run())
        except KeyboardInterrupt:
            return 130
        except (Failed, OSError) as error:
            console.print(f"[red]the benchmark failed:[/red] {error}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
