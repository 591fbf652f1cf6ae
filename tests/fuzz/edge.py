"""A real room, links and sessions on socket pairs; whoever attacks it by `tests.fuzz.grammar`; and what must hold whatever comes.

`check(data)` raises `Broken`, or whatever the room let out. The clock stands still but for the events that move it.
"""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Final

import mqtt5
import msgspec

from gateway.client import BindState
from gateway.edge.link import LARGE, Link
from gateway.edge.sockets import Sockets
from gateway.mqtt.fields import header_size
from gateway.mqtt.framing import AFTER_CONNECT, BadPacket, announced_size, decode
from gateway.mqtt.mqtt311 import CONNACK_31_VERSION, PROTOCOL
from gateway.mqtt.packets import RECEIVE_MAXIMUM
from gateway.reasons import Reason
from gateway.sessions.uplinking import MAX_QOS0_WAITING
from infra.documents import Policy
from infra.peers import UNKNOWN
from infra.settings import RoomSettings
from infra.wire import BindItem, ConnectItem, UplinkItem, UplinkResult
from tests.fuzz.grammar import Step, program, sizes
from tests.unit.gateway_world import Asked, Coordinator, World
from tests.unit.links import Turns

MAX_CONNECTIONS: Final = 6
BUFFER: Final = 16 * 1024
"""Bytes that may wait for a peer that does not listen: fewer than by default, so that an attack gets there."""
TURNS: Final = 20_000
"""Turns of the loop within which a room has done all that there is to do."""
UPLINK: Final = 8 * 1024
"""Bytes of an uplink that waits: payload (100 here), properties (4 KiB), correlation (1 KiB), content type, ids."""
CHANGES: Final = 9
"""SUBSCRIBE and UNSUBSCRIBE packets of a connection: those that wait, and the one under way."""
HELD: Final = (1 + CHANGES) * AFTER_CONNECT + LARGE + (RECEIVE_MAXIMUM + MAX_QOS0_WAITING) * UPLINK + BUFFER + LARGE
"""Bytes that a connection holds at most, 1.5 MiB: what is read, what waits, and what its peer has not taken."""
CUT_OFF: Final = "cut off"
WRITTEN: Final = (
    mqtt5.ConnAckPacket, mqtt5.PublishPacket, mqtt5.PubAckPacket, mqtt5.SubAckPacket, mqtt5.UnsubAckPacket, mqtt5.PingRespPacket,
    mqtt5.DisconnectPacket, mqtt5.AuthPacket,
)  # fmt: skip


class Broken(AssertionError):
    """What must hold whatever comes does not."""


def must(holds: bool, what: str) -> None:
    if not holds:
        raise Broken(what)


class Answering(Coordinator):
    """Answers at once, unless it is `held`."""

    def __init__(self) -> None:
        super().__init__()
        self.held = False
        self.items: list[UplinkItem] = []

    def send(self, item: UplinkItem, done: Any) -> Asked:
        self.items.append(item)
        asked = super().send(item, done)
        if not self.held:
            self.answer()
        return asked


