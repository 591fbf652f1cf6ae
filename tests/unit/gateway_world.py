"""A room without sockets, brokers or time: a scripted saver and coordinator, sockets that are lists, a clock that is set."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import mqtt5
import msgspec
from joserfc import jwt
from joserfc.jwk import OctKey

from gateway.broadcast.sender import Plain, Sender
from gateway.client import BindState, Client
from gateway.host import Host
from gateway.mqtt import packets
from gateway.mqtt.framing import decode
from gateway.ports import Done
from gateway.room import Room
from gateway.sessions.session import Session
from infra.documents import Issuer, Policy, Product, SigningKey
from infra.peers import number
from infra.revoked import Revoked
from infra.settings import RoomSettings
from infra.tokens import Verifier
from infra.wire import (
    NOTICED,
    Announce,
    BindItem,
    BindResult,
    ConnectItem,
    ConnectResult,
    ControlReply,
    DisconnectItem,
    DoneResult,
    Downlink,
    EndJob,
    Estimate,
    Hint,
    JobNumber,
    Page,
    PauseJob,
    PullItem,
    PullResult,
    RecentJob,
    SettledJob,
    Slice,
    SliceReply,
    SyncItem,
    SyncResult,
    UnbindItem,
    UplinkItem,
    UplinkResult,
)

P = TypeVar("P", bound=mqtt5.Packet)
SECRET = "s" * 40
WALL = 1_800_000_000.0


def claims(client: str = "c1", **changes: Any) -> dict[str, Any]:
    """A good token's claims; a change to None removes one."""
    body: dict[str, Any] = {
        "iss": "shop",
        "aud": "longwire",
        "sub": client,
        "iat": int(WALL),
        "exp": int(WALL) + 3600,
        "products": {"demo": {"user": "u1", "groups": ["news", "sport"], "attrs": {"os": "x"}}, "chat": {"groups": ["*"]}},
    }
    body.update(changes)
    return {name: value for name, value in body.items() if value is not None}


def sign(body: dict[str, Any], *, secret: str = SECRET, header: dict[str, Any] | None = None) -> bytes:
    return jwt.encode(header or {"alg": "HS256"}, body, OctKey.import_key(secret)).encode()


def issuer(**changes: Any) -> Issuer:
    return Issuer(**{"iss": "shop", "keys": (SigningKey(secret=SECRET),), **changes})  # type: ignore[arg-type]


class Socket:
    """`gateway.ports.Shell`: what was written, as packets. While `stalled` the kernel takes nothing."""

    transport = "mqtt"
    names: frozenset[str] | None = None

    def __init__(self, peer: str = "127.0.0.1") -> None:
        self.peer = number(peer)
        self.raw: list[bytes] = []
        self.paused = False
        self.closed = False
        self.aborted = False
        self.waiting = 0
        self.stalled = False
        self.hung_up = False
        self.behind: mqtt5.SubscribePacket | None = None
        self.on_resume: Callable[[], None] = lambda: None

    def write(self, data: bytes, /) -> bool:
        assert not self.closed
        self.raw.append(data)
        if self.stalled:
            self.waiting += len(data)
        return not self.waiting

    direct = -1

    def wrote(self, data: bytes, sent: int) -> None:
        raise AssertionError("nobody writes to it directly")

    def buffered(self) -> int:
        return self.waiting

    def close(self, last: bytes = b"") -> None:
        if last:
            self.raw.append(last)
        self.closed = True

    def abort(self) -> None:
        self.closed = self.aborted = True

    def left(self) -> bool:
        return self.hung_up

    def subscribe_behind(self) -> mqtt5.SubscribePacket | None:
        behind, self.behind = self.behind, None
        return behind

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False
        self.on_resume()

    def take(self) -> list[mqtt5.Packet]:
        """All packets since the last call."""
        data, self.raw = b"".join(self.raw), []
        found = []
        while data:
            packet, size = mqtt5.read(memoryview(data))
            found.append(packet)
            data = data[size:]
        return found

    def one(self, kind: type[P]) -> P:
        """The only packet since the last call."""
        packets = self.take()
        assert len(packets) == 1, packets
        assert isinstance(packets[0], kind), packets
        return packets[0]


@dataclass
class Asked:
    """A request that the scripted saver has not answered yet."""

    item: Any
    done: Done[Any]
    cancelled: bool = False
    result: Any = None

    def cancel(self) -> None:
        self.cancelled = True


