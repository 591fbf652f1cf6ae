"""`make bench-broadcast`: whole broadcasts. What a job costs rooms beside a bare walk, how well it keeps its pace, what offline
clients cost it, and how near `pushctl plan broadcast` comes to it.

How it is measured, and what was found: docs/benchmarks.md. Linux only: epoll, and /proc for the counters.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console
from rich.table import Table

from bench.counters import Nats, RedisCounts, Touched, kafka_records, save
from bench.forecasts import CROWD, Owner, at_full_size, owner_costs, paced
from bench.load import Crowd, Failed, Followed
from bench.process import cores, cpu_seconds, pin, raise_descriptor_limit, until_quiet
from bench.servers import JOB_TTL_S, PRODUCT, PRODUCTS, Gateway, subscribe
from bench.walk import BareWalk
from infra.documents import POLICY, Policy, Product, product_key
from infra.settings import KafkaSettings
from workers.broadcast.plansim import COSTS, Campaign

FILE: Final = Path("build/bench-broadcast.json")
PAYLOAD: Final = 256
PACED_S: Final = 20
WINDOW_S: Final = 5.0
PINGED: Final = 500
PING_EVERY: Final = 0.01
LOOK_EVERY: Final = 0.25
"""Seconds between two looks for arrivals: one at 10,000 sockets that are being written to costs their writer."""
MARGIN_S: Final = 10
LOOK_S: Final = JOB_TTL_S + 3.0
"""What offline clients cost is looked at for so long: the whole life of a job is in it, and its end."""
LOOKS: Final = 3
DOCUMENTS: Final = {
    **PRODUCTS,
    product_key(CROWD): Product(name=CROWD, rate=1_000_000),
    # Each client's sync is Redis's work and the room's, once in this time, whoever pushes: not what is measured here.
    POLICY: Policy(sync_interval=24 * 3600, connect_rate=100_000, connect_ramp_from=1.0),
}


@dataclass(frozen=True, slots=True)
class Size:
    """How large a run is."""

    connections: int
    away: int
    rounds: int
    broadcasts: int
    stand_ins: int
    clients: int


@dataclass(slots=True)
class Results:
    """What was measured, as it comes."""

    rates: dict[tuple[str, int], list[float]] = field(default_factory=dict)
    errors: list[float] = field(default_factory=list)
    followed: Followed = field(default_factory=Followed)
    idle: list[Touched] = field(default_factory=list)
    offline: dict[str, list[Touched]] = field(default_factory=dict)
    """How many are away → what a broadcast brought beyond what comes anyway."""
    small: dict[str, Any] = field(default_factory=dict)
    full: dict[str, Any] = field(default_factory=dict)
    costs: dict[str, float] = field(default_factory=dict)
    """Of the owner, µs."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What is measured, and what measures it."""

    nats: Nats
    gateway: Gateway
    crowd: Crowd
    walk: BareWalk


