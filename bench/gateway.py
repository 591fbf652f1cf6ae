"""`make bench-gateway`: a room beside a loop of send(), a bare uvloop loop, nats-server and mosquitto, in one run.

How it is measured, and what was found: docs/benchmarks.md. Linux only: epoll, and /proc for the counters.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click
import redis
from rich.console import Console

from bench import peers
from bench.clients import Client, Server
from bench.compiled import NotBuilt, compiled
from bench.counters import save
from bench.hints import Hints
from bench.load import Failed
from bench.measures import Behind, Broadcasts, Figure, RoundTrips, arrivals, join, pings
from bench.peers import Loop, RoomSender, Sender
from bench.process import cores, pin, raise_descriptor_limit
from bench.report import Results, document, percentile, tables
from bench.servers import PRODUCT, PRODUCTS, Gateway, client_id
from bench.tls import Certificate, Handshakes, TlsClient, bytes_each
from bench.walk import BareWalk
from infra.bus import BusError
from infra.documents import POLICY, Policy

FILE: Final = Path("build/bench-gateway.json")
PAYLOADS: Final = (64, 256)
LIVE: Final = 6
"""Broadcasts to each server whose arrivals are looked at."""
PING_BROADCASTS: Final = 40
BURST: Final = 16
OTHERS: Final = 100_000
"""Devices of the second room are numbered from here."""
TLS: Final = 200_000
"""Those of the third."""
SPARE: Final = 500
"""Descriptors of a process beside its connections."""
DOCUMENTS: Final = {
    **PRODUCTS,
    # Neither a sync nor a ping for each idle connection now and then, nor a limit to how many come at once.
    POLICY: Policy(sync_interval=24 * 3600, keep_alive_default=3600, connect_rate=1_000_000, connect_ramp_from=1.0),
}


@dataclass(frozen=True, slots=True)
class Size:
    """How large a run is."""

    connections: int
    idle: int
    rounds: int
    broadcasts: int
    sender: str
    compiled: str
    tls: int = 2_200


@contextmanager
def naming(what: str) -> Iterator[None]:
    """Say what was being measured when it failed."""
    try:
        yield
    except (Failed, BusError, OSError) as error:
        raise Failed(f"{what}: {error}") from error


@dataclass(frozen=True, slots=True)
class Subject:
    """A server as arrivals are taken of it."""

    name: str
    figure: Broadcasts
    sender: Sender
    client: Client


class Bench:
    """Everything that runs, by an ExitStack that stops it."""

    def __init__(self, size: Size, folder: Path, stack: ExitStack, say: Callable[[str], None]) -> None:
        self._size = size
        self._folder = folder
        self._stack = stack
        self._say = say
        self._core = cores()[0]
        self._program = compiled("load")
        self._figures: list[Figure] = []
        self._subjects: list[Subject] = []
        self._frames: dict[int, int] = {}
        """Bytes of the gateway's packet by those of its payload: the loops write as many."""
        self.found = Results(size.connections, size.idle, native_client=self._program is not None)

    def run(self) -> None:
        """Start, connect, measure. Raises Failed, BusError, OSError."""
        self._gateway()
        self._loops()
        self._nats()
        self._mosquitto()
        self._say("warming up…")
        self._warm_up()
        self._rates()
        self._arrivals()
        self._pings()

    # --- who is measured ----------------------------------------------------------------------------------------------

    def _client(self) -> Client:
        return self._stack.enter_context(Client(self._program))

    def _gateway(self) -> None:
        """A system with three rooms on the core: one with binds at QoS 0, one at QoS 1, one for TLS."""
        size = self._size
        self._say("a system with three rooms…")
        certificate = Certificate(self._folder / "tls")
        env = {
            "LONGWIRE_ROOM__SENDER": size.sender,
            "LONGWIRE_ROOM__COMPILED": size.compiled,
            **certificate.environment(),
        }
        gateway = Gateway(self._folder / "system", self._core, rooms=3, env=env, documents=DOCUMENTS)
        self._stack.callback(gateway.stop)
        room = gateway.report(gateway.system.rooms[0].id)
        self.found.sender, self.found.reader = str(room["sender"]), str(room["reader"])
        self.found.compiled = bool(room["compiled"])
        system = gateway.system
        redis_pid = int(redis.Redis.from_url(system.redis).info("server")["process_id"])
        behind = Behind(int(gateway.report("saver")["pid"]), redis_pid)
        first, second = self._client(), self._client()

        self._say(f"{size.idle:,} connections, their tokens first…")
        hellos = [gateway.hello(number) for number in range(size.idle)]
        others = (behind.saver, behind.redis)
        self.found.joined["gateway"] = join(
            first, Server(gateway.addresses[0], "mqtt0"), hellos, pid=gateway.pids[0], others=others
        )
        first.leave(size.idle - size.connections)
        self._say(f"{size.connections:,} to the second room…")
        numbers = range(OTHERS, OTHERS + size.connections)
        hellos = [gateway.hello(number, qos=1) for number in numbers]
        self.found.joined["gateway_qos1"] = join(
            second, Server(gateway.addresses[1], "mqtt1"), hellos, pid=gateway.pids[1], others=others
        )
        gateway.until_known(2 * size.connections)

        self._tls(gateway, certificate)
        walks = [self._stack.enter_context(BareWalk(system.nats, [room.id], PRODUCT.name)) for room in system.rooms[:2]]
        at_0, at_1 = (RoomSender(*each) for each in zip(gateway.pids[:2], walks, (first, second), strict=True))
        for payload, figure in zip(PAYLOADS, self._add_plain("gateway", "gateway_qos0", at_0, first), strict=True):
            figure.warm_up()
            self._frames[payload] = figure.frame
        self._add("gateway_burst16", at_0, first, messages=BURST)
        self._add("gateway_qos1_acked", at_1, second, acknowledged=True)
        hints = Hints(system.nats, system.rooms[1].id, PRODUCT.name, [client_id(number) for number in numbers])
        report = gateway.report(system.rooms[1].id)
        self._figures.append(RoundTrips(self._stack.enter_context(hints), second, report, behind))
        self._pinged = (at_0, first)

    def _tls(self, gateway: Gateway, certificate: Certificate) -> None:
        """The third room: first its memory, then handshakes in each round."""
        room, pid = gateway.system.rooms[2], gateway.pids[2]
        address = (room.host, int(gateway.report(room.id)["ports"][1]))
        client = self._stack.enter_context(TlsClient(address, certificate))
        self._say(f"{self._size.tls:,} connections by TLS…")
        hellos = [gateway.hello(TLS + number) for number in range(self._size.tls)]
        self.found.tls_bytes_each = bytes_each(pid, client, hellos)
        self._figures += [
            Handshakes("tls_full_handshakes", pid, client, resumed=False),
            Handshakes("tls_resumed_handshakes", pid, client, resumed=True),
        ]

    def _loops(self) -> None:
        program = compiled("send")
        commands = {"c_send": [str(program)] if program else [], "uvloop": list(peers.UVLOOP)}
        for name, command in commands.items():
            if not command:
                self._say("no C compiler: no loop of send(), and the load client is the one in Python")
                continue
            loop = Loop(name, command, self._core, self._frames)
            self._add_plain(name, name, loop, self._joined(loop))

    def _nats(self) -> None:
        server = peers.nats(self._folder, self._core)
        if server is None:
            self._say("no nats-server: it is left out")
            return
        client = self._joined(server)
        self._add_plain("nats", "nats", server, client)
        self._add("nats_burst16", server, client, messages=BURST)

    def _mosquitto(self) -> None:
        server = peers.mosquitto(self._folder, self._core)
        if server is None:
            self._say("no mosquitto: it is left out (Debian has it as a package)")
            return
        client = self._joined(server)
        figure = self._add("mosquitto_qos0", server.senders[0], client)
        self._add("mosquitto_qos1", server.senders[1], client, acknowledged=True)
        self._subjects.append(Subject("mosquitto", figure, server.senders[0], client))

    def _joined(self, server: peers.Peer) -> Client:
        """A client with all connections."""
        self._stack.callback(server.stop)
        client = self._client()
        self._say(f"{server.name}: {self._size.connections:,} connections…")
        hellos = [server.hello(number) for number in range(self._size.connections)]
        self.found.joined[server.name] = join(client, server.server, hellos, pid=server.pid)
        return client

    def _add_plain(self, name: str, key: str, sender: Sender, client: Client) -> list[Broadcasts]:
        """Both sizes, and arrivals."""
        names = (key, f"{key}_{PAYLOADS[1]}")
        figures = [self._add(each, sender, client, payload=size) for each, size in zip(names, PAYLOADS, strict=True)]
        self._subjects.append(Subject(name, figures[0], sender, client))
        return figures

    def _add(
        self,
        name: str,
        sender: Sender,
        client: Client,
        *,
        payload: int = PAYLOADS[0],
        messages: int = 1,
        acknowledged: bool = False,
    ) -> Broadcasts:
        figure = Broadcasts(
            name,
            sender,
            client,
            times=1 if messages > 1 else self._size.broadcasts,
            payload=payload,
            messages=messages,
            acknowledged=acknowledged,
        )
        self._figures.append(figure)
        return figure

    # --- measuring ----------------------------------------------------------------------------------------------------

    def _warm_up(self) -> None:
        """Once each, and see what a connection gets."""
        for figure in self._figures:
            with naming(figure.name):
                figure.warm_up()
            if isinstance(figure, Broadcasts):
                self.found.frames[figure.name] = figure.frame
        for many, one in (("gateway_burst16", "gateway_qos0"), ("nats_burst16", "nats")):
            if many in self.found.frames and self.found.frames[many] != BURST * self.found.frames[one]:
                raise Failed(f"{many}: {self.found.frames[many]} bytes came, and not {BURST} × {self.found.frames[one]}")

    def _rates(self) -> None:
        size = self._size
        self._say(f"{size.rounds} rounds of {len(self._figures)} figures, {size.broadcasts} broadcasts each…")
        for _ in range(size.rounds):
            for figure in random.sample(self._figures, len(self._figures)):
                with naming(figure.name):
                    self.found.rates.setdefault(figure.name, []).append(figure.sample())

    def _arrivals(self) -> None:
        self._say(f"{LIVE} broadcasts each, read as they come…")
        for _ in range(LIVE):
            for subject in random.sample(self._subjects, len(self._subjects)):
                with naming(f"arrivals of {subject.name}"):
                    times = arrivals(subject.figure, subject.sender, subject.client, PAYLOADS[0])
                self.found.arrivals.setdefault(subject.name, []).append((percentile(times, 50), percentile(times, 99)))

    def _pings(self) -> None:
        self._say("pings during broadcasts…")
        sender, client = self._pinged
        self.found.pings_ms = pings(sender, client, broadcasts=PING_BROADCASTS, payload=PAYLOADS[0], say=self._say)