class Register:
    """A saver with a small register in memory. With `held` it answers only when told to, oldest first; with `early` it acts
    when it is asked, so the answer is as old as that."""

    def __init__(self) -> None:
        self.unanswered = 0
        self.held = False
        self.early = False
        self.waiting: deque[Asked] = deque()
        self.items: list[Any] = []
        self.pending: dict[tuple[str, str], list[Downlink]] = {}
        self.n: dict[tuple[str, str], int] = {}
        self.settled: list[tuple[str, str]] = []
        self.noticed: dict[tuple[str, str, str], int] = {}  # → the number of the session that has the notice
        self.disconnects: list[DisconnectItem] = []
        self.superseded = False
        self.missing = False
        self.older = False  # a saver that knows nothing of `whole`, nor of what comes with a CONNECT
        self.number = 0

    def store(
        self,
        message_id: str,
        *,
        key: str = "main:c1",
        product: str = "demo",
        payload: bytes = b"x",
        **more: Any,
    ) -> Downlink:
        n = self.n[key, product] = self.n.get((key, product), 0) + 1
        message = Downlink(message_id, n, payload, **more)
        self.pending.setdefault((key, product), []).append(message)
        return message

    @staticmethod
    def whole(message: Downlink) -> Downlink:
        """What a pull brings for a notice of `size` bytes."""
        return msgspec.structs.replace(message, payload=b"b" * message.size if message.size >= 0 else message.payload, size=-1)

    def connect(self, item: ConnectItem, done: Done[ConnectResult]) -> Asked:
        return self._take(item, done)

    def bind(self, item: BindItem, done: Done[BindResult]) -> Asked:
        return self._take(item, done)

    def sync(self, item: SyncItem, done: Done[SyncResult]) -> Asked:
        return self._take(item, done)

    def unbind(self, item: UnbindItem, done: Done[DoneResult]) -> Asked:
        return self._take(item, done)

    def pull(self, item: PullItem, done: Done[PullResult]) -> Asked:
        return self._take(item, done)

    def disconnect(self, item: DisconnectItem) -> None:
        self.disconnects.append(item)
        self._apply(item)

    def of(self, kind: type[Any]) -> list[Any]:
        return [item for item in self.items if isinstance(item, kind)]

    def answer(self, result: Any = None) -> None:
        """Answer the oldest request: as the register says, or with `result`."""
        asked = self.waiting.popleft()
        if result is None:
            result = asked.result if asked.result is not None else self._result(asked.item)
        asked.done(result)

    def lose(self) -> None:
        """The oldest request was cancelled and concluded without an answer."""
        self.waiting.popleft().done(None)

    def _take(self, item: Any, done: Done[Any]) -> Asked:
        self.items.append(item)
        asked = Asked(item, done, result=self._result(item) if self.early else None)
        self.waiting.append(asked)
        if not self.held:
            self.answer()
        return asked

    def _result(self, item: Any) -> Any:
        status = "superseded" if self.superseded else "ok"
        if isinstance(item, ConnectItem):
            self.number += 1
            bound = None
            if item.first is not None and not self.older and not self.superseded:
                wanted = item.first
                bind = BindItem(item.key, item.room, item.epoch, item.connection, 1, self.number, wanted.bind, [], wanted.limit)
                bound = self._result(bind)
            return ConnectResult(status, 1, self.number, 0, bound)
        if isinstance(item, UnbindItem):
            return DoneResult(status)
        if isinstance(item, BindItem):
            return BindResult(status, 7, self.page(item, item.bind.product, item.window, item.limit), [])
        if isinstance(item, PullItem):
            found = [message for message in self.pending.get((item.key, item.product), []) if message.id == item.id]
            return PullResult(status, self.whole(found[0])) if found else PullResult("gone")
        self._apply(item)
        if item.only_acks:
            return SyncResult(status, [], self.missing)
        self.missing = False
        return SyncResult(status, [self.page(item, part.bind.product, part.window, part.limit) for part in item.products])

    def _apply(self, item: SyncItem | DisconnectItem) -> None:
        for ack in item.acks:
            if ack.state == NOTICED:
                self.noticed[item.key, ack.product, ack.id] = item.number
                continue
            self.settled.append((ack.id, ack.state))
            left = [message for message in self.pending.get((item.key, ack.product), []) if message.id != ack.id]
            self.pending[item.key, ack.product] = left

    def page(self, item: BindItem | SyncItem, product: str, window: list[str], limit: int) -> Page:
        key = item.key
        pending = self.pending.get((key, product), [])
        if item.whole and not self.older:
            free = [self.whole(m) for m in pending if m.id not in window]
        else:
            free = [m for m in pending if m.id not in window and self.noticed.get((key, product, m.id)) != item.number]
        return Page(product, self.n.get((key, product), 0), free[:limit], len(free) > limit)


