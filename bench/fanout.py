"""`make bench`: what a broadcast and an idle connection cost a room, beside a bare uvloop loop in the same run.

How it is measured, and what was found: docs/benchmarks.md. Linux only: epoll, and /proc for the counters.
"""

from __future__ import annotations

import json
import os
import random
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

from bench.load import Arrivals, Crowd, Failed
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
        pid, hello = self.server.pid, self.server.hello
        self.crowd.join(WARM, hello)
        self.server.until_known(WARM)
        memory, cpu = private_bytes(pid), cpu_seconds(pid)
        self.crowd.join(CONNECTIONS - WARM, hello)
        self.joins_per_cpu_s = (CONNECTIONS - WARM) / (cpu_seconds(pid) - cpu)
        self.server.until_known(CONNECTIONS)
        time.sleep(SETTLE_S)
        self.bytes_each = (private_bytes(pid) - memory) / (CONNECTIONS - WARM)

    def parked(self, size: int) -> float:
        """One broadcast that nobody reads before all have it; returns the server's CPU for it, s."""
        before = cpu_seconds(self.server.pid)
        self.server.broadcast(size)
        arrivals = self.crowd.parked(TAIL_S, lambda: cpu_seconds(self.server.pid))
        return arrivals - before