class Bench:
    """A system with two rooms and its connections."""

    def __init__(self, size: Size, parts: Parts, say: Callable[[str], None]) -> None:
        self.found = Results()
        self._size = size
        self._say = say
        self._gateway = gateway = parts.gateway
        self._nats = nats = parts.nats
        self._crowd = parts.crowd
        self._walk = parts.walk
        self._owner = Owner(gateway, nats)
        self._redis = RedisCounts(gateway.system.redis)

    def run(self) -> None:
        """Everything, in its order; raises Failed."""
        self._say(f"{self._size.connections:,} connections…")
        self._crowd.join(self._size.connections, self._gateway.hello)
        self._gateway.until_known(len(self._crowd))
        self._throughput(qos=0)
        self._pace()
        self._offline()
        self._say("the same connections at QoS 1…")
        self._crowd.subscribe_again(subscribe(qos=1), qos=1)
        self._throughput(qos=1)
        if self._size.stand_ins:
            self._full_size()

    # --- a job beside the bare walk -----------------------------------------------------------------------------------

    def _throughput(self, *, qos: int) -> None:
        """Rounds of either, in shuffled order, after one of each that does not count."""
        self._say(f"{self._size.rounds} rounds of {self._size.broadcasts} broadcasts of either kind, QoS {qos}…")
        kinds = {"unlimited": self._job, "fanout": self._bare}
        frames = {name: self._once(send, qos)[1] for name, send in kinds.items()}
        if len(set(frames.values())) != 1:
            raise Failed(f"a job and the bare walk differ in the bytes that arrive: {frames}")
        for _ in range(self._size.rounds):
            for name in random.sample(list(kinds), 2):
                used = sum(self._once(kinds[name], qos)[0] for _ in range(self._size.broadcasts))
                self.found.rates.setdefault((name, qos), []).append(self._size.broadcasts * len(self._crowd) / used)

    def _once(self, send: Callable[[], None], qos: int) -> tuple[float, int]:
        """One broadcast, parked; returns the rooms' CPU-seconds and the bytes of its frame.

        At QoS 1 the acknowledgements are in the CPU: they are the rooms' work, too.
        """
        before = self._rooms_cpu()
        send()
        self._crowd.parked(look_every=LOOK_EVERY)
        if qos:
            until_quiet(self._gateway.pids)
            size = self._crowd.acknowledge()
        used = until_quiet(self._gateway.pids) - before
        if not qos:
            size = self._crowd.drain()
        self._walk.end()
        return used, size

    def _job(self) -> None:
        self._gateway.post(PAYLOAD)

    def _bare(self) -> None:
        persons = self._walk.walk(PAYLOAD)
        if persons != len(self._crowd):
            raise Failed(f"the bare walk wrote to {persons} of {len(self._crowd)} connections")

    def _rooms_cpu(self) -> float:
        return sum(cpu_seconds(pid) for pid in self._gateway.pids)

    # --- pace ---------------------------------------------------------------------------------------------------------

    def _pace(self) -> None:
        """One job that takes 20 s, read as it comes, with pings; beside it the forecast."""
        rate = len(self._crowd) // PACED_S
        self._say(f"{rate} persons a second for {PACED_S} s…")
        time.sleep(LOOK_S)  # the jobs before it are over
        campaign = Campaign(len(self._crowd), len(self._gateway.pids), rate, PAYLOAD, qos=0)

        def run() -> tuple[str, Followed]:
            job = self._gateway.post(PAYLOAD, rate=rate, ttl_s=PACED_S + MARGIN_S)
            sample = min(PINGED, len(self._crowd))
            return job, self._crowd.follow(sample=sample, ping_every=PING_EVERY, within=PACED_S + MARGIN_S)

        self.found.followed, self.found.small = paced(self._owner, self._owner.idle(), campaign, run)
        self.found.errors = window_errors(self.found.followed.arrivals, rate)
        time.sleep(MARGIN_S)  # it expires, and its place in the rooms is free

    # --- who is away --------------------------------------------------------------------------------------------------

    def _offline(self) -> None:
        """What Redis and Kafka do for a broadcast, without and with clients that are bound and away."""
        self._say(f"broadcasts without, then with {self._size.away:,} clients that are away…")
        self._look_at("0")
        with Crowd(*self._gateway.addresses) as away:
            first = len(self._crowd)
            away.join(self._size.away, lambda number: self._gateway.hello(first + number))
            self._gateway.until_known(first + len(away))
        self._gateway.until_known(first)
        time.sleep(LOOK_S)  # what their leaving takes is over
        self._look_at(str(self._size.away))

    def _look_at(self, label: str) -> None:
        for _ in range(LOOKS):
            idle, busy = self._touched(lambda: None), self._touched(self._read_one)
            if busy.records <= idle.records:
                raise Failed(f"Kafka took {busy.records} records with a broadcast and {idle.records} without: not counted well")
            self.found.idle.append(idle)
            self.found.offline.setdefault(label, []).append(busy - idle)

    def _read_one(self) -> None:
        self._job()
        self._crowd.parked()
        self._crowd.drain()

    def _touched(self, do: Callable[[], None]) -> Touched:
        begun, before = time.monotonic(), self._counts()
        do()
        time.sleep(max(0.0, begun + LOOK_S - time.monotonic()))
        return self._counts() - before

    def _counts(self) -> Touched:
        commands = self._redis.take()
        records = asyncio.run(kafka_records(KafkaSettings(bootstrap=self._gateway.system.kafka)))
        return Touched(commands["read"], commands["write"], records)

    # --- at full size -------------------------------------------------------------------------------------------------

    def _full_size(self) -> None:
        size = self._size
        self._say(f"an owner with {size.stand_ins} rooms that only answer, {size.clients:,} clients…")
        time.sleep(LOOK_S)
        campaign = Campaign(size.clients, size.stand_ins, 1_000_000, PAYLOAD)
        self.found.full = at_full_size(self._owner, self._gateway, self._nats, campaign)
        self.found.costs = owner_costs(self.found.small, self.found.full)


