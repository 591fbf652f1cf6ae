"""A batch of hints on real sockets: what is written together, in which order, and what a socket that takes nothing does to it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from socket import socket

import mqtt5
import pytest
from gateway_world import Asked, World
from links import Turns, linked, packets
from live_room import SUBSCRIBE, connect

from gateway.broadcast import native
from gateway.broadcast.sender import DEPTH, Native, Plain, Sender, Short, choose
from gateway.edge.link import Link
from gateway.sessions.outbox import Outbox
from infra.settings import RoomSettings
from infra.wire import Downlink, Hint, HintResult

QOS_0 = mqtt5.SubscribePacket(1, [mqtt5.TopicFilter("push/demo", max_qos=mqtt5.QoS(0))]).write()


class Seen:
    """A sender that notes what goes out together, and then does it."""

    name = "seen"

    def __init__(self, sender: Sender) -> None:
        self._sender = sender
        self.calls: list[int] = []

    def send(self, fds: list[int], data: bytes) -> list[Short]:
        raise AssertionError("not for hints")

    def send_each(self, fds: list[int], data: list[bytes]) -> list[Short]:
        self.calls.append(len(fds))
        return self._sender.send_each(fds, data)


@pytest.fixture(params=["python", "send", "io_uring"])
def seen(request: pytest.FixtureRequest) -> Iterator[Seen]:
    if request.param != "python" and (reason := native.build()):
        pytest.skip(reason)
    try:
        made = choose(request.param)
    except OSError as error:
        pytest.skip(str(error))
    yield Seen(made)
    if isinstance(made, Native):
        made.close()


class Ends:
    """Clients c0, c1, … of a room: their links, and the peers."""

    def __init__(self, world: World, pairs: list[tuple[Link, socket]]) -> None:
        self.world = world
        self.links = [link for link, _ in pairs]
        self.peers = [peer for _, peer in pairs]
        self._n = dict.fromkeys(range(len(pairs)), 0)

    def hint(self, client: int, payload: bytes = b"x", n: int | None = None, product: str = "demo") -> Hint:
        """The next message for a client, or one with that number."""
        if n is None:
            n = self._n[client] = self._n[client] + 1
        number = self.world.register.number - len(self.links) + client + 1
        return Hint(f"main:c{client}", number, product, Downlink(f"m{client}-{n}", n, payload))

    def push(self, *hints: Hint, brief: bool = False) -> list[str]:
        return [result.outcome for result in self.world.room.push(list(hints), brief=brief)]

    def ids(self, client: int) -> list[str]:
        """Of the PUBLISHes that have come."""
        found = packets(self.peers[client])
        assert all(isinstance(packet, mqtt5.PublishPacket) for packet in found), found
        return [dict(packet.user_properties)["id"] for packet in found]  # type: ignore[attr-defined]


@contextmanager
def ends(sender: Sender, count: int = 3, bind: bytes = SUBSCRIBE, **settings: int) -> Iterator[Ends]:
    world, turns = World(settings=RoomSettings.model_validate(settings), sender=sender), Turns()
    with ExitStack() as stack:
        pairs = [stack.enter_context(linked(world.room, turns)) for _ in range(count)]
        for number, (link, peer) in enumerate(pairs):
            peer.send(connect(f"c{number}") + bind)
            link.ready(1)
            assert len(packets(peer)) == 2
        yield Ends(world, pairs)


def fill(link: Link) -> bytes:
    """Until the kernel takes nothing more of it; returns what it took."""
    filled = b""
    try:
        while True:
            filled += b"z" * os.write(link.direct, b"z" * 65_536)
    except BlockingIOError:
        return filled


def test_given_a_batch_then_it_is_written_together_and_what_one_connection_gets_is_one_write_in_order(seen: Seen) -> None:
    with ends(seen) as room:
        batch = [room.hint(0), room.hint(1), room.hint(0), room.hint(2), room.hint(0), room.hint(1)]
        assert room.push(*batch) == ["written"] * 6
        assert seen.calls == [3]
        assert [room.ids(client) for client in range(3)] == [["m0-1", "m0-2", "m0-3"], ["m1-1", "m1-2"], ["m2-1"]]
        assert room.push(room.hint(1)) == ["written"]
        assert seen.calls == [3, 1]
        assert room.ids(1) == ["m1-3"]


def test_given_hints_of_all_kinds_then_only_what_is_to_be_written_is(seen: Seen) -> None:
    with ends(seen) as room:
        room.world.register.held = True
        repeat = room.hint(0)
        outcomes = room.push(
            repeat, repeat, room.hint(1, n=7), room.hint(2, n=0), room.hint(2, product="chat"), room.hint(2, n=1)
        )
        assert outcomes == ["written", "written", "behind", "written", "gone", "written"]
        assert room.ids(0) == ["m0-1"]
        assert room.ids(2) == ["m2-0", "m2-1"]
        assert room.push() == []
        assert seen.calls == [2]


def test_given_more_connections_than_one_call_takes_then_all_get_theirs() -> None:
    seen = Seen(Plain())
    with ends(seen, DEPTH + 3) as room:
        assert set(room.push(*(room.hint(client) for client in range(DEPTH + 3)))) == {"written"}
        assert seen.calls == [DEPTH, 3]
        assert all(room.ids(client) == [f"m{client}-1"] for client in range(DEPTH + 3))


def test_given_a_socket_that_takes_nothing_or_only_a_part_then_its_link_has_the_rest_and_the_order_holds(seen: Seen) -> None:
    with ends(seen, max_write_buffer=10_000_000) as room:
        filled = fill(room.links[1])
        large = bytes(range(256)) * 4_000
        batch = [room.hint(1), room.hint(0), room.hint(1, b"second"), room.hint(2, large), room.hint(1, b"third")]
        assert room.push(*batch) == ["written"] * 5
        assert room.ids(0) == ["m0-1"]
        assert room.links[1].buffered() > 0
        assert room.links[1].direct == -1
        assert room.links[2].buffered() > 0
        assert room.push(room.hint(1, b"fourth")) == ["written"]  # behind what is kept
        came = b""
        while room.links[1].buffered() or not came.endswith(b"fourth"):
            came += room.peers[1].recv(1 << 20)
            room.links[1].ready(4)
        read, rest = [], memoryview(came[len(filled) :])
        while rest:
            packet, size = mqtt5.read(rest)
            read.append(packet.payload)  # type: ignore[union-attr]
            rest = rest[size:]
        assert read == [b"x", b"second", b"third", b"fourth"]
        came = b""
        while not came.endswith(large):
            came += room.peers[2].recv(1 << 20)
            room.links[2].ready(4)
        assert mqtt5.read(memoryview(came))[0].payload == large  # type: ignore[union-attr]


def test_given_a_peer_that_reads_nothing_when_a_batch_is_over_the_soft_cap_then_the_rest_is_behind_and_nobody_is_cut(
    seen: Seen,
) -> None:
    """As it is where each message is written by itself."""
    with ends(seen, 1, max_write_buffer=8_192) as room:
        fill(room.links[0])
        room.world.register.held = True
        assert room.push(*(room.hint(0, b"x" * 1_000) for _ in range(8))) == ["written"] * 4 + ["behind"] * 4
        assert 4_096 < room.links[0].buffered() < 4_096 + 1_100
        assert list(room.world.room.sessions)


def test_given_a_broken_socket_in_a_batch_then_it_ends_and_the_others_get_theirs(seen: Seen) -> None:
    with ends(seen) as room:
        room.peers[1].close()
        assert room.push(room.hint(0), room.hint(1), room.hint(2)) == ["written"] * 3
        room.links[1].ready(0)
        assert [item.unacked for item in room.world.register.disconnects] == [[("demo", "m1-1")]]  # so it stays pending
        assert (room.ids(0), room.ids(2)) == (["m0-1"], ["m2-1"])


def test_given_a_connection_that_is_closed_while_its_batch_is_handled_then_nothing_goes_to_its_descriptor(seen: Seen) -> None:
    with ends(seen) as room:
        out = Outbox(seen)
        clients = [session.client for session in sorted(room.world.room.sessions, key=lambda each: each.connection)]
        for number, client in enumerate(clients):
            assert client is not None
            out.add(client, b"data%d" % number)
        room.links[0].close(b"last")
        fd = room.links[1].direct
        filled = fill(room.links[1])
        room.links[1].write(b"before")  # by somebody else, and it is kept
        out.send()
        assert seen.calls == []
        assert room.peers[0].recv(100) == b"last"
        assert room.peers[2].recv(100) == b"data2"
        assert room.links[1].buffered() == len(b"beforedata1")
        assert room.peers[1].recv(1 << 24, 0)[:5] == filled[:5]
        assert fd >= 0
        out.send()  # nothing is left
        assert seen.calls == []


def test_given_a_hint_that_can_not_be_handled_then_what_was_gathered_before_is_written(seen: Seen) -> None:
    with ends(seen) as room:
        broken = room.hint(1, None)  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            room.push(room.hint(0), broken)
        assert room.ids(0) == ["m0-1"]
        assert room.push(room.hint(1, n=1)) == ["written"]
        assert room.ids(1) == ["m1-1"]


def test_given_qos_0_then_it_is_settled_when_it_has_drained_and_not_before(seen: Seen) -> None:
    with ends(seen, 2, bind=QOS_0) as room:
        filled = fill(room.links[1])
        assert room.push(room.hint(0), room.hint(1)) == ["written"] * 2
        room.world.flush()
        assert room.world.register.settled == [("m0-1", "written")]
        came = 0
        while room.links[1].buffered() or came <= len(filled):
            came += len(room.peers[1].recv(1 << 20))
            room.links[1].ready(4)
        room.world.flush()
        room.world.flush()
        assert room.world.register.settled == [("m0-1", "written"), ("m1-1", "written")]


@pytest.mark.parametrize(("bind", "settled"), [(QOS_0, [("m0-1", "written")]), (SUBSCRIBE, [])])
def test_given_a_connection_that_ends_by_its_batch_then_what_was_gathered_for_it_is_written_before(
    seen: Seen, bind: bytes, settled: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A queue that is full answers at once, with nothing."""
    with ends(seen, 2, bind=bind) as room:
        ask = Asked(None, lambda result: None)
        monkeypatch.setattr(room.world.register, "sync", lambda item, done: done(None) or ask)
        hints = (room.hint(0), room.hint(1), room.hint(0, n=9), room.hint(0, n=10))
        assert room.push(*hints) == ["written", "written", "behind", "gone"]
        first, last = packets(room.peers[0])
        assert isinstance(first, mqtt5.PublishPacket)
        assert isinstance(last, mqtt5.DisconnectPacket)
        assert room.ids(1) == ["m1-1"]
        assert room.world.register.settled == settled


def test_given_a_brief_question_then_it_is_answered_by_nothing_only_where_all_were_written(seen: Seen) -> None:
    with ends(seen) as room:
        assert room.push(room.hint(0), room.hint(1), brief=True) == []
        assert (room.ids(0), room.ids(1)) == (["m0-1"], ["m1-1"])
        assert room.push(room.hint(0), room.hint(1, product="chat"), brief=True) == ["written", "gone"]
        assert room.push(room.hint(0, n=2)) == ["written"]
        assert room.world.room.push([], brief=True) == list[HintResult]()
