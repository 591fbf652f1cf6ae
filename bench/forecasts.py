"""`pushctl plan broadcast` held against real owners: two rooms with real connections, and hundreds that only answer."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Final, TypeVar

import msgspec

from bench.counters import Nats, metric
from bench.load import Failed
from bench.process import cpu_seconds
from bench.servers import Gateway
from infra import wire
from infra.settings import KafkaSettings
from schemas import codec
from schemas.broadcasts import JobRecord
from workers.broadcast.cursor import cursor
from workers.broadcast.fold import read_jobs
from workers.broadcast.pace import Pace
from workers.broadcast.pacing import JobPlan, RoomPlan
from workers.broadcast.plansim import Campaign, Forecast, Simulation

T = TypeVar("T")
SLICES: Final = "longwire_broadcast_slices_total"
IDLE_S: Final = 20.0
"""For so long it is looked at what happens anyway: as long as the paced run, so that what comes at intervals is in both alike."""
CROWD: Final = "crowd"
CROWD_TTL_S: Final = 60
STEADY_AFTER_S: Final = 5.0
STEADY_S: Final = 20.0
LOOKS: Final = 200
REPLY_S: Final = 0.2
"""After a broadcast's last arrival, until the owner has the reply."""
CURSOR_S: Final = 1.5
"""Until its cursor is in Kafka."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What the owner did and used, by its own counters, nats-server's and Linux's."""

    at: float
    slices: float
    messages: float
    cpu_s: float

    def since(self, before: Seen, idle: Seen) -> Seen:
        """What came since, less what would have come anyway; `idle` is a second of that."""
        seconds = self.at - before.at
        return Seen(
            seconds,
            self.slices - before.slices,
            self.messages - before.messages - seconds * idle.messages,
            self.cpu_s - before.cpu_s - seconds * idle.cpu_s,
        )


class Owner:
    """The broadcast worker of a running system."""

    def __init__(self, gateway: Gateway, nats: Nats) -> None:
        self._gateway = gateway
        self._nats = nats
        self._report = gateway.report("broadcast")

    def look(self) -> Seen:
        """Its counters now."""
        slices = metric(self._report, SLICES, status="ok")
        return Seen(time.monotonic(), slices, self._nats.messages(), cpu_seconds(int(self._report["pid"])))

    def idle(self) -> Seen:
        """What a second brings while no broadcast runs."""
        before = self.look()
        time.sleep(IDLE_S)
        found = self.look().since(before, Seen(0, 0, 0, 0))
        return Seen(1.0, found.slices / found.at, found.messages / found.at, found.cpu_s / found.at)

    def cursors(self, job: str) -> list[int]:
        """Bytes of each cursor of a job that `push.jobs` has, in their order."""
        kafka = KafkaSettings(bootstrap=self._gateway.system.kafka)
        reads = asyncio.run(read_jobs(kafka, range(kafka.partitions)))
        own = [item for item in reads if (item.key or b"").decode().startswith(f"{job}/") and b"/new-" not in (item.key or b"")]
        return [len(item.value) for item in sorted(own, key=lambda item: item.offset) if item.value is not None]


def paced(owner: Owner, idle: Seen, campaign: Campaign, run: Callable[[], tuple[str, T]]) -> tuple[T, dict[str, Any]]:
    """Run a broadcast of real connections; returns what `run` gave beside the job's id, and the forecast beside what was."""
    before = owner.look()
    job, result = run()
    time.sleep(REPLY_S)
    seen = owner.look().since(before, idle)
    time.sleep(CURSOR_S)
    sizes = owner.cursors(job)
    forecast = Simulation(campaign).run()
    # Beside slices, announces and cursors: center's own entry of the accepted job.
    messages = forecast.nats_messages + forecast.cursors + 1
    return result, {
        "campaign": asdict(campaign),
        "seconds": [forecast.seconds, seen.at],
        "slices": [forecast.slices, seen.slices],
        "nats_messages": [messages, seen.messages],
        "cursor_bytes": [forecast.cursor_bytes, max(sizes, default=0)],
        "owner_cpu_s": [forecast.owner_cores * forecast.seconds, seen.cpu_s],
        "counted": _counted(forecast, seen, 1.0),
    }


# --- at full size ------------------------------------------------------------------------------------------------------


