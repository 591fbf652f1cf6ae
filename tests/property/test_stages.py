"""Whatever stands between the socket and MQTT changes nothing: any bytes, cut anywhere, mean what they mean on plain TCP."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mqtt5
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.edge.certificates import Contexts
from gateway.edge.link import Link
from gateway.edge.proxy import BadHeader, following, source
from gateway.edge.sockets import Sockets
from gateway.edge.staged import StagedLink
from gateway.edge.stages import Stage
from gateway.edge.tls import Tls
from gateway.edge.upgrade import BadRequest, Door, request_end
from gateway.edge.websocket import FRAGMENTS, Frames, WebSocket
from infra.settings import RoomSettings, TlsSettings
from tests.unit.certs import Authority
from tests.unit.gateway_world import World, claims, sign
from tests.unit.links import Turns
from tests.unit.test_gateway_proxy import SIGNATURE, V4, V6, header
from tests.unit.ws import BINARY, CONTINUATION, PING, PONG, frame, parsed, request

CONNECT = mqtt5.ConnectPacket("c1", password=sign(claims())).write()
PACKETS = (
    mqtt5.PingReqPacket().write(),
    mqtt5.SubscribePacket(1, [mqtt5.TopicFilter("push/demo", max_qos=mqtt5.QoS(1))]).write(),
    mqtt5.SubscribePacket(2, [mqtt5.TopicFilter("push/other", max_qos=mqtt5.QoS(1))]).write(),
    mqtt5.UnsubscribePacket(3, ["push/demo"]).write(),
    mqtt5.PublishPacket("up/demo/pos", b"x" * 90, qos=mqtt5.QoS(1), packet_id=4).write(),
    mqtt5.PublishPacket("up/demo/pos", b"x" * 5000, qos=mqtt5.QoS(1), packet_id=5).write(),
    mqtt5.PubAckPacket(9).write(),
    mqtt5.DisconnectPacket().write(),
    b"\x00\x00",
    b"\xff\xff\xff\xff\xff",
)
streams = st.tuples(
    st.sampled_from((CONNECT, CONNECT, CONNECT, b"", CONNECT[:-1], CONNECT.replace(b"MQTT", b"MQTX"))),
    st.lists(st.sampled_from(PACKETS) | st.binary(max_size=6), max_size=8),
).map(lambda drawn: drawn[0] + b"".join(drawn[1]))


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    """The same bytes in pieces of these sizes, again and again."""
    pieces, at = [], 0
    while at < len(data):
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(data[at : at + size])
        at += size
    return pieces


sizes = st.lists(st.integers(1, 40) | st.integers(41, 6000), min_size=1, max_size=6)
flags = st.lists(st.booleans(), min_size=1, max_size=5)


@lru_cache
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's and a client's."""
    with TemporaryDirectory() as folder:
        authority = Authority(Path(folder))
        server = Contexts(TlsSettings(certificates=(authority.issue("room.test"),))).plain
        return server, ssl.create_default_context(cafile=authority.file)


class Room:
    """A room with one link, driven by hand; `heard` is all that its peer has got."""

    def __init__(self, stages: tuple[Stage, ...] = ()) -> None:
        self.world = World(settings=RoomSettings())
        self.turns = Turns()
        self.sockets = Sockets(self.turns, many=0)  # type: ignore[arg-type]
        ours, self.peer = socket.socketpair()
        self.peer.setblocking(False)
        fd = ours.detach()
        os.set_blocking(fd, False)
        room = self.world.room
        self.link = StagedLink(room, self.sockets, fd, 0, stages, transport="x") if stages else Link(room, self.sockets, fd)
        self.closed = False

    def say(self, data: bytes) -> bytes:
        """Send, let the room do what it does, and return what it said."""
        while data and not self.closed:
            try:
                data = data[self.peer.send(data) :]
            except BlockingIOError:
                self.turns.turn()
            except ConnectionError:
                break
        heard = b""
        for _ in range(4 + len(data)):
            self.turns.turn()
            heard += self._hear()
        while more := self._more():
            heard += more
        return heard

    def _more(self) -> bytes:
        self.turns.turn()
        self.turns.turn()
        return self._hear()

    def _hear(self) -> bytes:
        heard = b""
        try:
            while got := self.peer.recv(1 << 16):
                heard += got
            self.closed = True
        except BlockingIOError:
            pass
        except ConnectionError:
            self.closed = True
        return heard

    def outcome(self) -> tuple[Any, ...]:
        """What the room made of it, and asked of the workers."""
        register = self.world.register
        return (self.closed, [repr(item) for item in register.items], [repr(item) for item in register.disconnects])

    def end(self) -> None:
        self.link.abort()
        self.turns.turn()
        self.sockets.stop()
        self.peer.close()


def plainly(stream: bytes, sizes: list[int]) -> tuple[bytes, tuple[Any, ...]]:
    """What plain TCP answers."""
    room = Room()
    heard = b"".join(room.say(piece) for piece in cut(stream, sizes))
    heard += room.say(b"")
    outcome = room.outcome()
    room.end()
    return heard, outcome


def payload(frames: list[tuple[int, bytes]]) -> bytes:
    return b"".join(data for opcode, data in frames if opcode == BINARY)


def framed(stream: bytes, lengths: list[int], fins: list[bool], pings: list[bool]) -> bytes:
    """The stream in frames of these lengths, in messages that end where `fins` says and have no more frames than they may, with
    pings between where `pings` says."""
    out, open_message = b"", False
    pieces = cut(stream, lengths)
    for number, piece in enumerate(pieces):
        fin = fins[number % len(fins)] or number == len(pieces) - 1 or number % FRAGMENTS == FRAGMENTS - 1
        out += frame(piece, CONTINUATION if open_message else BINARY, fin=fin, mask=(number * 77 + 1).to_bytes(4))
        open_message = not fin
        if pings[number % len(pings)]:
            out += frame(b"are you there?", PING) + frame(b"", PONG)
    return out


