"""Turns that read in C (docs/adr/0030): the same comes of them as of turns that only tell who is ready."""

from __future__ import annotations

import os
import select
import socket
import struct
from collections.abc import Callable, Iterator

import mqtt5
import pytest
from gateway_world import World, claims, sign
from links import Turns, linked, packets

from gateway.edge.link import AT_ONCE, Link
from gateway.edge.native import READER
from gateway.edge.reading import BUFFER, CHUNK
from gateway.edge.sockets import MANY, READ, Sockets
from infra.wire import Downlink

CONNECT = mqtt5.ConnectPacket("c1", password=sign(claims())).write()
SUBSCRIBE = mqtt5.SubscribePacket(1, [mqtt5.TopicFilter("push/demo", max_qos=mqtt5.QoS(1))]).write()
PING = mqtt5.PingReqPacket().write()
RESET = struct.pack("ii", 1, 0)


@pytest.fixture(params=["C", "Python"])
def turns(request: pytest.FixtureRequest) -> tuple[Turns, Sockets]:
    """Each turn reads in C, or none does."""
    if request.param == "C" and not READER.path.exists() and (reason := READER.build()):
        pytest.skip(reason)
    made = Turns()
    sockets = Sockets(made, native=request.param == "C", many=0)  # type: ignore[arg-type]
    assert sockets.native == (request.param == "C")
    return made, sockets


def bound(turns: Turns, peer: socket.socket) -> None:
    peer.send(CONNECT)
    turns.turn()
    peer.send(SUBSCRIBE)
    turns.turn()
    assert [type(packet) for packet in packets(peer)] == [mqtt5.ConnAckPacket, mqtt5.SubAckPacket]


def message(world: World, number: int) -> None:
    assert world.push(Downlink(f"m{number}", number, b"x", 60)) == "written"


def puback(peer: socket.socket) -> bytes:
    """What acknowledges all that has come."""
    return b"".join(mqtt5.PubAckPacket(packet.packet_id).write() for packet in packets(peer))  # type: ignore[union-attr]


def test_given_acknowledgements_when_read_then_each_settles_its_message_alone_or_with_more(turns: tuple[Turns, Sockets]) -> None:
    hand, sockets = turns
    world = World()
    with linked(world.room, hand, sockets=sockets) as (link, peer):
        bound(hand, peer)
        message(world, 1)
        peer.send(puback(peer))
        hand.turn()
        message(world, 2)
        message(world, 3)
        peer.send(puback(peer) + PING)
        hand.turn()
        world.flush()
        assert [one for one, _ in world.register.settled] == ["m1", "m2", "m3"]
        assert [type(packet) for packet in packets(peer)] == [mqtt5.PingRespPacket]
        assert link.buffered() == 0


def test_given_a_foreign_acknowledgement_before_connect_when_read_then_it_is_no_connect(turns: tuple[Turns, Sockets]) -> None:
    hand, sockets = turns
    world = World()
    with linked(world.room, hand, sockets=sockets) as (_, peer):
        peer.send(mqtt5.PubAckPacket(7).write())
        hand.turn()
        hand.turn()
        assert peer.recv(100) == b""
        assert list(world.room.sessions) == []


@pytest.mark.parametrize("reset", [False, True])
def test_given_a_peer_that_leaves_when_read_then_its_session_ends(turns: tuple[Turns, Sockets], reset: bool) -> None:
    hand, sockets = turns
    world = World()
    listening = socket.create_server(("127.0.0.1", 0))
    peer = socket.create_connection(listening.getsockname())
    fd = listening.accept()[0].detach()
    os.set_blocking(fd, False)
    assert world.room.let_in(0)
    Link(world.room, sockets, fd)
    bound(hand, peer)
    if reset:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    peer.close()
    hand.turn()
    hand.turn()
    assert list(world.room.sessions) == []
    listening.close()
    sockets.stop()


def test_given_packets_in_pieces_and_of_many_kilobytes_when_read_then_all_is_heard(turns: tuple[Turns, Sockets]) -> None:
    hand, sockets = turns
    world = World()
    with linked(world.room, hand, sockets=sockets) as (_, peer):
        bound(hand, peer)
        for piece in (PING[:1], PING[1:], PING * 3_000 + PING[:1], PING[1:]):
            peer.send(piece)
            for _ in range(60):
                hand.turn()
        heard = 0
        while heard < 3_002:
            heard += len(packets(peer))
            hand.turn()
        assert heard == 3_002


def test_given_a_flood_of_small_packets_then_others_have_their_turn_between_them(turns: tuple[Turns, Sockets]) -> None:
    """Fairness: what one connection may have handled in a turn is bounded, however much of it one read brings."""
    hand, sockets = turns
    world = World()
    with linked(world.room, hand, sockets=sockets) as (_, peer):
        bound(hand, peer)
        peer.send(PING * (5 * AT_ONCE))
        answered = []
        for _ in range(5):
            hand.turn()
            answered.append(len(packets(peer)))
        assert answered == [AT_ONCE] * 5


def test_given_a_session_that_is_held_when_more_comes_then_it_is_heard_after_the_hold(turns: tuple[Turns, Sockets]) -> None:
    hand, sockets = turns
    world = World()
    world.register.held = True
    with linked(world.room, hand, sockets=sockets) as (_, peer):
        peer.send(CONNECT)
        hand.turn()
        peer.send(PING * 3)
        for _ in range(3):
            hand.turn()
        assert not _has(peer)
        world.register.held = False
        world.register.answer()
        hand.turn()
        kinds = [type(packet) for packet in packets(peer)]
        assert kinds == [mqtt5.ConnAckPacket, *[mqtt5.PingRespPacket] * 3]