class Coordinator:
    """`gateway.ports.Uplinks`."""

    def __init__(self) -> None:
        self.overloaded = False
        self.unanswered = 0
        self.waiting: deque[Asked] = deque()
        self._relieved: list[Callable[[], None]] = []
        self._after: list[Callable[[], None]] = []

    def send(self, item: UplinkItem, done: Done[UplinkResult]) -> Asked:
        asked = Asked(item, done)
        self.waiting.append(asked)
        return asked

    def when_relieved(self, call: Callable[[], None]) -> None:
        self._relieved.append(call)

    def gone(self, call: Callable[[], None]) -> None:
        self._relieved = [other for other in self._relieved if other != call]

    def when_told(self, call: Callable[[], None]) -> None:
        self._after.append(call)

    def relieve(self) -> None:
        self.overloaded = False
        for call in self._relieved:
            call()

    def answer(self, result: UplinkResult = UplinkResult("ok")) -> UplinkItem:  # noqa: B008 - immutable
        return self.answer_all(result)[0]

    def answer_all(self, *results: UplinkResult) -> list[UplinkItem]:
        """One batch's results."""
        asked = [self.waiting.popleft() for _ in results]
        for each, result in zip(asked, results, strict=True):
            each.done(result)
        after, self._after = self._after, []
        for call in after:
            call()
        return [each.item for each in asked]


@dataclass
class FanOutLog:
    """`gateway.ports.FanOut`: what it was told."""

    calls: list[tuple[Any, ...]] = field(default_factory=list)
    jobs: list[SettledJob] = field(default_factory=list)
    inflight: dict[str, list[bytes]] = field(default_factory=dict)

    def bound(self, bind: BindState, settled: Sequence[JobNumber], recent: Sequence[RecentJob] = ()) -> None:
        assert bind.ready
        self.calls.append(("bound", bind.product))

    def unbound(self, bind: BindState) -> None:
        self.calls.append(("unbound", bind.product))

    def regrouped(self, bind: BindState) -> None:
        self.calls.append(("regrouped", bind.product, sorted(bind.groups)))

    def puback(self, client: Client, packet_id: int, reason: int) -> None:
        client.broadcasts_inflight = max(0, client.broadcasts_inflight - 1)
        self.calls.append(("puback", packet_id, reason))

    def drained(self, client: Client) -> None:
        pass

    def place_free(self, client: Client) -> None:
        pass

    def settled_jobs(self, bind: BindState, *, all: bool = False) -> list[SettledJob]:  # noqa: A002 - agreed name
        return list(self.jobs)

    def saved(self, bind: BindState, jobs: list[SettledJob]) -> None:
        self.calls.append(("saved", bind.product))
        self.jobs = [job for job in self.jobs if job not in jobs]

    def control(self, message: Announce | EndJob | PauseJob) -> ControlReply:
        return ControlReply("ok")

    async def estimate(self, message: Estimate) -> ControlReply:
        return ControlReply("ok")

    async def slice(self, order: Slice) -> SliceReply:
        return SliceReply("ok", order.seq)

    def fence(self, bind: BindState, *, away: bool = False) -> None:
        bind.fenced = True
        self.calls.append(("away" if away else "fenced", bind.product))

    def unfence(self, bind: BindState) -> None:
        bind.fenced = False
        self.calls.append(("unfenced", bind.product))

    def again(self, bind: BindState, places: int) -> list[bytes]:
        return [packets.again(packet) for packet in self.inflight.get(bind.product, [])[:places]]

    def bound_counts(self) -> dict[str, int]:
        return {}


