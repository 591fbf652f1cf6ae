"""The load client of the benchmarks, compiled and in Python: what is lost, or comes twice, fails the measurement."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from bench.clients import PING_EVERY_US, Client, Server
from bench.compiled import compiled
from bench.load import Failed

CONNACK = b"\x20\x03\x00\x00\x00"
PINGREQ, PINGRESP = b"\xc0\x00", b"\xd0\x00"
COUNT = 5
DEADLINE = 10.0


def suback(code: int) -> bytes:
    return bytes((0x90, 4, 0, 1, 0, code))


def publish(packet_id: int, *, qos: int, size: int = 300) -> bytes:
    body = b"\x00\x01t" + (packet_id.to_bytes(2, "big") if qos else b"") + b"\x00" + b"x" * size
    return bytes((0x30 | qos << 1, len(body) & 0x7F | 0x80, len(body) >> 7)) + body


class Peer:
    """A server that does what a test says: `greet` answers each connection's first bytes."""

    def __init__(self, greet: Callable[[socket.socket], None]) -> None:
        self._greet = greet
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._listener.getsockname()
        self.connections: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.settimeout(DEADLINE)
            self.connections.append(connection)
            self._greet(connection)

    def send(self, data: bytes) -> None:
        for connection in self.connections:
            connection.sendall(data)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes the accept
        self._listener.close()
        self._thread.join(DEADLINE)
        for connection in self.connections:
            connection.close()


def silent(connection: socket.socket) -> None:
    """Says nothing."""


def granting(code: int) -> Callable[[socket.socket], None]:
    def greet(connection: socket.socket) -> None:
        connection.recv(64)
        connection.sendall(CONNACK[:2])
        connection.sendall(CONNACK[2:] + suback(code))

    return greet