def _has(peer: socket.socket) -> bool:
    """Is there something to read?"""
    return bool(select.select([peer], [], [], 0)[0])


class Noted:
    """Somebody whose socket may be read, and who does something when it was."""

    def __init__(self, then: Callable[[], None] = lambda: None) -> None:
        self.got: list[bytes | int] = []
        self.then = then

    def ready(self, events: int) -> None:
        self.got.append(events)
        self.then()

    def acked(self, packet_id: int) -> None:
        self.got.append(packet_id)
        self.then()

    def came(self, data: bytes) -> None:
        self.got.append(data)
        self.then()


@pytest.fixture
def native() -> Iterator[tuple[Turns, Sockets]]:
    if not READER.path.exists() and (reason := READER.build()):
        pytest.skip(reason)
    made = Turns()
    sockets = Sockets(made, many=0)  # type: ignore[arg-type]
    yield made, sockets
    sockets.stop()


@pytest.mark.parametrize("data", [b"x", mqtt5.PubAckPacket(9).write()])
def test_given_one_that_closes_another_and_accepts_in_a_turn_then_the_new_one_hears_nothing_of_the_old(
    native: tuple[Turns, Sockets], data: bytes
) -> None:
    hand, sockets = native
    pairs = [socket.socketpair() for _ in range(2)]
    fds = [ours.detach() for ours, _ in pairs]
    old, new = [Noted(), Noted()], Noted()
    fresh: list[socket.socket] = []

    def swap(mine: int) -> None:
        if fresh:
            return
        other = fds[1 - mine]
        sockets.close(other)
        ours, peer = socket.socketpair()
        made = ours.detach()
        if made != other:
            os.dup2(made, other)
            os.close(made)
        fresh.append(peer)
        sockets.add(other, new, READ)
        sockets.let_read(other, may=True)

    for mine in range(2):
        old[mine].then = lambda mine=mine: swap(mine)  # type: ignore[misc]
        sockets.add(fds[mine], old[mine], READ)
        sockets.let_read(fds[mine], may=True)
    for _, peer in pairs:
        peer.send(data)
    hand.turn()
    assert fresh
    assert new.got == []
    for fd in fds:
        sockets.close(fd)
    for each in (*fresh, *(peer for _, peer in pairs)):
        each.close()


@pytest.mark.parametrize("data", [b"x", mqtt5.PubAckPacket(9).write()])
def test_given_one_that_fails_in_a_turn_then_the_others_are_told_of_what_was_read_for_them(
    native: tuple[Turns, Sockets], data: bytes
) -> None:
    hand, sockets = native
    pairs = [socket.socketpair() for _ in range(3)]

    def fail() -> None:
        raise RuntimeError("a fault of ours")

    told = [Noted(fail) for _ in pairs]
    for (ours, peer), noted in zip(pairs, told, strict=True):
        sockets.add(ours.fileno(), noted, READ)
        sockets.let_read(ours.fileno(), may=True)
        peer.send(data)
    hand.turn()
    assert [len(noted.got) for noted in told] == [1] * 3
    for ours, peer in pairs:
        sockets.release(ours.fileno())
        ours.close()
        peer.close()


def test_given_more_than_the_buffer_of_a_turn_then_who_finds_no_room_is_told_to_read(native: tuple[Turns, Sockets]) -> None:
    hand, sockets = native
    pairs = [socket.socketpair() for _ in range(BUFFER // CHUNK + 3)]
    told = [Noted() for _ in pairs]
    for number, ((ours, peer), noted) in enumerate(zip(pairs, told, strict=True)):
        sockets.add(ours.fileno(), noted, READ)
        sockets.let_read(ours.fileno(), may=True)
        peer.send(bytes([number]) * 2 * CHUNK)
    hand.turn()
    assert [noted.got for noted in told[:-3]] == [[bytes([number]) * CHUNK] for number in range(len(told) - 3)]
    assert [noted.got for noted in told[-3:]] == [[READ]] * 3
    for ours, peer in pairs:
        sockets.release(ours.fileno())
        ours.close()
        peer.close()


def test_given_one_that_may_not_be_read_then_its_bytes_stay_in_the_kernel(native: tuple[Turns, Sockets]) -> None:
    hand, sockets = native
    ours, peer = socket.socketpair()
    noted = Noted()
    sockets.add(ours.fileno(), noted, READ)
    peer.send(b"hello")
    hand.turn()
    sockets.let_read(ours.fileno(), may=True)
    hand.turn()
    assert noted.got == [READ, b"hello"]
    sockets.release(ours.fileno())
    ours.close()
    peer.close()


def test_given_few_that_are_ready_then_turns_do_not_read_and_after_one_with_many_they_do() -> None:
    if not READER.path.exists() and (reason := READER.build()):
        pytest.skip(reason)
    hand = Turns()
    sockets = Sockets(hand)  # type: ignore[arg-type]
    pairs = [socket.socketpair() for _ in range(MANY)]
    told = [Noted(lambda ours=ours: ours.recv(10) if _has(ours) else None) for ours, _ in pairs]  # type: ignore[misc]
    for (ours, peer), noted in zip(pairs, told, strict=True):
        sockets.add(ours.fileno(), noted, READ)
        sockets.let_read(ours.fileno(), may=True)
        peer.send(b"a")
    hand.turn()
    for _, peer in pairs:
        peer.send(b"b")
    hand.turn()
    pairs[0][1].send(b"c")
    hand.turn()
    pairs[0][1].send(b"d")
    hand.turn()
    assert [noted.got for noted in told] == [[READ, b"b", b"c", READ], *[[READ, b"b"]] * (MANY - 1)]
    for ours, peer in pairs:
        sockets.release(ours.fileno())
        ours.close()
        peer.close()
    sockets.stop()