class Connection:
    """One of the attacker's: `heard` is what the room said, `said` what it was told."""

    def __init__(self, world: World, sockets: Sockets) -> None:
        ours, self.peer = socket.socketpair()
        self.peer.setblocking(False)
        fd = ours.detach()
        os.set_blocking(fd, False)
        self.link = Link(world.room, sockets, fd, UNKNOWN)
        self.session = self.link._session
        self.said, self.heard, self.unsent = bytearray(), bytearray(), b""
        self.closed = False
        self.gone = False
        self.deaf = self.was_deaf = False

    def push(self) -> bool:
        """Send what fits; True if something did."""
        if not self.unsent or self.closed or self.gone:
            self.unsent = b""
            return False
        try:
            sent = self.peer.send(self.unsent)
        except BlockingIOError:
            return False
        except OSError:
            self.unsent = b""
            return False
        self.unsent = self.unsent[sent:]
        return True

    def hear(self) -> bool:
        """Take what the room has said; True if there was something."""
        if self.closed or self.gone or self.deaf:
            return False
        try:
            got = self.peer.recv(1 << 20)
        except BlockingIOError:
            return False
        except OSError:
            got = b""
        self.heard += got
        self.closed = not got
        return True

    def held(self) -> int:
        """Bytes that the room holds for it."""
        link, session = self.link, self.session
        reader = link._reader
        size = len(reader._data) if reader is not None else 0
        size += len(link._out or b"")
        uplinking, delivery = session._uplinking, session.delivery
        if uplinking is not None:
            size += sum(len(item.payload) + _length(item) for item, _ in uplinking._waiting)
            must(len(uplinking.unacked) <= RECEIVE_MAXIMUM, "more uplinks unacknowledged than Receive Maximum")
        if delivery is not None:
            changes, pulls = delivery._changes, delivery.pulls
            if changes is not None:
                must(len(changes._waiting) < CHANGES, "more changes wait than may")
                size += sum(len(packet.write()) for packet in changes._waiting)
            if pulls is not None:
                size += sum(len(pull.id) + len(pull.product) for pull in pulls._waiting)
            size += sum(_bind_length(bind) for bind in delivery.client.binds)
            size += 64 * len(delivery.client.acks or ())
        return size


def _length(item: UplinkItem) -> int:
    return len(msgspec.msgpack.encode(item.properties)) + len(item.correlation or b"") + len(item.content_type) + len(item.id)


def _bind_length(bind: BindState) -> int:
    return sum(len(group) for group in bind.groups) + len(bind.product)