def measure(size: Size, console: Console) -> None:
    """The whole run; prints, and writes `FILE`. Raises Failed, NotBuilt, BusError, OSError."""
    limit = raise_descriptor_limit()
    most = max(size.idle, size.connections)
    if limit < most + SPARE:
        raise Failed(f"{limit} files may be open at once, {most + SPARE} are needed: raise the hard limit (ulimit -Hn)")
    pin(os.getpid(), cores()[1])
    begun = time.monotonic()

    def say(line: str) -> None:
        console.print(f"[dim]{time.monotonic() - begun:4.0f} s  {line}[/dim]")

    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="longwire-bench-")))
        bench = Bench(size, folder, stack, say)
        bench.run()
        for table in tables(bench.found):
            console.print(table)
        save(FILE, document(bench.found))
    say(f"{FILE} written")


@click.command()
@click.option("--connections", default=10_000, show_default=True, type=click.IntRange(500), help="To each server.")
@click.option(
    "--idle", default=18_000, show_default=True, help="To one room, for the memory of an idle one; not fewer than the others."
)
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1))
@click.option("--broadcasts", default=3, show_default=True, type=click.IntRange(1), help="In each round.")
@click.option("--compiled", default="auto", show_default=True, help="The compiled room, on or off: LONGWIRE_ROOM__COMPILED.")
@click.option("--sender", default="auto", show_default=True, help="What writes the room's broadcasts: LONGWIRE_ROOM__SENDER.")
def main(**fields: Any) -> None:
    """Measure a room beside other servers on this machine."""
    console = Console(highlight=False)
    if not sys.platform.startswith("linux"):
        console.print("the benchmark needs Linux: epoll and /proc")
        sys.exit(1)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the servers are taken down either way
    size = Size(**{**fields, "idle": max(fields["idle"], fields["connections"])})
    try:
        measure(size, console)
    except KeyboardInterrupt:
        sys.exit(130)
    except (Failed, NotBuilt, BusError, OSError) as error:
        console.print(f"[red]the benchmark failed:[/red] {error}")
        sys.exit(1)


if __name__ == "__main__":
    main()
