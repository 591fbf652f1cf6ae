"""How each figure of `make bench-gateway` is taken. Every one of them checks that everything arrived, once.

*Parked*: the client leaves a broadcast unread until everyone has it, so that the whole way is the server's cost. *Live*: it reads
meanwhile; only arrivals and pings are taken so.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Final, Protocol

from bench.clients import Client, Server
from bench.counters import metric
from bench.hints import Hints
from bench.load import Failed
from bench.peers import Sender
from bench.process import cpu_seconds, private_bytes, until_quiet

WARM: Final = 300
"""Connections that are there before memory is counted, so that it is not the first use of something."""
SETTLE_S: Final = 2.5
"""nats-server pings each connection once 2 s after it came."""
UNICAST_BYTES: Final = 256
UNICAST_EACH: Final = 2
"""Messages of one sample to each client."""
WITHIN_S: Final = 120


class Figure(Protocol):
    """Something that is measured again and again, in shuffled order."""

    name: str

    def warm_up(self) -> None:
        """Once, before the first sample; it does not count. Raises Failed."""

    def sample(self) -> float:
        """Messages per CPU-second of the server. Raises Failed."""


class Broadcasts:
    """Parked broadcasts to all connections of a server. `frame`: bytes that each connection gets, known after the warm-up."""

    def __init__(
        self,
        name: str,
        sender: Sender,
        client: Client,
        *,
        times: int,
        payload: int = 64,
        messages: int = 1,
        acknowledged: bool = False,
    ) -> None:
        """A sample is `times` times so many `messages` at once; with `acknowledged` all PUBACKs are part of the cost."""
        self.name = name
        self.frame = 0
        self._sender = sender
        self._client = client
        self._times = times
        self._payload = payload
        self._messages = messages
        self._acknowledged = acknowledged

    def warm_up(self) -> None:
        """Learns the frame."""
        self._once()

    def sample(self) -> float:
        """The whole of it."""
        used = sum(self._once() for _ in range(self._times))
        return self._times * self._messages * self._client.connections / used

    def _once(self) -> float:
        """CPU-seconds."""
        client, sender = self._client, self._sender
        sender.ready(self._payload, self._messages)
        before = until_quiet([sender.pid])
        sender.broadcast()
        if not self.frame:
            self.frame = client.learn()
        client.parked(self.frame)
        if self._acknowledged:
            client.acknowledge(self._messages)
        used = until_quiet([sender.pid]) - before
        if not self._acknowledged:
            client.drain(self.frame)
        sender.over(self._messages * client.connections if self._acknowledged else 0)
        return used


@dataclass(frozen=True, slots=True)
class Behind:
    """Processes that a room needs for its sessions."""

    saver: int
    redis: int


class RoundTrips:
    """Unicast at QoS 1 inside a room: the hint, the PUBACK, sent as the message comes, and what the saver is then told."""

    name = "gateway_unicast_acked"

    def __init__(self, hints: Hints, client: Client, room: dict[str, Any], behind: Behind) -> None:
        """`room`: its report."""
        self._hints = hints
        self._client = client
        self._room = room
        self._behind = behind

    def warm_up(self) -> None:
        """One sample."""
        self.sample()

    def sample(self) -> float:
        """Until nobody has anything to do any more: then the saver has all acks."""
        count, pid = self._hints.prepare(UNICAST_BYTES, UNICAST_EACH), int(self._room["pid"])
        acked = self._acked()
        self._client.begin_follow(count, pings=False, within=WITHIN_S)
        until_quiet([pid])
        before = cpu_seconds(pid)
        self._hints.send()
        self._client.followed()
        until_quiet([pid, self._behind.saver, self._behind.redis])
        used = cpu_seconds(pid) - before
        if (found := self._acked() - acked) != count:
            raise Failed(f"the room counts {found:.0f} acknowledgements of {count}")
        self._client.drain(0)
        return count / used

    def _acked(self) -> float:
        return metric(self._room, "longwire_gateway_settled_total", state="acked")


# --- memory and joins --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Joined:
    """What connections took: bytes of the server's user space for each, idle; and how many a CPU-second brought."""

    bytes_each: float
    per_cpu_s: float
    per_total_cpu_s: float


def join(client: Client, server: Server, hellos: list[bytes], *, pid: int, others: Collection[int] = ()) -> Joined:
    """Connect everyone; all but the first `WARM` count. `others`: processes that work for it, too. Raises Failed."""
    client.join(server, hellos[:WARM])
    until_quiet([pid, *others])
    time.sleep(SETTLE_S)
    memory, cpu, all_cpu = private_bytes(pid), cpu_seconds(pid), sum(map(cpu_seconds, [pid, *others]))
    client.join(server, hellos[WARM:])
    until_quiet([pid, *others])
    used, all_used = cpu_seconds(pid) - cpu, sum(map(cpu_seconds, [pid, *others])) - all_cpu
    time.sleep(SETTLE_S)
    client.discard()
    count = len(hellos) - WARM
    return Joined((private_bytes(pid) - memory) / count, count / used, count / all_used)


# --- live --------------------------------------------------------------------------------------------------------------


def arrivals(figure: Broadcasts, sender: Sender, client: Client, payload: int) -> list[float]:
    """One broadcast that is read as it comes: when each connection had it, ms from the first. Raises Failed."""
    sender.ready(payload, 1)
    until_quiet([sender.pid])
    client.begin_live(figure.frame)
    sender.broadcast()
    found = client.arrivals()
    sender.over(0)
    return found


def pings(sender: Sender, client: Client, *, broadcasts: int, payload: int, say: Callable[[str], None]) -> list[float]:
    """Round trips of pings while broadcasts follow one another at full speed, ms. Raises Failed."""
    client.begin_follow(broadcasts * client.connections, pings=True, within=WITHIN_S)
    begun = time.monotonic()
    for _ in range(broadcasts):
        sender.ready(payload, 1)
        sender.broadcast()
        sender.over(0)
    found = client.followed()
    say(f"{broadcasts} broadcasts in {time.monotonic() - begun:.1f} s, {len(found):,} pings")
    return found
