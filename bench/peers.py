"""What the gateway is compared with, in processes of their own on the measured core, and who sends to their connections."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol

import mqtt5

from bench.clients import Client, Server
from bench.load import ANSWER, READ, Address, Failed, packets
from bench.process import on_core
from bench.servers import end, until
from bench.walk import BareWalk
from infra.local.errors import LocalBrokerError
from infra.local.nats_server import find
from infra.local.ports import HOST, PortLease

SUBJECT: Final = "bench"
NATS_CONFIG: Final = """\
listen: {host}:{port}
ping_interval: "1h"
max_connections: 65536
"""
"""Without pings of its own: they would be among the bytes that are counted."""
MOSQUITTO_CONFIG: Final = """\
listener {port} {host}
allow_anonymous true
persistence false
max_connections -1
set_tcp_nodelay true
log_dest none
"""
MOSQUITTO_AT_ONCE: Final = 90
"""Its queue of connections that are not accepted holds 100; who is beyond it waits for TCP's next try."""
SBIN: Final = "/usr/sbin:/usr/local/sbin"
"""Where Debian has the program, which is not everyone's PATH."""
TOPICS: Final = ("bench/0", "bench/1")
"""By QoS: each connection of mosquitto has a subscription to both."""
LEVELS: Final = (mqtt5.QoS.AT_MOST_ONCE, mqtt5.QoS.AT_LEAST_ONCE)


class Sender(Protocol):
    """Sends broadcasts to all connections of a server. `pid` is the server's."""

    @property
    def pid(self) -> int:
        """The process whose CPU counts."""

    def ready(self, size: int, messages: int) -> None:
        """Prepare so many broadcasts of `size` bytes of payload: nothing of it counts."""

    def broadcast(self) -> None:
        """Send them, all at once."""

    def over(self, acknowledged: int) -> None:
        """They arrived, and so many PUBACKs were sent: raises Failed if the server counts others. Nothing of it counts."""


class Peer(Protocol):
    """A server, and how clients begin with it."""

    name: str
    pid: int
    server: Server

    def hello(self, number: int) -> bytes:
        """The first bytes of connection `number`."""

    def stop(self) -> None:
        """End it."""


# --- the gateway -------------------------------------------------------------------------------------------------------


class RoomSender:
    """Jobs driven straight at one room (`bench/walk.py`)."""

    def __init__(self, pid: int, walk: BareWalk, client: Client) -> None:
        """`client`: has all connections of the room."""
        self.pid = pid
        self._walk = walk
        self._client = client
        self._due = 0

    def ready(self, size: int, messages: int) -> None:
        """Announce them."""
        self._walk.announce(size, jobs=messages)
        self._due = messages * self._client.connections

    def broadcast(self) -> None:
        """Returns when the room has answered. Raises Failed unless it wrote to everyone."""
        if (wrote := self._walk.write()) != self._due:
            raise Failed(f"the room wrote {wrote} PUBLISH of {self._due}")

    def over(self, acknowledged: int) -> None:
        """What the room has counted."""
        if acknowledged:
            until(f"{acknowledged} PUBACKs in the room's counts", lambda: self._walk.acknowledged() == acknowledged)
        self._walk.end()


# --- a loop of send() or of transport.write ----------------------------------------------------------------------------


class Loop:
    """`bench/native/send.c` or `bench/uvloop_loop.py`: Peer and Sender. Sends as many bytes as the gateway's packet has."""

    def __init__(self, name: str, command: Sequence[str], core: int, frames: Mapping[int, int]) -> None:
        """`frames`: bytes of the gateway's packet by those of its payload, as far as they are known when it sends."""
        self.name = name
        self._frames = frames
        self._size = 0
        with on_core(core):
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._orders = self._process.stdin
        self.pid = self._process.pid
        self.server = Server((HOST, int(json.loads(self._process.stdout.readline())["port"])), "raw")

    def hello(self, number: int) -> bytes:
        """It has nothing to say."""
        return b""

    def ready(self, size: int, messages: int) -> None:
        """Only one at a time."""
        assert messages == 1
        self._size = self._frames[size]

    def broadcast(self) -> None:
        """Send."""
        self._orders.write(b"%d\n" % self._size)
        self._orders.flush()

    def over(self, acknowledged: int) -> None:
        """Nothing is counted there."""

    def stop(self) -> None:
        """End it."""
        self._orders.close()
        end(self._process)


UVLOOP: Final = (sys.executable, "-m", "bench.uvloop_loop")


# --- nats-server -------------------------------------------------------------------------------------------------------


