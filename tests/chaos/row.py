"""One row: traffic, a fault in the midst of it, the way back, and the ledger."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from schemas.codes import State
from tests.chaos.checker import PENDING, QUEUED, Checker, Verdict
from tests.chaos.fault import Fault
from tests.chaos.fleet import WINDOW
from tests.chaos.history import History
from tests.chaos.records import Index, Records
from tests.chaos.traffic import Traffic
from tests.chaos.waiting import Ledger, latencies, percentile
from tests.chaos.world import SYNC_INTERVAL, World

PATIENCE: Final = 150.0
"""Seconds for which a row waits for what is still out; then it counts as it is."""
JOBS: Final = 2
ENOUGH: Final = 500
"""A row with less says nothing."""
LATE: Final = 2.0
"""Seconds in which what comes twice would come."""


@dataclass(slots=True)
class Row:
    """A row's result. `more`: what only this fault can tell."""

    fault: str
    seed: int
    seconds: float
    verdict: Verdict
    recovery_s: float | None
    back_s: float
    target_s: float | None
    more: dict[str, Any]
    problems: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Did everything hold that the table asks for?"""
        return not self.problems

    def document(self) -> dict[str, Any]:
        """For build/chaos.json. `back_s`: from the heal to the last device's return; `seconds`: of the whole row."""
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
            "seconds": self.seconds,
            "disordered": len(verdict.disordered),
            "uplinks": verdict.uplinks,
            "uplinks_lost": len(verdict.uplinks_lost),
            "uplinks_twice": len(verdict.uplinks_twice),
            "unknown": verdict.unknown,
            "states": dict(verdict.states),
            **self.more,
            "problems": self.problems,
        }


