"""The other end: a process with many connections, told by lines what to do with them.

The process is `bench/native/load.c`, or where there is no compiler `bench/client_process.py`. Orders, and what is
answered (a JSON line each, `{"error": …}` where something is not as it must be):

    join HOST PORT KIND AT_ONCE FILE    connect; KIND: raw, nats, mqtt0, mqtt1 (what SUBSCRIBE must be granted)
    leave N                             close the last N
    learn                               wait for a first broadcast, and until nothing more comes → bytes
    parked BYTES                        wait until everyone has so many, and leave them unread
    discard                             read what is there, whatever it is
    drain BYTES                         read them; everyone must have exactly so many
    acknowledge N                       read N PUBLISH at QoS 1 at everyone, and answer them
    live BYTES                          read as it comes → arrivals_ms
    follow N ACK SAMPLE EVERY_US LOOK_US SECONDS   read N PUBLISH in all, and ping meanwhile → publishes, pings_ms

`live` and `follow` say `{"ready": true}` when they have begun.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from bench.load import Address, Failed

STOP: Final = 20.0
PINGED: Final = 500
PING_EVERY_US: Final = 5_000
LOOK_US: Final = 2_000
"""Between two looks for what is to be acknowledged: a client that waits in a poll has to be woken by each write."""


@dataclass(frozen=True, slots=True)
class Server:
    """Where a server is, and how one joins it. `kind`: see above; `at_once`: so many wait for their answer side by side."""

    address: Address
    kind: str
    at_once: int = 200


class Client:
    """One process of the load client. Use as a context manager: its connections are closed with it."""

    def __init__(self, program: Path | None) -> None:
        """`program`: the compiled one, None for the one in Python."""
        command = [str(program)] if program else [sys.executable, "-m", "bench.client_process"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.connections = 0

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._process:  # waits, and closes the pipes
            try:
                self._process.communicate(timeout=STOP)
            except subprocess.TimeoutExpired:
                self._process.kill()

    def join(self, server: Server, hellos: Iterable[bytes]) -> None:
        """A connection more for each of `hellos`, which it begins with; all must be granted what they ask for. Raises Failed."""
        with tempfile.NamedTemporaryFile(prefix="longwire-hellos-") as file:
            for hello in hellos:
                file.write(len(hello).to_bytes(4, sys.byteorder) + hello)
            file.flush()
            host, port = server.address
            self._joined(self._ask(f"join {host} {port} {server.kind} {server.at_once} {file.name}"))

    def leave(self, count: int) -> None:
        """Close the last `count` connections."""
        self._joined(self._ask(f"leave {count}"))

    # --- what is parked -----------------------------------------------------------------------------------------------

    def learn(self) -> int:
        """How many bytes a broadcast has that was just sent; they stay unread. Raises Failed if that is not the same for all."""
        return int(self._ask("learn")["bytes"])

    def parked(self, size: int) -> None:
        """Wait until everyone has so many bytes, and leave them unread. Raises Failed."""
        self._ask(f"parked {size}")

    def discard(self) -> None:
        """Read what is there: what a server says by itself after its connections came is no part of a measurement."""
        self._ask("discard")

    def drain(self, size: int) -> None:
        """Read what was left; everyone must have exactly so many bytes. Raises Failed."""
        self._ask(f"drain {size}")

    def acknowledge(self, count: int) -> None:
        """Read what was left and answer it; everyone must have exactly so many PUBLISH at QoS 1. Raises Failed."""
        self._ask(f"acknowledge {count}")

    # --- what is read as it comes -------------------------------------------------------------------------------------

    def begin_live(self, size: int) -> None:
        """From now on read as it comes, until everyone has exactly so many bytes; then `arrivals()`."""
        self._begin(f"live {size}")

    def arrivals(self) -> list[float]:
        """When each connection had it, ms from the first, ascending. Raises Failed."""
        return sorted(self._hear()["arrivals_ms"])

    def begin_follow(self, count: int, *, pings: bool, within: int) -> None:
        """From now on read `count` PUBLISH in all as they come, s at most; then `followed()`. Those at QoS 1 are acknowledged.

        With `pings` a sample of the connections is pinged in turn, and the client waits in its poll: it is not for cost.
        """
        sample = min(PINGED, self.connections) if pings else 0
        self._begin(f"follow {count} 1 {sample} {PING_EVERY_US} {0 if pings else LOOK_US} {within}")

    def followed(self) -> list[float]:
        """Round trips of the pings, ms. Raises Failed if what was to come did not, or more did."""
        return [float(item) for item in self._hear()["pings_ms"]]

    # --- lines ----------------------------------------------------------------------------------------------------------

    def _joined(self, answer: dict[str, Any]) -> None:
        self.connections = int(answer["connections"])

    def _ask(self, order: str) -> dict[str, Any]:
        self._tell(order)
        return self._hear()

    def _begin(self, order: str) -> None:
        self._tell(order)
        self._hear()

    def _tell(self, order: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{order}\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise Failed(f"the load client was gone before: {order}") from error

    def _hear(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise Failed(f"the load client ended with status {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise Failed(f"load client: {answer['error']}")
        return answer