def window_errors(arrivals: list[float], rate: int) -> list[float]:
    """How far each window of `WINDOW_S` from the first arrival to the last is from its due, as a fraction of it."""
    due, last = rate * WINDOW_S, arrivals[-1]
    errors, low, high, start = [], 0, 0, arrivals[0]
    while start + WINDOW_S <= last:
        while arrivals[low] < start:
            low += 1
        while high < len(arrivals) and arrivals[high] < start + WINDOW_S:
            high += 1
        errors.append((high - low - due) / due)
        start += 0.05
    if not errors:
        raise Failed(f"a paced broadcast was over after {last - arrivals[0]:.1f} s")
    return errors


# --- what is shown -----------------------------------------------------------------------------------------------------


def document(size: Size, found: Results) -> dict[str, Any]:
    """What goes to `build/bench-broadcast.json`. Rates: deliveries per CPU-second of the rooms, medians of rounds."""
    medians = {pair: statistics.median(values) for pair, values in found.rates.items()}
    pings = sorted(found.followed.pings)
    arrivals = found.followed.arrivals
    return {
        "fanout_per_cpu_s": medians["fanout", 0],
        "unlimited_per_cpu_s": medians["unlimited", 0],
        "paced_max_error": max(abs(error) for error in found.errors),
        "ping_p99_ms": 1000 * pings[len(pings) * 99 // 100],
        "offline_reads": _each_away(size, found, lambda item: item.reads),
        "offline_writes": _each_away(size, found, lambda item: item.writes + item.records),
        "ratio": medians["unlimited", 0] / medians["fanout", 0],
        "fanout_qos1_per_cpu_s": medians["fanout", 1],
        "unlimited_qos1_per_cpu_s": medians["unlimited", 1],
        "ratio_qos1": medians["unlimited", 1] / medians["fanout", 1],
        "connections": size.connections,
        "payload": PAYLOAD,
        "rounds": {f"{name}_qos{qos}": values for (name, qos), values in found.rates.items()},
        "paced_seconds": arrivals[-1] - arrivals[0],
        "paced_errors": [min(found.errors), max(found.errors)],
        "paced_gap_s": found.followed.gap(),
        "client_stood_still_s": found.followed.stood_still,
        "ping_p50_ms": 1000 * pings[len(pings) // 2],
        "pings": len(pings),
        "offline": {label: [vars_of(item) for item in items] for label, items in found.offline.items()},
        "idle": [vars_of(item) for item in found.idle],
        "plan_small": found.small,
        "plan_full": found.full,
        "owner_costs": found.costs,
    }


def vars_of(item: Touched) -> dict[str, float]:
    """For the file."""
    return {"reads": item.reads, "writes": item.writes, "records": item.records}


def _each_away(size: Size, found: Results, part: Callable[[Touched], float]) -> float:
    """More with clients away than without, for each of them: medians, to a hundredth."""
    without, with_them = (statistics.median(part(item) for item in found.offline[label]) for label in ("0", str(size.away)))
    return round(max(0.0, with_them - without) / size.away, 2)


def table(size: Size, found: Results) -> Table:
    """The same for a person."""
    shown = Table(f"{size.connections:,} connections, two rooms", "measured", "aim", box=None)
    values = document(size, found)
    for qos, suffix in ((0, ""), (1, "_qos1")):
        for name, label in (("fanout", "bare walk"), ("unlimited", "a whole job")):
            shown.add_row(f"k deliveries / room CPU-s, QoS {qos}, {label}", _spread(found.rates[name, qos]), "")
        shown.add_row(f"ratio, QoS {qos}", f"{values['ratio' + suffix]:.2f}", "" if qos else "≥ 0.90")
    shown.add_row("worst 5 s of the pace", f"{values['paced_max_error']:.1%}", "≤ 5 %")
    still = values["client_stood_still_s"]
    shown.add_row("longest gap in it, client stood still, s", f"{values['paced_gap_s']:.2f} / {still:.2f}", "")
    shown.add_row("ping p50 / p99 meanwhile, ms", f"{values['ping_p50_ms']:.1f} / {values['ping_p99_ms']:.1f}", "p99 < 50")
    shown.add_row(
        "Redis reads / writes and records, an offline client", f"{values['offline_reads']} / {values['offline_writes']}", "0 / 0"
    )
    return shown


def _spread(values: list[float]) -> str:
    return " / ".join(f"{pick(values) / 1000:.0f}" for pick in (min, statistics.median, max))


def forecasts(found: Results) -> Table:
    """The forecast beside what was."""
    shown = Table("pushctl plan broadcast", "forecast", "measured", box=None)
    for title, part in (("two rooms", found.small), ("full size", found.full)):
        for name, value in part.items():
            if isinstance(value, list):
                shown.add_row(f"{title}: {name}", *(f"{number:,.3f}" if number < 10 else f"{number:,.0f}" for number in value))
    for name, value in found.costs.items():
        shown.add_row(f"owner: {name}", f"{getattr(COSTS, name):,.1f}", f"{value:,.1f}")
    for qos, per_us in enumerate(COSTS.delivery_us):
        shown.add_row(
            f"rooms: delivery_us, QoS {qos}", f"{per_us:.1f}", f"{1e6 / statistics.median(found.rates['unlimited', qos]):.1f}"
        )
    return shown


# --- the run -----------------------------------------------------------------------------------------------------------


def measure(size: Size, console: Console) -> None:
    """Start everything, measure, print, write `FILE`, stop. Raises Failed, OSError."""
    limit = raise_descriptor_limit()
    if limit < size.connections + size.away + 500:
        raise Failed(f"{limit} files may be open at once, {size.connections + size.away + 500} are needed: ulimit -Hn")
    core, others = cores()
    pin(os.getpid(), others)
    begun = time.monotonic()

    def say(line: str) -> None:
        console.print(f"[dim]{line}[/dim]")

    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="longwire-bench-")))
        nats = Nats(folder / "nats")
        stack.callback(nats.stop)
        gateway = Gateway(folder / "system", core, rooms=2, env={"LONGWIRE_NATS__URL": nats.url}, documents=DOCUMENTS)
        stack.callback(gateway.stop)
        crowd = stack.enter_context(Crowd(*gateway.addresses))
        walk = stack.enter_context(BareWalk(nats.url, [room.id for room in gateway.system.rooms], PRODUCT.name))
        bench = Bench(size, Parts(nats, gateway, crowd, walk), say)
        bench.run()
        console.print(table(size, bench.found))
        console.print(forecasts(bench.found))
        save(FILE, document(size, bench.found))
    say(f"{FILE} written; {time.monotonic() - begun:.0f} s in all")


@click.command()
@click.option("--connections", default=10_000, show_default=True)
@click.option("--away", default=2_000, show_default=True)
@click.option("--rounds", default=6, show_default=True)
@click.option("--broadcasts", default=5, show_default=True, help="In each round.")
@click.option("--stand-ins", default=400, show_default=True, help="Rooms that only answer; 0: leave that part out.")
@click.option("--clients", default=300_000_000, show_default=True, help="In all of these.")
def main(**fields: int) -> None:
    """Measure whole broadcasts on this machine."""
    console = Console(highlight=False)
    if not sys.platform.startswith("linux"):
        console.print("the benchmark needs Linux: epoll and /proc")
        sys.exit(1)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the servers are taken down either way
    try:
        measure(Size(**fields), console)
    except KeyboardInterrupt:
        sys.exit(130)
    except (Failed, OSError) as error:
        console.print(f"[red]the benchmark failed:[/red] {error}")
        sys.exit(1)


if __name__ == "__main__":
    main()