class Run:
    """One row as it runs."""

    def __init__(self, world: World, fault: Fault, *, seed: int, folder: Path, progress: Callable[[str], None]) -> None:
        self._world = world
        self._fault = fault
        self._seed = seed
        self._say = progress
        self._history = History(folder / f"{fault.name}.jsonl")
        self._index = Index(world.settings.redis.url)
        self._records = Records(world.settings.kafka.bootstrap, world.settings.kafka.partitions, self._history)
        self._traffic = Traffic(
            world.behind_proxy,
            world.settings.kafka,
            world.fleet,
            self._history,
            seed=seed,
            away=world.away,
            users=world.users,
            per_second=world.scale.per_second,
        )
        self._online = sorted(world.fleet.devices)
        self._open = Ledger(world.fleet, self._history, self._records)

    async def run(self) -> Row:
        """The whole of it; the world is as good as new afterwards, or the row says what is not."""
        world, fault = self._world, self._fault
        began = time.monotonic()
        world.fleet.begin_row(self._history)
        for client, (generation, session) in (await self._index.sessions(world.fleet.devices)).items():
            self._history.note("session", client=client, generation=generation, session=session)
        await self._records.start()
        await self._traffic.start()
        try:
            recovery, back_s = await self._through(began)
            self._say(f"{fault.name}: settled after {'never' if recovery is None else f'{recovery} s'}; who was away comes back")
            await world.fleet.join(world.away)
            await self._open.quiet(PATIENCE)
            problems = [*await fault.holds(world, self._traffic), *await self._register_problems()]
            problems += [*await world.down(), *world.fleet.finals()]
            await asyncio.sleep(LATE)
            world.fleet.end_row(per_connection=WINDOW + JOBS, for_all=fault.replays * WINDOW)
            await self._records.committed()
            await self._note_pending()
        finally:
            await self._traffic.quiet()
            await self._traffic.stop()
            await self._records.stop()
            await self._index.stop()
            world.fleet.history = None
            await world.fleet.leave([client for client in world.away if client in world.fleet.devices])
            self._history.close()
        more = {"p99_ms": percentile(latencies(self._history, self._online), 0.99), **fault.figures()}
        verdict = Checker(self._history.events).verdict()
        seconds = round(time.monotonic() - began, 1)
        row = Row(fault.name, self._seed, seconds, verdict, recovery, back_s, fault.target, more, problems)
        row.problems += _judge(row, reorders=fault.reorders)
        return row

    async def _through(self, began: float) -> tuple[float | None, float]:
        """Traffic before, while and after the fault; returns `recovery_s` and `back_s`."""
        world, fault, scale = self._world, self._fault, self._world.scale
        await fault.prepare(world)
        await asyncio.sleep(scale.before)
        self._traffic.broadcast(scale.rate)
        await asyncio.sleep(1.5)
        self._say(f"{fault.name}: begins")
        fault.began = time.monotonic()
        await fault.begin(world)
        await fault.hold(world, self._traffic)
        await fault.end(world)
        healed = time.monotonic()
        self._say(f"{fault.name}: healed after {healed - fault.began:.0f} s")
        watch_until = max(began + scale.total, healed + max(scale.after, fault.watched))
        waiting = asyncio.create_task(self._open.recovered(healed, watch_until, PATIENCE))
        await asyncio.sleep(scale.after / 2)
        self._traffic.broadcast(scale.rate)
        await asyncio.sleep(max(scale.after / 2, watch_until - time.monotonic()))
        await self._traffic.quiet()
        recovery = await waiting
        returned = [at - healed for at, client in world.fleet.returns if client not in world.away]
        return recovery, round(max([0.0, *returned]), 1)

    async def _note_pending(self) -> None:
        clients = {client for event in self._history.events if event["e"] == "offer" for client in event["clients"]}
        for product, message, client in await self._index.pending(sorted(clients)):
            self._history.note("pending", product=product, id=message, client=client)

    async def _register_problems(self) -> list[str]:
        """Every device's session is where the device is, every user has its clients, and nothing is pending that Kafka has a
        receipt of (what is neither pending nor settled the ledger calls lost): at the latest a sync interval later."""
        deadline = time.monotonic() + 1.5 * SYNC_INTERVAL
        while True:
            rooms = await self._index.rooms(self._world.fleet.devices)
            elsewhere = [
                f"{client} is in {self._world.room_of(device)}, the register says {rooms[client] or 'nowhere'}"
                for client, device in self._world.fleet.devices.items()
                if device.push.connected and rooms[client] != self._world.room_of(device)
            ]
            users = await self._index.users(self._world.users)
            wrong = [user for user, clients in self._world.users.items() if users[user] != set(clients)]
            pending = await self._index.pending(self._world.fleet.devices)
            again = [key for key in pending if key in self._records.settled]
            if not (elsewhere or wrong or again) or time.monotonic() > deadline:
                break
            await asyncio.sleep(0.5)
        problems = [f"{len(elsewhere)} sessions are wrong, as {elsewhere[0]}"] if elsewhere else []
        problems += [f"{len(again)} messages are pending that have their receipts, as {again[0]}"] if again else []
        return [*problems, f"users without their clients: {', '.join(wrong[:5])}"] if wrong else problems


async def run_row(world: World, fault: Fault, *, seed: int, folder: Path, progress: Callable[[str], None]) -> Row:
    """Run one fault in a world."""
    return await Run(world, fault, seed=seed, folder=folder, progress=progress).run()


def _judge(row: Row, *, reorders: bool) -> list[str]:
    verdict, problems = row.verdict, []
    if not verdict.ok or (verdict.disordered and not reorders):
        problems += verdict.problems()
    if row.recovery_s is None:
        problems.append(f"not settled within {PATIENCE:.0f} s")
    elif row.target_s is not None and row.recovery_s > row.target_s:
        problems.append(f"settled after {row.recovery_s} s, the target is {row.target_s:.0f} s")
    if left := {state: verdict.states[state] for state in (PENDING, QUEUED) if verdict.states[state]}:
        problems.append(f"at the end, with everybody online, there is still {left}")
    if none := [state for state in (State.WRITTEN, State.REJECTED) if not verdict.states[state]]:
        problems.append(f"no message was {' or '.join(none)}: the row shows less than it should")
    if verdict.accepted <= ENOUGH:
        problems.append(f"only {verdict.accepted} were accepted")
    return problems