def answering_pings(connection: socket.socket) -> None:
    granting(0)(connection)

    def answer() -> None:
        with suppress(OSError):
            while data := connection.recv(64):
                assert set(data) == set(PINGREQ)
                connection.sendall(PINGRESP * (len(data) // 2))

    threading.Thread(target=answer, daemon=True).start()


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path | None]:
    return {"compiled": compiled("load", tmp_path_factory.mktemp("native")), "python": None}


@pytest.fixture(params=["compiled", "python"])
def client(request: pytest.FixtureRequest, programs: dict[str, Path | None]) -> Iterator[Client]:
    if request.param == "compiled" and programs["compiled"] is None:
        pytest.skip("there is no C compiler")
    with Client(programs[request.param]) as made:
        yield made


@pytest.fixture
def peer(request: pytest.FixtureRequest) -> Iterator[Peer]:
    made = Peer(request.param)
    yield made
    made.close()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def joined(client: Client, peer: Peer, kind: str = "raw") -> None:
    client.join(Server(peer.address, kind, at_once=2), [b"hello"] * COUNT if kind != "raw" else [b""] * COUNT)
    until(lambda: len(peer.connections) == COUNT)


@pytest.mark.parametrize("peer", [silent], indirect=True)
def test_given_the_same_bytes_everywhere_then_they_are_learnt_parked_and_drained(client: Client, peer: Peer) -> None:
    joined(client, peer)
    peer.send(b"x" * 130)
    assert client.learn() == 130
    client.drain(130)
    peer.send(b"x" * 50)
    peer.send(b"x" * 80)
    client.parked(130)
    client.drain(130)
    client.drain(0)


@pytest.mark.parametrize("peer", [silent], indirect=True)
def test_given_one_connection_with_a_byte_more_then_it_fails(client: Client, peer: Peer) -> None:
    joined(client, peer)
    peer.send(b"x" * 9)
    peer.connections[3].sendall(b"y")
    client.parked(9)
    with pytest.raises(Failed, match="10 bytes and not 9"):
        client.drain(9)


@pytest.mark.parametrize("peer", [silent], indirect=True)
def test_given_different_sizes_then_no_frame_is_learnt(client: Client, peer: Peer) -> None:
    joined(client, peer)
    peer.send(b"x" * 9)
    peer.connections[0].sendall(b"y")
    with pytest.raises(Failed, match="different numbers of bytes"):
        client.learn()


@pytest.mark.parametrize("peer", [silent], indirect=True)
def test_given_a_connection_that_the_server_ends_then_it_fails(client: Client, peer: Peer) -> None:
    joined(client, peer)
    peer.connections[0].close()
    time.sleep(0.05)
    with pytest.raises(Failed, match="was ended"):
        client.drain(0)


@pytest.mark.parametrize("peer", [granting(1)], indirect=True)
def test_given_a_suback_at_another_qos_then_joining_fails(client: Client, peer: Peer) -> None:
    with pytest.raises(Failed, match=r"granted at QoS 0|not granted at QoS 0"):
        client.join(Server(peer.address, "mqtt0"), [b"hello"])


@pytest.mark.parametrize("peer", [granting(1)], indirect=True)
def test_given_publishes_at_qos_1_then_each_is_acknowledged_by_its_id(client: Client, peer: Peer) -> None:
    joined(client, peer, "mqtt1")
    peer.send(publish(0x8001, qos=1) + publish(7, qos=1))
    client.parked(2 * len(publish(7, qos=1)))
    client.acknowledge(2)
    for connection in peer.connections:
        assert connection.recv(64) == b"\x40\x02\x80\x01\x40\x02\x00\x07"


@pytest.mark.parametrize("peer", [granting(1)], indirect=True)
def test_given_a_publish_too_few_then_acknowledging_fails(client: Client, peer: Peer) -> None:
    joined(client, peer, "mqtt1")
    peer.send(publish(1, qos=1))
    time.sleep(0.05)
    with pytest.raises(Failed, match="connection 0 had 1"):
        client.acknowledge(2)


@pytest.mark.parametrize("peer", [granting(1)], indirect=True)
def test_given_packets_in_pieces_when_followed_then_they_are_counted_and_acknowledged(client: Client, peer: Peer) -> None:
    joined(client, peer, "mqtt1")
    client.begin_follow(2 * COUNT, pings=False, within=10)
    data = publish(1, qos=1) + publish(2, qos=1)
    for at in range(0, len(data), 101):
        peer.send(data[at : at + 101])
        time.sleep(0.01)
    assert client.followed() == []
    for connection in peer.connections:
        assert connection.recv(64) == b"\x40\x02\x00\x01\x40\x02\x00\x02"


@pytest.mark.parametrize("peer", [answering_pings], indirect=True)
def test_given_pings_meanwhile_then_round_trips_are_told(client: Client, peer: Peer) -> None:
    joined(client, peer, "mqtt0")
    begun = time.monotonic()
    client.begin_follow(COUNT, pings=True, within=10)
    time.sleep(0.2)
    peer.send(publish(0, qos=0))
    taken = client.followed()
    assert 2 <= len(taken) <= (time.monotonic() - begun) / (PING_EVERY_US / 1e6) + 2
    assert all(0 < item < 10_000 for item in taken)
    client.drain(0)


@pytest.mark.parametrize("peer", [granting(0)], indirect=True)
def test_given_more_publishes_than_are_due_then_it_fails(client: Client, peer: Peer) -> None:
    joined(client, peer, "mqtt0")
    client.begin_follow(COUNT, pings=False, within=10)
    for connection in peer.connections:
        connection.sendall(publish(0, qos=0) * 2)
    with pytest.raises(Failed, match=f"PUBLISH came and not {COUNT}"):
        client.followed()


@pytest.mark.parametrize("peer", [granting(0)], indirect=True)
def test_given_a_disconnect_when_followed_then_it_fails(client: Client, peer: Peer) -> None:
    joined(client, peer, "mqtt0")
    client.begin_follow(COUNT, pings=False, within=10)
    peer.connections[0].sendall(b"\xe0\x00")
    with pytest.raises(Failed, match="0xe0"):
        client.followed()


@pytest.mark.parametrize("peer", [silent], indirect=True)
def test_given_a_broadcast_read_as_it_comes_then_arrivals_are_ms_from_the_first(client: Client, peer: Peer) -> None:
    joined(client, peer)
    client.begin_live(20)
    for connection in peer.connections[:-1]:
        connection.sendall(b"x" * 20)
    time.sleep(0.1)
    peer.connections[-1].sendall(b"x" * 20)
    times = client.arrivals()
    assert len(times) == COUNT
    assert times[0] == 0
    assert 50 < times[-1] < 5_000


@pytest.mark.parametrize("peer", [silent], indirect=True)
def test_given_some_that_leave_then_the_rest_go_on(client: Client, peer: Peer) -> None:
    joined(client, peer)
    client.leave(2)
    assert client.connections == COUNT - 2
    for connection in peer.connections[-2:]:
        assert connection.recv(1) == b""
    peer.connections[0].sendall(b"hello")
    client.discard()
    client.drain(0)
