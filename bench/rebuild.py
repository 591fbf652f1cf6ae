"""How long an emptied Redis takes to be whole again: sessions, binds, receipts and messages, folded from Kafka by one worker.

The topics are filled as a running system would have left them (100,000 sessions, their binds, 600,000 messages of which
400,000 have a receipt), the group's offsets are committed, Redis is empty. Then one delivery worker is started; the time runs
from the moment at which it begins to fold until the register is open. What was folded is checked, not only timed.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.structs import OffsetAndMetadata
from rich.console import Console

from bench.process import cpu_seconds
from infra import VERSION
from infra.bus import Bus
from infra.documents import Product, product_key
from infra.journal import Entry, Journal, apply_topics
from infra.keeper import Keeper
from infra.local.brokers import LocalBrokers
from infra.register import Marker, Register
from infra.settings import KafkaSettings, NatsSettings, RedisSettings, Settings
from schemas import names
from schemas.codes import State, Status
from schemas.records import ClientProduct, ClientRecord, PushMessage, Receipt, Record, StatusEvent

FILE: Final = Path("build/rebuild.json")
SESSIONS: Final = 100_000
EACH: Final = 6
SETTLED: Final = 4
PRODUCT: Final = "bench"
CHUNK: Final = 5_000
PAYLOAD: Final = b"x" * 128


class Failed(Exception):
    """What was folded is not what had been accepted."""


def client(number: int) -> str:
    """A client's id."""
    return f"device-{number:06}"


def entries() -> Iterator[Entry]:
    """Everything that the topics hold, in an order that could have been."""
    for number in range(SESSIONS):
        who = client(number)
        bind = ClientProduct(user=f"u{number // 2}", groups=("g",), attrs={}, qos=1, first_bind_ms=1)
        key = f"{names.client_key('main', who)} {PRODUCT}"
        record = ClientRecord(realm="main", client=who, product=PRODUCT, bind=bind)
        yield Entry(names.CLIENTS, key, record, by=who)
        yield _entry(
            names.STATUS,
            StatusEvent(
                realm="main",
                client=who,
                event=Status.ONLINE,
                generation=1,
                session=1 + number % 9,
                room=f"r{number % 3}",
                epoch=1,
                at_ms=1,
            ),
        )
    for place in range(EACH):
        for number in range(SESSIONS):
            yield _entry(
                names.MESSAGES, PushMessage(id=_id(number, place), product=PRODUCT, client=client(number), payload=PAYLOAD)
            )
    for place in range(SETTLED):
        for number in range(SESSIONS):
            receipt = Receipt(
                id=_id(number, place), product=PRODUCT, realm="main", client=client(number), state=State.ACKED, at_ms=1
            )
            yield _entry(names.RECEIPTS, receipt)


def _entry(topic: str, record: Record) -> Entry:
    return Entry(topic, record.client, record)  # type: ignore[union-attr,arg-type]


def _id(number: int, place: int) -> str:
    return f"m{number}-{place}"


async def fill(journal: Journal) -> int:
    """Produce it all; returns how many records."""
    count, chunk = 0, []
    for entry in entries():
        chunk.append(entry)
        if len(chunk) == CHUNK:
            await journal.produce(chunk, timeout=60)
            count, chunk = count + len(chunk), []
    await journal.produce(chunk, timeout=60)
    return count + len(chunk)


async def commit(bootstrap: str, partitions: int) -> None:
    """Say that everything had been delivered into the Redis that is gone."""
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, group_id=names.DELIVERY_GROUP, enable_auto_commit=False)
    await consumer.start()
    try:
        places = [TopicPartition(names.MESSAGES, partition) for partition in range(partitions)]
        consumer.assign(places)
        ends = await consumer.end_offsets(places)
        await consumer.commit({place: OffsetAndMetadata(end, "") for place, end in ends.items()})
    finally:
        await consumer.stop()


