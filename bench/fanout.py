"""`make bench`: what a broadcast and an idle connection cost a room, beside a bare uvloop loop in the same run.

How it is measured, and what was found: docs/benchmarks.md. Linux only: epoll, and /proc for the counters.
"""

from __future__ import annotations

import json
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from bench.load import Crowd, Failed
from bench.process import cores, cpu_seconds, pin, private_bytes, raise_descriptor_limit
from bench.servers import Gateway, Loop, Server

CONNECTIONS: Final = 5_000
WARM: Final = 200
"""Connections that are there before memory is counted, so that it is not the first use of something."""
PAYLOADS: Final = (64, 256)
ROUNDS: Final = 6
BROADCASTS: Final = 5
"""Broadcasts of one server in a round; their CPU is added up."""
LIVE: Final = 10
TAIL_S: Final = 0.1
"""After the last arrival the server still has to count what it wrote; that is its cost too."""
SETTLE_S: Final = 2.0
FILE: Final = Path("build/bench.json")


@dataclass(slots=True)
class Subject:
    """One server with its connections, and what was measured of it."""

    server: Server
    crowd: Crowd
    bytes_each: float = 0.0
    joins_per_cpu_s: float = 0.0
    frames: dict[int, int] = field(default_factory=dict)
    rates: dict[int, list[float]] = field(default_factory=dict)
    spread_ms: list[tuple[float, float]] = field(default_factory=list)

    def join(self) -> None:
        """Connect everyone; measures memory and CPU of all but the first `WARM`."""
        pid = self.server.pid
        self._join_more(WARM)
        memory, cpu = private_bytes(pid), cpu_seconds(pid)
        self._join_more(CONNECTIONS - WARM)
        self.joins_per_cpu_s = (CONNECTIONS - WARM) / (cpu_seconds(pid) - cpu)
        self.bytes_each = (private_bytes(pid) - memory) / (CONNECTIONS - WARM)

    def _join_more(self, count: int) -> None:
        """Connect, and wait: a connection is there for us before the server has accepted it."""
        self.crowd.join(count, self.server.hello)
        self.server.until_known(len(self.crowd))
        time.sleep(SETTLE_S)

    def warm_up(self, size: int, frame: int) -> int:
        """One broadcast that does not count; returns the bytes of its frame."""
        self.frames[size] = frame or size
        self.server.broadcast(self.frames[size])
        self.crowd.parked()
        return self.crowd.drain()

    def round(self, size: int) -> None:
        """`BROADCASTS` broadcasts, each read only after all connections have it: the whole way is the server's cost."""
        used = 0.0
        for _ in range(BROADCASTS):
            before = cpu_seconds(self.server.pid)
            self.server.broadcast(self.frames[size])
            self.crowd.parked()
            time.sleep(TAIL_S)
            used += cpu_seconds(self.server.pid) - before
            self.crowd.drain()
        self.rates.setdefault(size, []).append(BROADCASTS * len(self.crowd) / used)

    def live(self) -> None:
        """One broadcast that is read as it comes: how far apart the arrivals are."""
        self.server.broadcast(self.frames[PAYLOADS[0]])
        times = self.crowd.live()
        self.spread_ms.append((times[len(times) // 2] * 1000, times[len(times) * 99 // 100] * 1000))


def measure(gateway: Subject, loop: Subject) -> None:
    """Everything, on subjects that have their connections. Raises Failed."""
    both = [gateway, loop]
    for size in PAYLOADS:
        frame = gateway.warm_up(size, 0)
        loop.warm_up(size, frame)
    for _ in range(ROUNDS):
        for size in PAYLOADS:
            for subject in random.sample(both, 2):
                subject.round(size)
    for _ in range(LIVE):
        for subject in random.sample(both, 2):
            subject.live()


# --- what is shown -----------------------------------------------------------------------------------------------------


def spread(values: list[float]) -> dict[str, float]:
    """Smallest, median and largest."""
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def document(gateway: Subject, loop: Subject) -> dict[str, object]:
    """What goes to `build/bench.json`. Rates: deliveries per CPU-second; `ratio` is of medians."""
    results = []
    for size in PAYLOADS:
        one, other = spread(gateway.rates[size]), spread(loop.rates[size])
        results.append(
            {
                "payload": size,
                "frame": loop.frames[size],
                gateway.server.name: one,
                loop.server.name: other,
                "ratio": one["median"] / other["median"],
            }
        )
    return {
        "connections": CONNECTIONS,
        "rounds": ROUNDS,
        "broadcasts_a_round": BROADCASTS,
        **results[0],
        "by_payload": results,
        "bytes_per_connection": gateway.bytes_each,
        "bytes_per_connection_uvloop": loop.bytes_each,
        "joins_per_cpu_second": gateway.joins_per_cpu_s,
        "accepts_per_cpu_second_uvloop": loop.joins_per_cpu_s,
        "live_arrival_ms": {subject.server.name: _arrival(subject) for subject in (gateway, loop)},
    }


def _arrival(subject: Subject) -> dict[str, float]:
    halves, lasts = zip(*subject.spread_ms, strict=True)
    return {"p50": statistics.median(halves), "p99": statistics.median(lasts)}


def table(gateway: Subject, loop: Subject) -> Table:
    """The same for a person."""
    shown = Table(f"{CONNECTIONS:,} connections", "gateway, QoS 0", "uvloop loop", "ratio", box=None)
    for size in PAYLOADS:
        one, other = spread(gateway.rates[size]), spread(loop.rates[size])
        ratio = f"{one['median'] / other['median']:.2f}"
        shown.add_row(f"k deliveries / CPU-s, {size} B", _thousands(one), _thousands(other), ratio)
    pairs = (
        ("bytes / idle connection", gateway.bytes_each, loop.bytes_each),
        ("joins (accepts) / CPU-s", gateway.joins_per_cpu_s, loop.joins_per_cpu_s),
    )
    for label, ours, theirs in pairs:
        shown.add_row(label, f"{ours:,.0f}", f"{theirs:,.0f}", f"{ours / theirs:.2f}" if theirs else "")
    one, other = _arrival(gateway), _arrival(loop)
    label = "arrival, ms (p50 / p99)"
    shown.add_row(label, f"{one['p50']:.0f} / {one['p99']:.0f}", f"{other['p50']:.0f} / {other['p99']:.0f}")
    return shown


def _thousands(values: dict[str, float]) -> str:
    return " / ".join(f"{values[name] / 1000:.0f}" for name in ("min", "median", "max"))


# --- the run -----------------------------------------------------------------------------------------------------------


def run(console: Console) -> None:
    """Start both servers, connect, measure, print, write `FILE`, stop. Raises Failed, OSError."""
    limit = raise_descriptor_limit()
    if limit < 2 * CONNECTIONS + 500:
        raise Failed(f"{limit} files may be open at once, {2 * CONNECTIONS + 500} are needed: raise the hard limit (ulimit -Hn)")
    core, others = cores()
    pin(os.getpid(), others)
    begun = time.monotonic()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="longwire-bench-")))
        servers: list[Server] = []
        for start in (lambda: Gateway(folder, core), lambda: Loop(core)):
            server = start()
            stack.callback(server.stop)
            servers.append(server)
        gateway, loop = (Subject(server, stack.enter_context(Crowd(server.address))) for server in servers)
        for subject in (gateway, loop):
            console.print(f"[dim]{subject.server.name}: {CONNECTIONS:,} connections…[/dim]")
            subject.join()
        console.print(f"[dim]{ROUNDS} rounds of {BROADCASTS} broadcasts, {len(PAYLOADS)} sizes…[/dim]")
        measure(gateway, loop)
        console.print(table(gateway, loop))
        FILE.parent.mkdir(exist_ok=True)
        FILE.write_text(json.dumps(document(gateway, loop), indent=2) + "\n")
    console.print(f"[dim]{FILE} written; {time.monotonic() - begun:.0f} s in all[/dim]")


def main() -> int:
    """The entry point; returns the exit status."""
    console = Console()
    if not sys.platform.startswith("linux"):
        console.print("the benchmark needs Linux: epoll and /proc")
        return 1
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the servers are taken down either way
    try:
        run(console)
    except KeyboardInterrupt:
        return 130
    except (Failed, OSError) as error:
        console.print(f"[red]the benchmark failed:[/red] {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