class Attack:
    """One room, and one run of a program against it."""

    def __init__(self, cut: tuple[int, ...] = ()) -> None:
        """`cut`: the sizes of the pieces in which everything is said, again and again; none: all at once."""
        random.seed(7)
        self.world = World(
            policy=Policy(connect_ramp_from=1.0, flapping_connects=100_000, publish_burst=20),
            settings=RoomSettings(max_write_buffer=BUFFER),
        )
        self.world.room.uplinks = self.coordinator = Answering()
        self.witness = self.world.device("witness", "push/demo")
        self.turns = Turns()
        self.sockets = Sockets(self.turns, many=0)  # type: ignore[arg-type]
        self.cut = cut
        self.slow = False
        self.connections: list[Connection] = []
        for number in range(3):
            self.world.register.store(f"s{number}", key="main:c1", payload=b"p" * 50 * number)
        self._connect()

    def run(self, steps: list[Step]) -> None:
        for step in steps:
            if isinstance(step, bytes):
                self._say(step)
            else:
                self.HAPPENS[step.name](self, step.value)
            self._settle()
            for connection in self.connections:
                must(connection.held() <= HELD, f"{connection.held()} bytes are held")
        self.world.register.held = self.coordinator.held = False
        for connection in self.connections:
            connection.deaf = False
        self._answer_all()
        self._settle()

    def _connect(self) -> None:
        if len(self.connections) < MAX_CONNECTIONS and self.world.room.let_in(UNKNOWN):
            self.connections.append(Connection(self.world, self.sockets))

    def _say(self, data: bytes) -> None:
        connection = self.connections[-1]
        if connection.closed or connection.gone:
            return
        connection.said += data
        for piece in self._pieces(data):
            connection.unsent += piece
            self._settle()

    def _pieces(self, data: bytes) -> Iterator[bytes]:
        if not self.cut:
            yield data
            return
        at = number = 0
        while at < len(data):
            size = self.cut[number % len(self.cut)]
            yield data[at : at + size]
            at, number = at + size, number + 1

    def _settle(self) -> None:
        """Until there is nothing left to do."""
        for _ in range(TURNS):
            moved = False
            for connection in self.connections:
                moved = connection.push() or moved
            self.turns.turn()
            for connection in self.connections:
                moved = connection.hear() or moved
            if not moved and not self.turns._soon and not self.sockets._poller.poll(0, 1):
                return
        raise Broken(f"the room is still at work after {TURNS} turns")

    def _answer_all(self) -> None:
        """One in a turn of the loop: of two connections of one client the order would decide."""
        for waiting, answer in (
            (self.world.register.waiting, self.world.register.answer),
            (self.coordinator.waiting, self.coordinator.answer),
        ):
            while waiting:
                answer()
                self._settle()

    def _shut(self, value: int) -> None:
        connection = self.connections[-1]
        if not connection.closed and not connection.gone:
            connection.peer.shutdown(socket.SHUT_WR)
            connection.gone = True

    def _leave(self, value: int) -> None:
        self.connections[-1].peer.close()
        self.connections[-1].gone = True

    def _saver_is_slow(self, value: int) -> None:
        self.slow = True
        self.world.register.held = True

    def _saver_answers(self, value: int) -> None:
        if self.world.register.waiting:
            self.world.register.answer()

    def _register_misses(self, value: int) -> None:
        self.world.register.missing = True

    def _uplinks_are_slow(self, value: int) -> None:
        self.coordinator.held = True

    def _uplink_is_answered(self, value: int) -> None:
        if self.coordinator.waiting:
            self.coordinator.answer(UplinkResult("ok") if value & 3 else UplinkResult("refused", 0x97, "too much"))

    def _overload(self, value: int) -> None:
        self.coordinator.overloaded = True

    def _relieve(self, value: int) -> None:
        self.coordinator.relieve()

    def _turn_deaf(self, value: int) -> None:
        self.connections[-1].deaf = self.connections[-1].was_deaf = True

    def _listen(self, value: int) -> None:
        self.connections[-1].deaf = False

    def _flush(self, value: int) -> None:
        self.world.flush()

    def _resync(self, value: int) -> None:
        self.world.room.resync()

    def _tick(self, value: int) -> None:
        self.world.pass_time(0.1)

    def _wait(self, value: int) -> None:
        """The witness is alive all the while, and the loop turns."""
        self.witness.send(mqtt5.PingReqPacket())
        for _ in range(value & 15):
            self.world.pass_time(1, step=1.0)
            self._settle()

    def _message(self, value: int, size: int = -1) -> None:
        world, product = self.world, ("demo", "chat")[value & 1]
        message = world.register.store(f"m{value >> 1 & 7}", product=product, payload=b"p" * (value >> 4), size=size)
        world.push(message, number=world.register.number, product=product)

    def _notice(self, value: int) -> None:
        self._message(value, 40)

    HAPPENS: ClassVar[dict[str, Callable[[Attack, int], None]]] = {
        "another connection": lambda self, value: self._connect(),
        "the client shuts its side": _shut,
        "the client is gone": _leave,
        "the saver is slow": _saver_is_slow,
        "the saver answers": _saver_answers,
        "uplinks are slow": _uplinks_are_slow,
        "uplinks are answered": _uplink_is_answered,
        "flush": _flush,
        "a tenth of a second": _tick,
        "seconds": _wait,
        "a message": _message,
        "a message only for pull": _notice,
        "resync": _resync,
        "a missing register": _register_misses,
        "overloaded": _overload,
        "relieved": _relieve,
        "the client listens no more": _turn_deaf,
        "the client listens": _listen,
        "the client waits": lambda self, value: None,
    }

    def waited_for_one_answer(self) -> bool:
        """A slow saver was asked for a session and its bind together: else two answers of it, and what comes between."""
        return self.slow and any(isinstance(item, ConnectItem) and item.first for item in self.world.register.items)

    def requests(self) -> dict[str, list[str]]:
        """What was asked of the saver for each connection: a bind that was asked for with its CONNECT, as if it came after it."""
        sessions = {connection.session.connection: connection.session for connection in self.connections}
        asked: dict[str, list[str]] = {}
        for item in self.world.register.items:
            one = asked.setdefault(str(getattr(item, "connection", item.key)), [])
            if not isinstance(item, ConnectItem) or item.first is None:
                if one[-1:] != [repr(item)]:  # else it was doubtful, and asked for anew
                    one.append(repr(item))
                continue
            one.append(repr(msgspec.structs.replace(item, first=None)))
            delivery = sessions[item.connection].delivery
            if delivery is not None:  # it was let in
                client, first = delivery.client, item.first
                bind = BindItem(
                    item.key,
                    item.room,
                    item.epoch,
                    item.connection,
                    client.generation,
                    client.number,
                    first.bind,
                    [],
                    first.limit,
                )
                one.append(repr(bind))
        return asked

    def outcome(self) -> tuple[Any, ...]:
        """All that came of it: what was said, and what was asked of the workers."""
        register = self.world.register
        return (
            [(bytes(connection.heard), connection.closed) for connection in self.connections],
            self.requests(),
            [repr(item) for item in register.disconnects],
            [repr(item) for item in self.coordinator.items],
        )

    def judge(self) -> None:
        """What the room said is MQTT of its client's version, and others are served."""
        for connection in self.connections:
            judge_words(
                bytes(connection.said),
                bytes(connection.heard),
                closed=connection.closed,
                gone=connection.gone,
                deaf=connection.was_deaf,
            )
        self._others_are_served()

    def _others_are_served(self) -> None:
        world, witness = self.world, self.witness
        witness.socket.take()
        must(not witness.socket.closed, "another client is closed")
        self.coordinator.overloaded = False
        witness.send(mqtt5.PingReqPacket())
        must(isinstance(witness.socket.one(mqtt5.PingRespPacket), mqtt5.PingRespPacket), "another client gets no PINGRESP")
        witness.publish("up/demo/pos", packet_id=9)
        must(witness.socket.one(mqtt5.PubAckPacket).packet_id == 9, "another client gets no PUBACK")
        fresh = world.device("fresh", "push/demo")
        message = world.register.store("f1", key="main:fresh")
        world.push(message, key="main:fresh", number=world.register.number)
        world.flush()
        must(fresh.pushed_ids() == ["f1"], "a client that comes later gets no message")

    def end(self) -> None:
        for connection in self.connections:
            connection.link.abort()
            connection.peer.close()
        self.turns.turn()
        self.sockets.stop()