async def worker(settings: Settings, folder: Path) -> asyncio.subprocess.Process:
    """One delivery worker, as `pushctl run delivery` starts it."""
    env = {
        **os.environ,
        "LONGWIRE_DATA": str(folder),
        "LONGWIRE_NATS__URL": settings.nats.url,
        "LONGWIRE_KAFKA__BOOTSTRAP": settings.kafka.bootstrap,
        "LONGWIRE_REDIS__URL": settings.redis.url,
    }
    with (folder / "delivery.log").open("wb") as log:
        program = Path(sys.executable).parent / "pushctl"
        return await asyncio.create_subprocess_exec(program, "run", "delivery", env=env, stdout=log, stderr=log)


async def until_open(register: Register, console: Console) -> Marker:
    """Wait for the register, and tell how far it is."""
    shard = register.shards.all[0]
    shown = time.monotonic()
    while True:
        _, marker = await shard.look()
        if marker is not None and marker.state == "open":
            return marker
        if marker is not None and time.monotonic() - shown > 5:
            shown = time.monotonic()
            read, of = (sum(pair[place] for pair in marker.progress.values()) for place in (0, 1))
            console.print(f"[dim]  {read:,} of {of:,} records, {len(marker.folded)} partitions folded[/dim]")
        await asyncio.sleep(0.05)


async def check(register: Register) -> None:
    """What is there is what Kafka tells, for a thousand clients; raises Failed."""
    for number in random.Random(4).sample(range(SESSIONS), 1000):
        view = await register.show(names.client_key("main", client(number)), [PRODUCT])
        if view is None or view.session is None or view.pending != {PRODUCT: EACH - SETTLED}:
            raise Failed(f"{client(number)}: {view}")
        if (view.session.room, view.session.number) != (f"r{number % 3}", 1 + number % 9):
            raise Failed(f"{client(number)}: {view.session}")


async def run(console: Console, folder: Path) -> None:
    """The whole measurement; raises Failed."""
    brokers = LocalBrokers(folder)
    endpoints = await brokers.start()
    settings = Settings(
        data=folder,
        nats=NatsSettings(url=endpoints.nats),
        kafka=KafkaSettings(bootstrap=endpoints.kafka),
        redis=RedisSettings(url=endpoints.redis),
    )
    bus, journal, register = (
        Bus(settings.nats, name="bench", version=VERSION),
        Journal(settings.kafka, name="bench"),
        Register(settings.redis),
    )
    try:
        await apply_topics(settings.kafka)
        for part in (bus, journal, register):
            await part.start()
        await Keeper(bus, disk=folder / "keeper").put(product_key(PRODUCT), Product(name=PRODUCT))
        console.print("[dim]filling Kafka…[/dim]")
        count = await fill(journal)
        await commit(endpoints.kafka, settings.kafka.partitions)
        console.print(f"[dim]{count:,} records; one delivery worker begins[/dim]")
        process = await worker(settings, folder)
        try:
            async with asyncio.timeout(600):
                marker = await until_open(register, console)
            used = cpu_seconds(process.pid)
            await check(register)
        finally:
            process.terminate()
            await process.wait()
        report(console, marker, count, used)
    finally:
        for part in (register, journal, bus):
            await part.stop()
        await brokers.stop()


def report(console: Console, marker: Marker, count: int, used: float) -> None:
    """To the terminal and to `FILE`."""
    seconds = (marker.opened_ms - marker.began_ms) / 1000
    document = {
        "sessions": SESSIONS,
        "records": count,
        "messages": SESSIONS * EACH,
        "receipts": SESSIONS * SETTLED,
        "pending": SESSIONS * (EACH - SETTLED),
        "seconds": round(seconds, 1),
        "records_per_s": round(count / seconds),
        "worker_cpu_s": round(used, 1),
        "workers": 1,
    }
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(json.dumps(document, indent=2) + "\n")
    console.print(
        f"{count:,} records, {SESSIONS:,} sessions: open after [bold]{seconds:.1f} s[/bold], {used:.1f} CPU-s of the worker"
    )
    console.print(f"[dim]{FILE} written[/dim]")


def main() -> int:
    """The entry point; returns the exit status."""
    console = Console(highlight=False)
    with tempfile.TemporaryDirectory(prefix="longwire-rebuild-") as folder:
        try:
            asyncio.run(run(console, Path(folder)))
        except KeyboardInterrupt:
            return 130
        except (Failed, OSError) as error:
            console.print(f"[red]the benchmark failed:[/red] {error}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