class World:
    """One room and its surroundings. `now` is the monotonic clock, `WALL + now` the time of day."""

    def __init__(
        self, *, policy: Policy | None = None, settings: RoomSettings | None = None, sender: Sender | None = None
    ) -> None:
        self.now = 0.0
        self.policy = policy or Policy(ack_timeout=30.0, sync_interval=300.0, connect_ramp_from=1.0, flapping_connects=100_000)
        self.register = Register()
        self.coordinator = Coordinator()
        self.fanout = FanOutLog()
        self.flushes = 0
        self.memory = 0.1
        self._later: list[Callable[[], None]] = []
        products = {name: Product(name=name, max_payload=100) for name in ("demo", "chat")}
        host = Host(
            room="r1",
            epoch=5,
            saver=self.register,
            fanout=self.fanout,
            clock=lambda: self.now,
            policy=lambda: self.policy,
            products=lambda: products,
        )
        self.revoked = Revoked()
        verifier = Verifier(self.revoked)
        verifier.load({"shop": issuer()})
        self.room = Room(
            room="r1",
            epoch=5,
            settings=settings or RoomSettings(),
            host=host,
            verifier=verifier,
            uplinks=self.coordinator,
            fanout=self.fanout,
            sender=sender or Plain(),
            clock=lambda: self.now,
            wall=lambda: WALL + self.now,
            later=lambda seconds, call: self._later.append(call),
            memory=lambda: self.memory,
        )

    def accept(self, peer: str = "127.0.0.1") -> Device:
        return Device(self, peer)

    def device(self, client: str = "c1", *binds: str, **connect: Any) -> Device:
        """A client that is let in, and bound to `binds`."""
        device = Device(self)
        device.connect(client, **connect)
        ack = device.socket.one(mqtt5.ConnAckPacket)
        assert int(ack.reason_code) == 0, ack
        if binds:
            device.subscribe(*binds)
            device.socket.take()
        return device

    def flush(self) -> None:
        """The room's short timer."""
        later, self._later = self._later, []
        for call in later:
            call()

    def pass_time(self, seconds: float, *, step: float = 0.1) -> None:
        """Let the wheel turn, tick by tick."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + step)
            self.room.tick(self.now)

    def push(self, message: Downlink, *, key: str = "main:c1", number: int = 1, product: str = "demo") -> str:
        return self.room.push([Hint(key, number, product, message)])[0].outcome


class Device:
    """A client's end: packets in, and the socket that shows what came back."""

    def __init__(self, world: World, peer: str = "127.0.0.1") -> None:
        self.world = world
        self.socket = Socket(peer)
        assert world.room.let_in(self.socket.peer)
        self.session: Session = world.room.accept(self.socket)

    def send(self, packet: mqtt5.Packet) -> None:
        self.session.last_seen = self.world.now
        self.session.receive(decode(memoryview(packet.write())), self.world.now)

    def connect(self, client: str = "c1", *, password: bytes | None = None, ttl: int = 3600, **fields: Any) -> None:
        token = sign(claims(client, exp=int(WALL) + ttl)) if password is None else password
        self.send(mqtt5.ConnectPacket(client, password=token, **fields))

    def subscribe(self, *patterns: str, qos: int = 1, packet_id: int = 1, **fields: Any) -> None:
        filters = [mqtt5.TopicFilter(pattern, max_qos=mqtt5.QoS(qos)) for pattern in patterns]
        self.send(mqtt5.SubscribePacket(packet_id, filters, **fields))

    def unsubscribe(self, *patterns: str, packet_id: int = 2) -> None:
        self.send(mqtt5.UnsubscribePacket(packet_id, list(patterns)))

    def puback(self, packet_id: int, code: int = 0) -> None:
        self.send(mqtt5.PubAckPacket(packet_id, reason_code=mqtt5.PubAckReasonCode(code)))

    def publish(self, topic: str, payload: bytes = b"x", *, packet_id: int | None = 1, **fields: Any) -> None:
        qos = mqtt5.QoS(0 if packet_id is None else 1)
        self.send(mqtt5.PublishPacket(topic, payload, **{"qos": qos, "packet_id": packet_id, **fields}))

    def pushed(self) -> list[mqtt5.PublishPacket]:
        """The PUBLISHes since the last look; anything else is an error."""
        packets = self.socket.take()
        assert all(isinstance(packet, mqtt5.PublishPacket) for packet in packets), packets
        return packets  # type: ignore[return-value]

    def pushed_ids(self) -> list[str]:
        return [dict(packet.user_properties)["id"] for packet in self.pushed()]

    def lose(self) -> None:
        self.session.lost()