def whole_packets(data: bytes) -> Iterator[tuple[mqtt5.Packet, bytes]]:
    """Every packet of a stream with its bytes. Raises BadPacket where there is none."""
    at = 0
    while at < len(data):
        size = announced_size(data, at)
        if not size or at + size > len(data):
            raise BadPacket(Reason.MALFORMED, CUT_OFF)
        frame = data[at : at + size]
        yield decode(memoryview(frame)), frame
        at += size


def asked(said: bytes) -> tuple[mqtt5.ConnectPacket | None, bool]:
    """What a client's stream begins with, and whether a DISCONNECT comes in it."""
    connect: mqtt5.ConnectPacket | None = None
    left = False
    try:
        for packet, _ in whole_packets(said):
            if connect is None and not isinstance(packet, mqtt5.ConnectPacket):
                return None, False
            connect = connect or packet  # type: ignore[assignment]
            left = left or isinstance(packet, mqtt5.DisconnectPacket)
    except BadPacket:
        pass
    return connect, left


def is_old(said: bytes) -> bool:
    """Does a client's stream begin as MQTT 3.1.1?"""
    try:
        return said[header_size(said) :].startswith(PROTOCOL)
    except IndexError:
        return False


def judge_old_words(heard: bytes, *, closed: bool, gone: bool, deaf: bool) -> None:
    """Whole packets that MQTT 3.1.1 has for a server, each of its own form, a CONNACK first and once."""
    kinds = []
    at = 0
    while at < len(heard):
        size = announced_size(heard, at)
        if not size or at + size > len(heard):
            must(deaf and closed, f"cut within a packet after {kinds}")
            return
        body = heard[at + header_size(heard, at) : at + size]
        must(_is_old_packet(heard[at], body), f"not MQTT 3.1.1 after {kinds}: {heard[at : at + size].hex()}")
        kinds.append(heard[at] >> 4)
        at += size
    must(kinds.count(2) == bool(kinds) and kinds[:1] in ([], [2]), f"not one CONNACK, first: {kinds}")
    if kinds and heard[3]:
        must((closed or gone) and len(kinds) == 1, f"refused, and goes on: {kinds}")


