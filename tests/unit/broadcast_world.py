"""The broadcast worker's surroundings in memory: a bus with real FanOuts behind it, a journal that keeps what is produced."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Container, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import msgspec

from gateway.broadcast.fanout import FanOut
from gateway.client import BindState, Client
from infra import wire
from infra.audiences import Audience, Chunk
from infra.bus import BusTimeout, NoResponders
from infra.documents import Policy, Product
from infra.journal import Entry, JournalDown, Position
from infra.rooms import RoomView
from schemas import codec, names
from schemas.broadcasts import AudienceChunk, JobRecord
from schemas.partition import partition_of
from tests.unit.fanout_room import Writes
from workers.broadcast.fold import Folded, Read, fold
from workers.broadcast.job import JobBase, Tools
from workers.broadcast.pace import Pressure
from workers.broadcast.receiptcount import Followed
from workers.broadcast.unreached import Due, Reach

PARTITIONS = 3


class MemoryRoom:
    """A room process: a FanOut in real time."""

    def __init__(self, name: str, epoch: int, clients: int, *, prefix: str) -> None:
        self.name = name
        self.epoch = epoch
        self.fanout = FanOut(clock=time.monotonic)
        self.times: list[float] = []
        self.got: dict[str, int] = {}
        self.seen = time.monotonic()
        for i in range(clients):
            self.join(f"main:{prefix}{i}")

    def join(self, key: str, product: str = "news") -> BindState:
        def write(data: bytes) -> None:
            self.times.append(time.monotonic())
            self.got[key] = self.got.get(key, 0) + 1

        bind = BindState(Client(key, 1, Writes(write), receive_max=32, max_packet=1 << 20), product, 1, "", {})
        bind.client.binds = (*bind.client.binds, bind)
        bind.ready = True
        self.fanout.bound(bind, [])
        return bind

    def view(self) -> RoomView:
        now = time.monotonic()
        lease = wire.Lease(self.name, self.epoch, int(now * 1000), "open", 0, self.fanout.bound_counts())
        return RoomView(wire.RoomEntry(self.name, self.epoch, "127.0.0.1", 1), lease, now)


@dataclass
class MemoryBus:
    """Requests reach the rooms; `lose(subject)` says of each whether its answer is lost."""

    rooms: dict[str, MemoryRoom]
    connected: bool = True
    lose: Callable[[str], bool] = lambda subject: False
    asked: list[tuple[str, Any]] = field(default_factory=list)
    kv: dict[str, bytes] = field(default_factory=dict)

    async def request(self, subject: str, payload: bytes, *, timeout: float | None = None) -> bytes:
        _, name, kind = subject.split(".")
        room = self.rooms.get(name)
        if room is None:
            raise NoResponders(subject)
        message: Any
        if kind == "slice":
            message = msgspec.msgpack.decode(payload, type=wire.Slice)
            self.asked.append((name, message))
            answer: Any = await room.fanout.slice(message)
        else:
            message = msgspec.msgpack.decode(payload, type=wire.Announce | wire.EndJob | wire.PauseJob)
            self.asked.append((name, message))
            answer = room.fanout.control(message)
        if self.lose(subject):
            raise BusTimeout(subject)
        return msgspec.msgpack.encode(answer)

    async def bucket(self, name: str) -> MemoryBus:
        return self

    async def put(self, key: str, value: bytes) -> None:
        self.kv[key] = value

    def job(self, job: str) -> wire.JobView:
        return msgspec.json.decode(self.kv[job], type=wire.JobView)


@dataclass
class MemoryJournal:
    """What was produced, as Kafka would keep it; `down` refuses everything."""

    logs: dict[str, list[list[Read]]] = field(default_factory=dict)
    down: bool = False

    async def partitions(self, topic: str) -> int:
        return PARTITIONS

    async def produce(self, entries: Sequence[Entry], *, timeout: float | None = None) -> list[Position]:
        await asyncio.sleep(0)
        if self.down:
            raise JournalDown("Kafka is away")
        return [self._append(entry) for entry in entries]

    def _append(self, entry: Entry) -> Position:
        partition = partition_of(entry.by or entry.key, PARTITIONS)
        log = self.logs.setdefault(entry.topic, [[] for _ in range(PARTITIONS)])[partition]
        value = codec.encode(entry.record) if entry.record is not None else None
        log.append(Read(partition, len(log), entry.key.encode(), value))
        return Position(partition, len(log) - 1, int(time.time() * 1000))

    def jobs(self) -> dict[str, Folded]:
        return fold(read for log in self.logs.get("push.jobs", []) for read in log)


class MemoryAudiences:
    """The audiences that a journal in memory holds; so many calls `down` fail."""

    def __init__(self, journal: MemoryJournal) -> None:
        self._journal = journal
        self.down = 0

    def _chunks(self, product: str, audience: str) -> list[Chunk]:
        reads = [read for log in self._journal.logs.get(names.AUDIENCES, []) for read in log]
        chunks = [Chunk(read.offset, codec.decode_as(AudienceChunk, read.value or b"")) for read in reads]
        return [chunk for chunk in chunks if (chunk.record.product, chunk.record.audience) == (product, audience)]

    def _fail(self) -> None:
        if self.down > 0:
            self.down -= 1
            raise JournalDown("Kafka is away")

    async def find(self, product: str, audience: str) -> Audience | None:
        self._fail()
        chunks = self._chunks(product, audience)
        if not chunks:
            return None
        record, clients = chunks[0].record, sum(len(chunk.record.clients) for chunk in chunks)
        sealed = chunks[-1].record.sealed == clients
        return Audience(audience, product, record.realm, record.upload, chunks[0].offset, clients, len(chunks), sealed)

    async def read(self, product: str, audience: str, offset: int) -> AsyncGenerator[Chunk]:
        for chunk in self._chunks(product, audience):
            self._fail()
            await asyncio.sleep(0)
            if chunk.offset >= offset:
                yield chunk


class MemoryReceipts:
    """Who is followed; a test changes their counts itself."""

    def __init__(self) -> None:
        self.followed: dict[str, Followed] = {}

    def follow(self, followed: Followed) -> None:
        followed.joined = followed.current = True
        self.followed[followed.job] = followed

    def leave(self, followed: Followed) -> None:
        if self.followed.get(followed.job) is followed:
            del self.followed[followed.job]


class MemoryFallbacks:
    """A registry of three partitions with `unsettled` clients each; Kafka is away once, after the first one."""

    def __init__(self) -> None:
        self.unsettled = 4
        self.dues: list[Due] = []
        self.times: list[float] = []
        self._failed = False

    async def run(
        self,
        due: Due,
        *,
        take: Callable[[int], Awaitable[None]],
        passed: Callable[[int, Reach], Awaitable[None]],
        skip: Container[int] = frozenset(),
    ) -> None:
        self.dues.append(due)
        for partition in range(PARTITIONS):
            if partition in skip:
                continue
            if partition and not self._failed:
                self._failed = True
                raise JournalDown("Kafka is away")
            for _ in range(self.unsettled):
                await take(1)
                self.times.append(time.monotonic())
            await passed(partition, Reach(eligible=2 * self.unsettled, handed=self.unsettled))


class Cluster:
    """Everything that the worker's `Tools` name, in memory."""

    def __init__(self, *rooms: MemoryRoom, rate: int = 10_000) -> None:
        self.bus = MemoryBus({room.name: room for room in rooms})
        self.journal = MemoryJournal()
        self.audiences = MemoryAudiences(self.journal)
        self.receipts = MemoryReceipts()
        self.fallbacks = MemoryFallbacks()
        self.keeper = SimpleNamespace(products={"news": Product(name="news", rate=rate)}, policy=Policy(lease_interval=0.01))

    def live(self) -> list[RoomView]:
        return [room.view() for room in self.bus.rooms.values()]

    def tools(self) -> Tools:
        return Tools(self.bus, self.journal, self.keeper, self, self, self.audiences, self.receipts, self.fallbacks)  # type: ignore[arg-type]

    async def watch(self, product: str, pressure: Pressure, moving: Callable[[], bool]) -> None:
        """The product is healthy; its tests have a world of their own (test_broadcast_health.py)."""


def record(job: str = "j1", **fields: object) -> JobRecord:
    now = int(time.time() * 1000)
    whole: dict[str, Any] = {
        "job": job, "product": "news", "state": "running", "number_partition": 1, "number_offset": 0, "source_partition": 1,
        "source_offset": 0, "rate": 10_000, "started_ms": now, "expires_ms": now + 60_000, **fields,
    }  # fmt: skip
    return JobRecord(**whole)


async def until(condition: Callable[[], bool], *, seconds: float = 10.0) -> None:
    """Wait for a condition; an error after the deadline."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event of its own
            await asyncio.sleep(0.01)


@asynccontextmanager
async def running(run: JobBase) -> AsyncIterator[asyncio.Task[None]]:
    """Run a job until the block ends; what it raised by then is raised."""
    task = asyncio.ensure_future(run.run())
    try:
        yield task
        if task.done():
            task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
