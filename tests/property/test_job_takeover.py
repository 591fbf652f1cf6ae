"""Owners that come and go: whatever a job's owners do to each other, every eligible client gets it once, and none while paused.

Real runs over real fan-outs in memory: answers get lost, an owner is replaced while it still believes that it owns the job
(a zombie), commands come again under the next owner, and each new owner begins from what `push.jobs` has.
"""

from __future__ import annotations

import asyncio
import random
import time

from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.broadcasts import Broadcast, JobRecord, Transition
from schemas.jobs import TRANSITIONS, Action, JobState
from tests.unit.broadcast_world import Cluster, MemoryRoom, until
from workers.broadcast import life as joblife
from workers.broadcast.job import Claim, Shared
from workers.broadcast.pace import Pace, Pressure
from workers.broadcast.run import JobRun

STEPS = st.lists(st.sampled_from(["takeover", "zombie", "pause", "resume", "rate", "again", "wait"]), min_size=2, max_size=7)
RATE = 600


class Owners:
    """The job's owners one after the other; `term` grows as claims do."""

    def __init__(self, seed: int) -> None:
        self.cluster = Cluster(MemoryRoom("a", 1, 150, prefix="a"), MemoryRoom("b", 1, 90, prefix="b"))
        rng = random.Random(seed)
        self.cluster.bus.lose = lambda subject: rng.random() < 0.15
        self.content = Broadcast(id="j1", product="news", payload=b"x", rate=RATE)
        self.term = 10
        self.offset = 0
        self.said: list[Transition] = []
        self.tasks: list[asyncio.Task[None]] = []
        product = self.cluster.keeper.products["news"]
        self._first = joblife.first(self.content, product, source=(1, 0), accepted_ms=int(time.time() * 1000))
        self.run = self._claim(self._first)

    def _claim(self, record: JobRecord) -> JobRun:
        self.term += 1
        shared = Shared(Pace(RATE, time.monotonic()), asyncio.Semaphore(64), Pressure())
        claim = Claim(record, self.term, self.content, frozenset())
        run = JobRun(claim, self.cluster.tools(), shared, wall_ms=int(time.time() * 1000), now=time.monotonic())
        self.tasks.append(asyncio.ensure_future(run.run()))
        return run

    async def step(self, what: str) -> None:
        if what in ("takeover", "zombie"):
            if what == "takeover":
                self.tasks[-1].cancel()
                await asyncio.gather(self.tasks[-1], return_exceptions=True)
            kept = self.cluster.journal.jobs().get("j1")
            self.run = self._claim(kept.record if kept is not None else self._first)
        elif what == "again":  # the former owner had not committed its last command
            if self.said:
                await self.run.obey(self.said[-1], self.offset)
        elif what in ("pause", "resume", "rate"):
            await self._say(Action(what))
        await asyncio.sleep(0.1)

    async def _say(self, action: Action) -> None:
        if (JobState(self.run.record.state), action) not in TRANSITIONS:
            return
        self.offset += 1
        self.said.append(Transition(job="j1", product="news", action=action, rate=RATE if action is Action.RATE else None))
        await self.run.obey(self.said[-1], self.offset)

    def got(self) -> dict[str, int]:
        return {key: count for room in self.cluster.bus.rooms.values() for key, count in room.got.items()}

    async def end(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


@given(seed=st.integers(0, 1_000), steps=STEPS)
@settings(max_examples=12, deadline=None)
def test_given_owners_that_come_and_go_when_the_job_runs_then_everyone_has_it_once_and_a_pause_holds(
    seed: int, steps: list[str]
) -> None:
    async def scenario() -> None:
        owners = Owners(seed)
        try:
            for step in steps:
                await owners.step(step)
                assert set(owners.got().values()) <= {1}
            if owners.run.record.state == JobState.PAUSED:
                await asyncio.sleep(1.2)  # what a zombie had ordered is through: rooms refuse it once the owner has spoken
                before = len(owners.got())
                await asyncio.sleep(0.4)
                assert len(owners.got()) == before
                await owners._say(Action.RESUME)
            await until(lambda: len(owners.got()) == 240, seconds=20)
            assert set(owners.got().values()) == {1}
        finally:
            await owners.end()

    asyncio.run(scenario())
