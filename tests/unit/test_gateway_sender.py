"""The same bytes to many sockets: what each kind of sender does with full, broken and many sockets."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from gateway_world import World
from links import Turns, linked

from gateway.broadcast import native
from gateway.broadcast.eligibility import Target
from gateway.broadcast.jobs import Jobs
from gateway.broadcast.sender import DEPTH, Native, Plain, Sender, choose
from gateway.broadcast.volley import Volley
from gateway.client import BindState, Client
from infra.attributes import Interned
from infra.settings import RoomSettings
from infra.wire import JobContent

NAMES = ["python", "send", "io_uring"]


@pytest.fixture(params=NAMES)
def sender(request: pytest.FixtureRequest) -> Iterator[Sender]:
    if request.param != "python" and (reason := native.build()):
        pytest.skip(reason)
    try:
        made = choose(request.param)
    except OSError as error:
        pytest.skip(str(error))
    assert made.name == request.param
    yield made
    if isinstance(made, Native):
        made.close()


class Pairs:
    """Sockets that do not block, and their peers."""

    def __init__(self, count: int) -> None:
        self._pairs = [socket.socketpair() for _ in range(count)]
        for ours, peer in self._pairs:
            ours.setblocking(False)
            peer.settimeout(1)
        self.fds = [ours.fileno() for ours, _ in self._pairs]
        self.peers = [peer for _, peer in self._pairs]

    def fill(self, place: int) -> int:
        """Write until the kernel takes no more; returns how many bytes."""
        total = 0
        try:
            while True:
                total += os.write(self.fds[place], b"f" * 65_536)
        except BlockingIOError:
            return total

    def close(self) -> None:
        for pair in self._pairs:
            for item in pair:
                item.close()


@pytest.fixture
def pairs() -> Iterator[Pairs]:
    made = Pairs(10)
    yield made
    made.close()


def test_given_sockets_with_space_then_each_gets_it_and_none_is_short(sender: Sender, pairs: Pairs) -> None:
    assert sender.send(pairs.fds, b"hello") == []
    assert sender.send(pairs.fds[:3], b" world") == []
    assert [peer.recv(100) for peer in pairs.peers] == [b"hello world"] * 3 + [b"hello"] * 7


def test_given_nobody_then_nothing_happens(sender: Sender) -> None:
    assert sender.send([], b"x") == []


def test_given_a_full_and_a_broken_one_among_them_then_these_are_told_and_the_others_have_it(
    sender: Sender, pairs: Pairs
) -> None:
    pairs.fill(2)
    pairs.peers[5].close()
    assert sorted(sender.send(pairs.fds, b"hello")) == [(2, 0), (5, -1)]
    assert [pairs.peers[place].recv(100) for place in (0, 4, 6, 9)] == [b"hello"] * 4


def test_given_more_bytes_than_the_kernel_takes_then_it_is_told_how_many_it_took(sender: Sender, pairs: Pairs) -> None:
    data = bytes(range(256)) * 8_000
    short = dict(sender.send(pairs.fds, data))
    assert len(short) == 10
    for place, took in short.items():
        assert 0 < took < len(data)
        got = b""
        while len(got) < took:
            got += pairs.peers[place].recv(1 << 20)
        assert got == data[:took]


def test_given_more_sockets_than_one_call_takes_then_the_places_are_those_of_the_list(sender: Sender) -> None:
    many = Pairs(2 * DEPTH + 7)
    try:
        many.peers[DEPTH + 3].close()
        assert sender.send(many.fds, b"x") == [(DEPTH + 3, -1)]
        assert all(peer.recv(10) == b"x" for place, peer in enumerate(many.peers) if place != DEPTH + 3)
    finally:
        many.close()


def test_given_bytes_of_its_own_for_each_then_each_gets_them(sender: Sender, pairs: Pairs) -> None:
    own = [bytes((place,)) * (1 + 700 * place) for place in range(10)]
    assert sender.send_each(pairs.fds, own) == []
    assert [peer.recv(10_000) for peer in pairs.peers] == own
    assert sender.send_each([], []) == []


def test_given_bytes_of_its_own_for_each_when_some_are_full_or_broken_then_these_are_told_and_the_others_have_theirs(
    sender: Sender,
) -> None:
    many = Pairs(DEPTH + 9)
    try:
        own = [str(place).encode() for place in range(DEPTH + 9)]
        own[4] = own[DEPTH + 4] = bytes(range(256)) * 8_000
        many.fill(2)
        many.peers[DEPTH + 5].close()
        short = dict(sender.send_each(many.fds, own))
        assert short.keys() == {2, 4, DEPTH + 4, DEPTH + 5}
        assert (short[2], short[DEPTH + 5]) == (0, -1)
        for place in (4, DEPTH + 4):
            got = b""
            while len(got) < short[place]:
                got += many.peers[place].recv(1 << 20)
            assert got == own[place][: short[place]]
        assert all(many.peers[place].recv(10) == own[place] for place in range(DEPTH + 9) if place not in short)
    finally:
        many.close()


def test_given_a_library_of_an_older_release_then_it_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native.Library, "load", lambda library: object())
    assert native.load() is None


def test_given_a_ring_that_failed_then_it_is_given_up_and_the_rest_goes_without() -> None:
    if reason := native.build():
        pytest.skip(reason)
    try:
        made = choose("io_uring")
    except OSError as error:
        pytest.skip(str(error))
    assert isinstance(made, Native)
    pairs = Pairs(4)
    try:
        ring = made._ring
        made._ring = None
        made._library.lw_close(ring)
        made._ring = made._library.lw_open(1)  # too small for four: the call is refused as a whole
        assert made.send(pairs.fds, b"x") == [(place, -1) for place in range(4)]
        assert made.name == "send"
        assert made.send(pairs.fds, b"y") == []
        assert [peer.recv(10) for peer in pairs.peers] == [b"y"] * 4
    finally:
        pairs.close()


def test_given_a_peer_that_does_not_read_when_a_broadcast_comes_then_it_gets_all_in_order_later(sender: Sender) -> None:
    turns, world = Turns(), World(settings=RoomSettings(max_write_buffer=10_000_000))
    jobs, watched = Jobs(), list[Client]()
    with ExitStack() as stack:
        ends = [stack.enter_context(linked(world.room, turns)) for _ in range(3)]
        binds = []
        for number, (link, _) in enumerate(ends):
            client = Client(f"main:c{number}", number, link, receive_max=32, max_packet=1 << 28)
            bind = BindState(client, "news", 0, "", Interned().of({}))
            bind.ready = True
            binds.append(bind)
        filled = b"z" * 500_000
        ends[1][0].write(filled)
        assert (ends[0][0].direct >= 0, ends[1][0].direct) == (True, -1)
        content = JobContent("j1", (1, 1), "news", [], b"hello", 60_000, 1)
        job = jobs.add(content, Target(content), None, term=1, cursor=0, now=0.0, binds=[])
        volley = Volley([job], 0.0, offer=lambda *_: False, watch=watched.append, sender=sender)
        assert volley.fire(binds) == 3
        assert (job.sent, job.written, volley.persons) == (3, 2, [3])
        assert watched == [binds[1].client]
        assert [bool(bind.settled) for bind in binds] == [True, False, True]
        packet = ends[0][1].recv(1_000)
        assert b"hello" in packet
        got = b""
        while len(got) < len(filled) + len(packet):
            got += ends[1][1].recv(1 << 20)
            for item in ends:
                item[0].ready(4)
        assert got == filled + packet


def test_given_no_library_then_python_is_chosen_unless_another_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "load", lambda: None)
    assert isinstance(choose("auto"), Plain)
    with pytest.raises(OSError, match="was not built"):
        choose("send")