def _is_old_packet(first: int, body: bytes) -> bool:
    kind, size = first & 0xF0, len(body)
    if kind == 0x30:
        head = 2 + int.from_bytes(body[:2]) + (2 if first & 6 else 0)
        return first & 7 in (0, 2) and size >= head and body[2 : 2 + int.from_bytes(body[:2])].startswith(b"push/")
    if first == 0x20:
        return size == 2 and body[0] <= 1 and body[1] <= 5
    if first == 0x90:
        return size > 2 and set(body[2:]) <= {0, 1, 0x80}
    return (first in (0x40, 0xB0) and size == 2) or (first == 0xD0 and not size)


def judge_words(said: bytes, heard: bytes, *, closed: bool, gone: bool, deaf: bool = False) -> None:
    """Whole packets of a server, a CONNACK first and once, nothing after a DISCONNECT, none larger than the client takes.
    Who was deaf may be cut within a packet."""
    if heard == CONNACK_31_VERSION:
        must(closed, "a client of MQTT 3.1 is not closed")
        return
    if is_old(said):
        judge_old_words(heard, closed=closed, gone=gone, deaf=deaf)
        return
    connect, left = asked(said)
    most = (connect.max_packet_size if connect is not None else None) or 1 << 28
    kinds = []
    refused = False
    try:
        for packet, frame in whole_packets(heard):
            must(isinstance(packet, WRITTEN), f"a server says no {type(packet).__name__}")
            must(len(frame) <= most, f"{type(packet).__name__} of {len(frame)} bytes for a client that takes {most}")
            kinds.append(type(packet))
            refused = refused or (isinstance(packet, mqtt5.ConnAckPacket) and int(packet.reason_code) >= 0x80)
    except BadPacket as error:
        must(deaf and closed and error.text == CUT_OFF, f"not MQTT 5 after {kinds}: {error.text}")
    must(
        kinds.count(mqtt5.ConnAckPacket) == bool(kinds) and kinds[:1] in ([], [mqtt5.ConnAckPacket]),
        f"not one CONNACK, first: {kinds}",
    )
    must(mqtt5.DisconnectPacket not in kinds[:-1], f"something after a DISCONNECT: {kinds}")
    must(not refused or ((closed or gone) and len(kinds) == 1), f"refused, and goes on: {kinds}")
    if closed and kinds and not refused and not left and not gone and not deaf:
        must(kinds[-1] is mqtt5.DisconnectPacket, f"closed without a reason after {kinds}")


def check(data: bytes) -> None:
    """Run the input said at once, and cut; judge both, and compare them, unless somebody was deaf: what the kernel had taken by
    the end decides then what counts as written. Nor where one answer of a slow saver stands beside two."""
    steps = program(data)
    alike = True
    outcomes = []
    for cut in ((), sizes(data)):
        attack = Attack(cut)
        try:
            attack.run(steps)
            outcomes.append(attack.outcome())
            attack.judge()
            deaf = any(connection.was_deaf for connection in attack.connections)
            alike = alike and not deaf and not attack.waited_for_one_answer()
        finally:
            attack.end()
    if not alike:
        return
    for whole, pieces, what in zip(*outcomes, ("answers", "requests", "ends", "uplinks"), strict=True):
        must(whole == pieces, f"cut in pieces of {sizes(data)} the {what} differ: {whole!r} and {pieces!r}")