@settings(deadline=None, max_examples=150)
@given(stream=streams, cuts=st.tuples(sizes, sizes), lengths=sizes, fins=flags, pings=flags)
def test_websocket_is_tcp(
    stream: bytes, cuts: tuple[list[int], list[int]], lengths: list[int], fins: list[bool], pings: list[bool]
) -> None:
    """Any packets, in any frames, cut anywhere: the same answers, the same end, the same asked of the workers."""
    first, second = cuts
    expected, outcome = plainly(stream, first)
    room = Room((WebSocket(Door("/mqtt", ())),))
    heard = b"".join(room.say(piece) for piece in cut(request() + framed(stream, lengths, fins, pings), second))
    heard += room.say(b"")
    head, _, rest = heard.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 ")
    assert payload(parsed(rest)) == expected
    assert room.outcome() == outcome
    room.end()


@settings(deadline=None, max_examples=60)
@given(stream=streams, first=sizes, second=sizes, over=st.booleans())
def test_tls_is_tcp(stream: bytes, first: list[int], second: list[int], over: bool) -> None:
    """With a real TLS client, alone and under WebSocket, its records cut anywhere."""
    expected, outcome = plainly(stream, first)
    server, context = contexts()
    room = Room((Tls(server), WebSocket(Door("/mqtt", ()))) if over else (Tls(server),))
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname="room.test")
    while not shaken(client):
        for piece in cut(outgoing.read(), second):
            incoming.write(room.say(piece))
    client.write(request() + framed(stream, second, [True], [False]) if over else stream or b"\x10")
    for piece in cut(outgoing.read(), second):
        incoming.write(room.say(piece))
    incoming.write(room.say(b""))
    heard = decrypted(client)
    if over:
        heard = payload(parsed(heard.partition(b"\r\n\r\n")[2]))
    if stream or over:
        assert heard == expected
        assert room.outcome() == outcome
    room.end()


def shaken(client: ssl.SSLObject) -> bool:
    try:
        client.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True


def decrypted(client: ssl.SSLObject) -> bytes:
    found = b""
    try:
        while got := client.read(1 << 14):
            found += got
    except ssl.SSLWantReadError:
        pass
    except ssl.SSLZeroReturnError:
        pass
    return found


# --- any bytes at all ------------------------------------------------------------------------------------------------------


def each(feed: Callable[[bytes], object], data: bytes, sizes: list[int]) -> None:
    for piece in cut(data, sizes):
        feed(piece)


@given(data=st.binary(max_size=300) | st.binary(max_size=20).map(lambda rest: frame(rest) + rest), sizes=sizes)
def test_any_bytes_are_frames_or_refused_the_same_in_any_pieces(data: bytes, sizes: list[int]) -> None:
    whole, cut_up = Frames(), Frames()
    expected = whole.receive(data)
    got = b""

    def feed(piece: bytes) -> None:
        nonlocal got
        if cut_up.ended is None:
            got += cut_up.receive(piece)

    each(feed, data, sizes)
    assert (got, cut_up.ended, cut_up.said) == (expected, whole.ended, whole.said)
    assert len(got) <= len(data)
    assert len(cut_up._head) <= 13


@given(data=st.binary(max_size=200) | st.binary(max_size=60).map(lambda rest: b"GET " + rest + b"\r\n\r\n"))
def test_any_bytes_are_a_request_or_refused_or_go_on(data: bytes) -> None:
    door = Door("/mqtt", ())
    try:
        end = request_end(data)
        answer = door.answer(data[:end]) if end else b""
    except BadRequest as refused:
        answer = refused.answer
    assert answer == b"" or answer.startswith(b"HTTP/1.1 ")
    assert b"\0" not in answer


@given(at=st.integers(0, len(request()) - 1), byte=st.integers(0, 255))
def test_a_request_with_any_byte_changed_is_answered_or_refused(at: int, byte: int) -> None:
    stage = WebSocket(Door("/mqtt", ()))
    changed = bytearray(request())
    changed[at] = byte
    stage.receive(bytes(changed))
    assert stage.open or stage.ended or not stage.take()


headers = st.one_of(
    st.binary(max_size=80),
    st.binary(max_size=60).map(lambda rest: SIGNATURE + rest),
    st.tuples(st.sampled_from((0x20, 0x21)), st.sampled_from((0, 0x11, 0x12, 0x21, 0x31)), st.binary(max_size=60)).map(
        lambda drawn: header(*drawn)
    ),
    st.sampled_from((V4, V6)).map(lambda rest: header(family=0x11 if rest is V4 else 0x21, rest=rest)),
)


@given(data=headers)
def test_any_bytes_are_a_proxy_header_or_refused_or_go_on_the_same_in_any_pieces(data: bytes) -> None:
    def judged(part: bytes) -> str:
        try:
            size = following(part)
        except BadHeader:
            return "bad"
        return "more" if len(part) < 16 or len(part) < 16 + size else "whole"

    verdicts = [judged(data[:end]) for end in range(len(data) + 1)]
    for before, after in pairwise(verdicts):
        assert before in ("more", after)
    if verdicts[-1] == "whole":
        try:
            found = source(data[: 16 + following(data)])
        except BadHeader:
            return
        assert found is None or 0 <= found < 1 << 128
