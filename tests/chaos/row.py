"""One row: traffic, a fault in the midst of it, the way back, and the ledger."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.chaos.checker import BROADCAST, Checker, Verdict
from tests.chaos.faults import Fault
from tests.chaos.fleet import WINDOW
from tests.chaos.history import History
from tests.chaos.records import Records, note_pending
from tests.chaos.traffic import Traffic
from tests.chaos.world import World

PATIENCE: Final = 150.0
"""Seconds for which a row waits for what is still out; then it counts as it is."""
JOBS: Final = 2
ENOUGH: Final = 500
"""A row with less says nothing."""


@dataclass(slots=True)
class Row:
    """A row's result."""

    fault: str
    seed: int
    verdict: Verdict
    recovery_s: float | None
    back_s: float
    target_s: float | None
    problems: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Did everything hold that the table asks for?"""
        return not self.problems

    def document(self) -> dict[str, Any]:
        """For build/chaos.json."""
        verdict = self.verdict
        return {
            "fault": self.fault,
            "seed": self.seed,
            "accepted": verdict.accepted,
            "lost": len(verdict.lost),
            "duplicates": verdict.duplicates,
            "duplicate_bound": verdict.duplicate_bound,
            "misdelivered": len(verdict.misdelivered),
            "recovery_s": self.recovery_s,
            "target_s": self.target_s,
            "back_s": self.back_s,
            "disordered": len(verdict.disordered),
            "uplinks": verdict.uplinks,
            "uplinks_lost": len(verdict.uplinks_lost),
            "uplinks_twice": len(verdict.uplinks_twice),
            "unknown": verdict.unknown,
            "states": dict(verdict.states),
            "problems": self.problems,
        }


async def run_row(world: World, fault: Fault, *, seed: int, folder: Path, progress: Callable[[str], None]) -> Row:
    """Run one fault; the world is as good as new afterwards, or the row says what is not."""
    history = History(folder / f"{fault.name}.jsonl")
    fleet, scale = world.fleet, world.scale
    records = Records(world.settings.kafka.bootstrap, world.settings.kafka.partitions, history)
    traffic = Traffic(world.system, world.settings.kafka, fleet, history, seed=seed, away=world.away, per_second=scale.per_second)
    fleet.begin_row(history)
    await records.start()
    await traffic.start()
    try:
        await asyncio.sleep(scale.before)
        traffic.broadcast(scale.rate)
        await asyncio.sleep(1.5)
        progress(f"{fault.name}: begins")
        await fault.begin(world)
        await asyncio.sleep(fault.held)
        await fault.end(world)
        healed = time.monotonic()
        progress(f"{fault.name}: healed after {fault.held:.0f} s")
        waiting = asyncio.create_task(_recovered(world, history, records, healed))
        back = asyncio.create_task(_back(world, healed))
        await asyncio.sleep(scale.after)
        traffic.broadcast(scale.rate)
        await asyncio.sleep(scale.after)
        await traffic.quiet()
        recovery, back_s = await waiting, await back
        progress(f"{fault.name}: settled after {recovery if recovery is not None else 'never'} s; who was away comes back")
        await fleet.join(world.away)
        await _quiet(world, history, records)
        fleet.end_row(per_connection=WINDOW + JOBS, for_all=fault.replays * WINDOW)
        wrong = await fault.holds(world, traffic)
        await records.committed()
        await _note_pending(world, history, records)
    finally:
        await traffic.quiet()
        await traffic.stop()
        await records.stop()
        fleet.history = None
        await fleet.leave([client for client in world.away if client in fleet.devices])
        history.close()
    return _judge(fault, seed, Checker(history.events).verdict(), (recovery, back_s), wrong)


def _judge(fault: Fault, seed: int, verdict: Verdict, times: tuple[float | None, float], wrong: list[str]) -> Row:
    problems, (recovery, back_s) = list(wrong), times
    if not verdict.ok or (verdict.disordered and not fault.reorders):
        problems += verdict.problems()
    if recovery is None:
        problems.append(f"not settled within {PATIENCE:.0f} s")
    elif fault.target is not None and recovery > fault.target:
        problems.append(f"settled after {recovery} s, the target is {fault.target:.0f} s")
    if verdict.accepted <= ENOUGH:
        problems.append(f"only {verdict.accepted} were accepted")
    return Row(fault.name, seed, verdict, recovery, back_s, fault.target, problems)


# --- waiting -----------------------------------------------------------------------------------------------------------


def _open(world: World, history: History, records: Records, until: float) -> int:
    """How many (token, client) accepted before `until` (monotonic) are not settled, of clients in the fleet."""
    offers = {event["token"]: event for event in history.events if event["e"] == "offer"}
    count = 0
    for event in history.events:
        if event["e"] != "accepted" or event["t"] > until:
            continue
        offer = offers[event["token"]]
        for client in offer["clients"]:
            device = world.fleet.devices.get(client)
            if device is None:
                continue
            arrived = event["token"] in device.got
            settled = arrived if offer["kind"] == BROADCAST else (event["id"], client) in records.settled
            count += not settled
    return count


async def _recovered(world: World, history: History, records: Records, healed: float) -> float | None:
    """Seconds from the heal until everything accepted before it is settled for clients that are online; None: never."""
    while time.monotonic() - healed < PATIENCE:
        if not _open(world, history, records, healed) and world.fleet.connected() == len(world.fleet.devices):
            return round(time.monotonic() - healed, 1)
        await asyncio.sleep(0.25)
    return None


async def _back(world: World, healed: float) -> float:
    await world.all_connected(PATIENCE)
    return round(time.monotonic() - healed, 1)


async def _quiet(world: World, history: History, records: Records) -> None:
    """Wait until everything that was ever accepted is settled."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if not _open(world, history, records, deadline):
            await asyncio.sleep(0.5)  # late repeats
            return
        await asyncio.sleep(0.25)


async def _note_pending(world: World, history: History, records: Records) -> None:
    clients = {
        client
        for event in history.events
        if event["e"] == "offer" and event["kind"] != BROADCAST
        for client in event["clients"]
        if (event["token"], client) not in records.settled
    }
    await note_pending(world.settings.redis.url, clients, history)
