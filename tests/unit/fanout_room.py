"""A room for the fan-out's tests: the real FanOut, clients with transports that keep what is written, and a clock that jumps."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import mqtt5

from gateway.broadcast.fanout import FanOut
from gateway.client import BindState, Client
from infra.attributes import Interned
from infra.wire import Announce, EndJob, JobContent, JobNumber, RecentJob, Slice, SliceReply
from schemas.codes import PLACES, SLOTS

PRODUCT = "news"
TERM = 100


class Writes:
    """A socket of which only the writes count; the kernel has not taken anything before `FanOut.drained` says so."""

    peer = 0
    transport = "mqtt"
    names = None
    direct = -1

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self.take = write

    def write(self, data: bytes, /) -> bool:
        self.take(data)
        return False

    def buffered(self) -> int:
        return 0

    def wrote(self, data: bytes, sent: int) -> None:
        raise AssertionError("`direct` is -1")

    def close(self, last: bytes = b"") -> None: ...

    def abort(self) -> None: ...

    def left(self) -> bool:
        return False

    def subscribe_behind(self) -> None: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


@dataclass
class Wire:
    """What a client got: (when, packet), in so many writes."""

    packets: list[tuple[float, mqtt5.PublishPacket]] = field(default_factory=list)
    writes: int = 0

    def ids(self) -> list[str]:
        return [dict(packet.user_properties)["id"] for _, packet in self.packets]


class Room:
    """Time moves only where somebody sleeps."""

    def __init__(self, places: int = PLACES) -> None:
        self.now = 50.0
        self.wall = 1_800_000_000.0
        self.watched: list[Client] = []
        self.fanout = FanOut(
            clock=lambda: self.now,
            watch=self.watched.append,
            sleep=self._sleep,
            wall=lambda: self.wall,
            places=places,
        )
        self.wires: dict[str, Wire] = {}
        self.sleeps: list[float] = []
        self.seq = 0
        self.attributes = Interned()
        self._connections = 0

    async def _sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.now += seconds
        self.wall += seconds
        await asyncio.sleep(0)

    def connect(self, key: str, *, receive_max: int = 32, max_packet: int = 1 << 28) -> Client:
        wire = self.wires.setdefault(key, Wire())
        self._connections += 1

        def write(data: bytes) -> None:
            wire.writes += 1
            rest = memoryview(data)
            while rest:
                packet, size = mqtt5.read(rest)
                assert isinstance(packet, mqtt5.PublishPacket)
                wire.packets.append((self.now, packet))
                rest = rest[size:]

        return Client(key, self._connections, Writes(write), receive_max=receive_max, max_packet=max_packet)

    def bind(
        self,
        client: Client,
        *,
        qos: int = 1,
        groups: tuple[str, ...] = (),
        first_bind_ms: int = 0,
        settled: tuple[JobNumber, ...] = (),
        product: str = PRODUCT,
        attrs: dict[str, str] | None = None,
        recent: tuple[RecentJob, ...] = (),
    ) -> BindState:
        bind = BindState(client, product, qos, "", self.attributes.of(attrs or {}))
        bind.groups = frozenset(groups)
        bind.first_bind_ms = first_bind_ms
        bind.ready = True
        client.binds = (*client.binds, bind)
        self.fanout.bound(bind, list(settled), list(recent))
        return bind

    def join(self, key: str, **bind: object) -> BindState:
        return self.bind(self.connect(key), **bind)  # type: ignore[arg-type]

    def leave(self, bind: BindState) -> None:
        bind.client.binds = tuple(kept for kept in bind.client.binds if kept is not bind)
        bind.ready = False
        self.fanout.unbound(bind)

    def announce(
        self, job: str = "j1", *, slot: int = 0, term: int = TERM, offset: int = 7, product: str = PRODUCT, **content: object
    ) -> str:
        fields: dict[str, object] = {"groups": [], "payload": b"hello", "expires_in_ms": 60_000, "started_ms": 1_000, **content}
        message = Announce(JobContent(job=job, number=(2, offset), product=product, **fields), term, slot)  # type: ignore[arg-type]
        return self.fanout.control(message).status

    def end(self, job: str = "j1", term: int = TERM) -> str:
        return self.fanout.control(EndJob(job, term)).status

    def order(self, job: str = "j1", lo: int = 0, hi: int = SLOTS, *, spread_ms: int = 0, late: int = 0, **more: int) -> Slice:
        self.seq += 1
        fields = {"term": TERM, "seq": self.seq, "deadline_ms": int(self.now * 1000) + 3000, **more}
        return Slice(job, (2, 7), lo=lo, hi=hi, spread_ms=spread_ms, late=late, **fields)

    async def slice(self, job: str = "j1", lo: int = 0, hi: int = SLOTS, **more: int) -> SliceReply:
        return await self.fanout.slice(self.order(job, lo, hi, **more))

    async def until(self, when: float) -> None:
        """Let what runs go on until the clock shows `when`."""
        for _ in range(10_000):
            if self.now >= when:
                return
            await asyncio.sleep(0)
        raise AssertionError(f"the clock stopped at {self.now}")

    def ack(self, bind: BindState, *, reason: int = 0) -> None:
        """The client acknowledges every broadcast that it got."""
        for _, packet in self.wires[bind.client.key].packets:
            if packet.packet_id is not None:
                self.fanout.puback(bind.client, packet.packet_id, reason)

    def got(self, key: str) -> list[str]:
        return self.wires[key].ids()