class StandIns:
    """`bench.standins` as a process. Use as a context manager."""

    def __init__(self, url: str, campaign: Campaign) -> None:
        command = [sys.executable, "-m", "bench.standins", url, str(campaign.rooms), str(campaign.clients), CROWD]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        if not self._process.stdout.readline():
            raise Failed("the rooms that stand in for others ended")

    def __enter__(self) -> StandIns:
        return self

    def __exit__(self, *exc: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def at_full_size(owner: Owner, gateway: Gateway, nats: Nats, campaign: Campaign) -> dict[str, Any]:
    """An owner with many rooms that only answer, for some seconds in the middle; a second's figures beside the forecast's."""
    with StandIns(nats.url, campaign):
        gateway.until_known(campaign.clients, product=CROWD)
        idle = owner.idle()
        job = gateway.post(campaign.payload, product=CROWD, ttl_s=CROWD_TTL_S)
        time.sleep(STEADY_AFTER_S)
        before = owner.look()
        time.sleep(STEADY_S)
        seen = owner.look().since(before, idle)
        sizes = owner.cursors(job)
    began = time.process_time()
    forecast = Simulation(campaign).run()
    took = time.process_time() - began
    return {
        "campaign": asdict(campaign),
        "slices_per_s": [forecast.slices_per_s, seen.slices / seen.at],
        "nats_messages_per_s": [_messages_per_s(forecast), seen.messages / seen.at],
        "cursor_bytes": [forecast.cursor_bytes, max(sizes, default=0)],
        "owner_cores": [forecast.owner_cores, seen.cpu_s / seen.at],
        "simulated_cpu_s": took,
        "counted": _counted(forecast, seen, seen.at / forecast.seconds),
    }


def _messages_per_s(forecast: Forecast) -> float:
    """In the middle of a broadcast: no announces, but cursors."""
    return 2 * forecast.slices_per_s + forecast.cursors / forecast.seconds


def _counted(forecast: Forecast, seen: Seen, part: float) -> dict[str, float]:
    """What the owner's CPU was spent on: slices as counted; looks and cursors are that part of the forecast's."""
    return {"cpu_s": seen.cpu_s, "slices": seen.slices, "looks": part * forecast.looks, "cursors": part * forecast.cursors}


def owner_costs(small: dict[str, Any], full: dict[str, Any]) -> dict[str, float]:
    """The parts of the owner's CPU, µs (`workers.broadcast.plansim.Costs`), from two runs that differ in size.

    A look at a room and a room of a cursor are timed apart; slices and saves share the rest, and two runs tell them apart.
    """
    campaign = Campaign(**full["campaign"])
    look_us, cursor_us = _look_us(campaign), _cursor_us(campaign)
    equations = []
    for found in (small, full):
        counted, rooms = found["counted"], found["campaign"]["rooms"]
        rest_us = 1e6 * counted["cpu_s"] - counted["looks"] * look_us - counted["cursors"] * rooms * cursor_us
        equations.append((counted["slices"], counted["cursors"], rest_us))
    (slices, cursors, rest), (more_slices, more_cursors, more_rest) = equations
    scale = slices * more_cursors - more_slices * cursors
    return {
        "slice_us": (rest * more_cursors - more_rest * cursors) / scale,
        "save_us": (slices * more_rest - more_slices * rest) / scale,
        "look_us": look_us,
        "cursor_us": cursor_us,
    }


def _plan(campaign: Campaign) -> tuple[JobPlan, Pace]:
    """A job in the middle: each room has its order, and a reply behind it."""
    plan, pace = JobPlan("job"), Pace(campaign.rate, 0.0)
    pace.ask("job", campaign.rate, 0.0)
    for number in range(campaign.rooms):
        item = RoomPlan(f"room-{number:04}", 1, slot=0, bound=campaign.clients // campaign.rooms, start=0, next_at=0.0)
        plan.rooms[item.key] = item
    for order in plan.due(pace, 0.0):
        plan.confirmed(order, wire.SliceReply("ok", order.seq, order.lo + 1, 1, wire.Counts(sent=1)), pace)
    plan.due(pace, 1.1)
    return plan, pace


def _look_us(campaign: Campaign) -> float:
    """One turn of the owner's loop over its rooms, a room, where one of them is due and gets nothing."""
    plan, pace = _plan(campaign)
    live = {item.key: item.bound for item in plan.rooms.values()}
    idle = next(iter(plan.rooms.values()))
    began = time.process_time()
    for _ in range(LOOKS):
        idle.order, idle.next_at = None, 0.0
        plan.see(live, 1.2)
        plan.busy()
        plan.due(pace, 1.2)
        plan.walked(1.2)
        plan.next_at(1.2)
    return 1e6 * (time.process_time() - began) / LOOKS / campaign.rooms


def _cursor_us(campaign: Campaign) -> float:
    """A cursor and its view, encoded, a room."""
    plan, _ = _plan(campaign)
    began = time.process_time()
    for _ in range(LOOKS // 10):
        rooms = tuple(cursor(item) for item in plan.rooms.values())
        codec.encode(
            JobRecord(
                job="job", product=CROWD, state="running", number_partition=0, number_offset=0, source_partition=0,
                source_offset=0, rate=1, started_ms=0, expires_ms=0, rooms=rooms,
            )
        )  # fmt: skip
        msgspec.json.encode([wire.JobRoom(item.room, item.epoch, item.slot, item.counts) for item in rooms])
    return 1e6 * (time.process_time() - began) / (LOOKS // 10) / campaign.rooms
