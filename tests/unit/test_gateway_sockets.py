"""Sockets on a poller of the room's own: turns, what is ready meanwhile, what is left over."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable

import mqtt5
import pytest
from gateway_world import World, claims, sign
from links import Turns, linked, packets

from gateway.edge.sockets import AT_ONCE, READ, WRITE, Poller, Portable, Sockets, system_poller
from infra.settings import RoomSettings

CONNECT = mqtt5.ConnectPacket("c1", password=sign(claims())).write()
PING = mqtt5.PingReqPacket().write()
POLLERS = pytest.mark.parametrize("poller", [system_poller, Portable])


class Noted:
    """Somebody with a socket, who does something when it is ready."""

    def __init__(self, then: Callable[[], None] = lambda: None) -> None:
        self.events: list[int] = []
        self.then = then

    def ready(self, events: int) -> None:
        self.events.append(events)
        self.then()


@POLLERS
def test_given_one_that_closes_another_in_a_turn_then_the_other_is_not_told(poller: Callable[[], Poller]) -> None:
    turns = Turns()
    sockets = Sockets(turns, poller())  # type: ignore[arg-type]
    pairs = [socket.socketpair() for _ in range(2)]
    fds = [ours.detach() for ours, _ in pairs]
    told: list[Noted] = []
    for mine, other in (fds, fds[::-1]):
        told.append(Noted(lambda other=other: sockets.close(other)))  # type: ignore[misc]
        sockets.add(mine, told[-1], READ)
    for _, peer in pairs:
        peer.send(b"x")
    turns.turn()
    assert sorted(len(noted.events) for noted in told) == [0, 1]
    sockets.close(next(fd for fd, noted in zip(fds, told, strict=True) if noted.events))
    sockets.stop()
    for _, peer in pairs:
        peer.close()


@POLLERS
def test_given_more_that_are_ready_than_a_turn_takes_then_each_is_told_within_the_next_turns(
    poller: Callable[[], Poller],
) -> None:
    turns = Turns()
    sockets = Sockets(turns, poller())  # type: ignore[arg-type]
    pairs = [socket.socketpair() for _ in range(AT_ONCE + 10)]
    told = [Noted() for _ in pairs]
    for (ours, peer), noted in zip(pairs, told, strict=True):
        noted.then = lambda ours=ours: ours.recv(10)  # type: ignore[misc]
        sockets.add(ours.fileno(), noted, READ)
        peer.send(b"x")
    turns.turn()
    assert sum(len(noted.events) for noted in told) == AT_ONCE
    turns.turn()
    assert all(noted.events == [READ] for noted in told)
    sockets.stop()
    for ours, peer in pairs:
        ours.close()
        peer.close()


@POLLERS
def test_given_a_full_kernel_buffer_then_what_was_written_arrives_whole_and_in_order(poller: Callable[[], Poller]) -> None:
    turns, world = Turns(), World()
    with linked(world.room, turns, poller()) as (link, peer):
        sent = b"".join(bytes([number % 251]) * 1_000 for number in range(400))
        for start in range(0, len(sent), 10_000):
            link.write(sent[start : start + 10_000])
        assert 0 < link.buffered() < len(sent)
        got = b""
        while len(got) < len(sent):
            got += peer.recv(1 << 20)
            turns.turn()
        assert got == sent
        assert link.buffered() == 0


def test_given_a_close_while_something_waits_then_the_peer_gets_all_of_it_and_the_end() -> None:
    turns, world = Turns(), World()
    with linked(world.room, turns) as (link, peer):
        link.write(b"a" * 400_000)
        link.close(b"last")
        assert len(list(world.room.sessions)) == 1
        got = b""
        while more := peer.recv(1 << 20):
            got += more
            turns.turn()
        assert got == b"a" * 400_000 + b"last"
        turns.turn()
        assert list(world.room.sessions) == []


def test_given_a_peer_that_reset_it_when_it_is_written_to_then_the_session_ends_in_the_next_turn() -> None:
    turns, world = Turns(), World()
    with linked(world.room, turns) as (link, peer):
        peer.close()
        link.write(b"x")
        assert len(list(world.room.sessions)) == 1
        turns.turn()
        assert list(world.room.sessions) == []
        link.write(b"y")
        link.close(b"z")
        turns.turn()


@POLLERS
def test_given_a_session_that_is_held_when_more_comes_then_it_waits_in_the_kernel_and_costs_no_turns(
    poller: Callable[[], Poller],
) -> None:
    turns, world = Turns(), World()
    world.register.held = True
    with linked(world.room, turns, made := poller()) as (_, peer):
        peer.send(CONNECT)
        turns.turn()
        peer.send(PING * 3)
        turns.turn()
        assert made.poll(0, 10) == []
        world.register.held = False
        world.register.answer()
        turns.turn()
        kinds = [type(packet) for packet in packets(peer)]
        assert kinds == [mqtt5.ConnAckPacket, *[mqtt5.PingRespPacket] * 3]


def test_given_a_held_session_whose_peer_resets_then_it_ends() -> None:
    turns, world = Turns(), World()
    world.register.held = True
    with linked(world.room, turns) as (_, peer):
        peer.send(CONNECT)
        turns.turn()
        peer.send(PING)
        turns.turn()
        peer.close()
        turns.turn()
        turns.turn()
        assert list(world.room.sessions) == []


def test_given_more_than_the_cap_for_a_peer_that_does_not_read_then_the_link_is_cut_and_holds_nothing() -> None:
    turns, world = Turns(), World(settings=RoomSettings(max_write_buffer=65_536))
    with linked(world.room, turns) as (link, _):
        for _ in range(100):
            link.write(b"x" * 10_000)
        turns.turn()
        assert list(world.room.sessions) == []
        assert link._out is None


def test_the_bits_are_those_of_epoll() -> None:
    assert (READ, WRITE) == (select.EPOLLIN, select.EPOLLOUT)