class Nats:
    """A nats-server without JetStream: Peer and Sender. Every connection has a subscription to one subject."""

    name = "nats"

    def __init__(self, folder: Path, core: int) -> None:
        """Raises Failed; LocalBrokerError where there is no nats-server."""
        program = find()
        self._lease = PortLease(self.name)
        self.server = Server((HOST, self._lease.port), "nats")
        file = folder / "nats.conf"
        file.write_text(NATS_CONFIG.format(host=HOST, port=self._lease.port))
        self._process = _started([str(program), "--config", str(file)], folder / "nats.log", core)
        self.pid = self._process.pid
        self._data = b""
        try:
            self._socket = _connected(self.server.address)
            self._socket.sendall(b'CONNECT {"verbose":false}\r\nPING\r\n')
            _read_until(self._socket, b"PONG\r\n")
        except BaseException:
            self.stop()
            raise

    def hello(self, number: int) -> bytes:
        """CONNECT, SUB, and a PING whose answer says that they were taken."""
        return f'CONNECT {{"verbose":false}}\r\nSUB {SUBJECT} 1\r\nPING\r\n'.encode()

    def ready(self, size: int, messages: int) -> None:
        """Separate PUBs, which leave in one go."""
        self._data = f"PUB {SUBJECT} {size}\r\n{'x' * size}\r\n".encode() * messages

    def broadcast(self) -> None:
        """Send."""
        self._socket.sendall(self._data)

    def over(self, acknowledged: int) -> None:
        """Nothing is counted there."""

    def stop(self) -> None:
        """End it."""
        end(self._process)
        self._lease.close()


def nats(folder: Path, core: int) -> Nats | None:
    """None where there is no nats-server. Raises Failed."""
    try:
        return Nats(folder, core)
    except LocalBrokerError:
        return None


# --- mosquitto ---------------------------------------------------------------------------------------------------------


class Mosquitto:
    """Debian's mosquitto: Peer. A connection has a subscription at QoS 0 and one at QoS 1, to topics of their own."""

    name = "mosquitto"

    def __init__(self, program: str, folder: Path, core: int) -> None:
        self._lease = PortLease(self.name)
        self.server = Server((HOST, self._lease.port), "mqtt1", at_once=MOSQUITTO_AT_ONCE)
        file = folder / "mosquitto.conf"
        file.write_text(MOSQUITTO_CONFIG.format(host=HOST, port=self._lease.port))
        self._process = _started([program, "-c", str(file)], folder / "mosquitto.log", core)
        self.pid = self._process.pid
        try:
            self.senders = [MosquittoSender(self, qos) for qos in (0, 1)]
        except BaseException:
            self.stop()
            raise

    def hello(self, number: int) -> bytes:
        """CONNECT and SUBSCRIBE."""
        filters = [mqtt5.TopicFilter(topic, max_qos=qos) for topic, qos in zip(TOPICS, LEVELS, strict=True)]
        return mqtt5.ConnectPacket(f"bench-{number}").write() + mqtt5.SubscribePacket(1, filters).write()

    def stop(self) -> None:
        """End it."""
        end(self._process)
        self._lease.close()


class MosquittoSender:
    """A publisher."""

    def __init__(self, mosquitto: Mosquitto, qos: int) -> None:
        self.pid = mosquitto.pid
        self._qos = qos
        self._data = b""
        self._socket = _connected(mosquitto.server.address)
        self._socket.sendall(mqtt5.ConnectPacket(f"publisher-{qos}").write())
        kind, body = _packet(self._socket)
        if kind != 0x20 or body[1]:
            raise Failed(f"mosquitto refused the publisher: {body!r}")

    def ready(self, size: int, messages: int) -> None:
        """Only one at a time."""
        assert messages == 1
        qos = self._qos
        self._data = mqtt5.PublishPacket(TOPICS[qos], b"x" * size, qos=LEVELS[qos], packet_id=qos or None).write()

    def broadcast(self) -> None:
        """Send."""
        self._socket.sendall(self._data)

    def over(self, acknowledged: int) -> None:
        """Its own PUBACK. Those of the connections are told by nobody: were they not taken, it would send them nothing more after
        twenty."""
        if self._qos and _packet(self._socket)[0] != 0x40:
            raise Failed("mosquitto did not acknowledge a broadcast")


def mosquitto(folder: Path, core: int) -> Mosquitto | None:
    """None where it is not installed. Raises Failed."""
    program = shutil.which("mosquitto") or shutil.which("mosquitto", path=SBIN)
    return Mosquitto(program, folder, core) if program else None


# --- parts -------------------------------------------------------------------------------------------------------------


def _started(command: Sequence[str], log: Path, core: int) -> subprocess.Popen[bytes]:
    with on_core(core), log.open("wb") as output:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)


def _connected(address: Address) -> socket.socket:
    """A connection, as soon as the server listens."""
    found = []

    def try_it() -> bool:
        try:
            found.append(socket.create_connection(address, ANSWER))
        except ConnectionRefusedError:
            return False
        return True

    until(f"a server at {address[0]}:{address[1]}", try_it)
    found[0].setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return found[0]


def _read_until(connection: socket.socket, last: bytes) -> None:
    data = b""
    while not data.endswith(last):
        got = connection.recv(READ)
        data += got
        if not got:
            raise Failed(f"a server ended the connection after {data[-80:]!r}")


def _packet(connection: socket.socket) -> tuple[int, bytes]:
    """One whole packet."""
    data = b""
    while not (found := list(packets(data))):
        got = connection.recv(READ)
        data += got
        if not got:
            raise Failed(f"a server ended the connection after {data[-80:]!r}")
    return found[0]
