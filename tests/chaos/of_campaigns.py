"""Faults while a broadcast is paused: it stays paused, writes to nobody, and goes on where it was when it is resumed."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

from infra.ops.http import Answered, CenterClient, NotFound, Unreachable
from tests.chaos.fault import Fault
from tests.chaos.of_brokers import KvWiped
from tests.chaos.of_processes import SESSION_TIMEOUT, WorkerSigkill
from tests.chaos.traffic import Traffic
from tests.chaos.world import World

EFFECTIVE: Final = 1.0
"""Seconds until a pause holds everywhere."""
ANSWERS: Final = 30.0
"""Seconds for center to know the job again, and to take what is asked of it."""
ASK_AGAIN: Final = 0.5


class WhilePaused(Fault):
    """Pauses the row's first broadcast before another fault begins, and resumes it once that is healed."""

    def __init__(self, name: str, fault: Fault, *, held: float) -> None:
        self.name = name
        self.held = held
        self.target = fault.target
        self._fault = fault
        self._job = ""
        self._counts: list[int] = []
        self._states: list[str] = []

    async def prepare(self, world: World) -> None:
        """Of the other fault."""
        await self._fault.prepare(world)

    async def hold(self, world: World, traffic: Traffic) -> None:
        """Pause, let the other fault come, look whether anybody is written to, let it go, resume."""
        self._job = traffic.jobs[-1]
        await self._until_taken(world, "pause")
        await self._until_in(world, "paused")
        await asyncio.sleep(EFFECTIVE)
        self._look(world)
        self._fault.began = time.monotonic()
        await self._fault.begin(world)
        await asyncio.sleep(self.held)
        await self._fault.end(world)
        await self._until_in(world, "paused")
        await asyncio.sleep(EFFECTIVE)
        self._look(world)
        await self._until_taken(world, "resume")

    async def holds(self, world: World, traffic: Traffic) -> list[str]:
        """It was paused midway, nobody was written to meanwhile, and it reached everybody who is online."""
        problems = await self._fault.holds(world, traffic)
        before, after = self._counts
        if not 0 < before < len(world.fleet.devices):
            problems.append(f"{before} of {len(world.fleet.devices)} devices had the job when it was paused: it shows nothing")
        if after != before:
            problems.append(f"{after - before} devices got the job while it was paused")
        missing = sum(self._job not in device.got for device in world.fleet.devices.values())
        return [*problems, f"{missing} devices never got the job"] if missing else problems

    def figures(self) -> dict[str, Any]:
        """How many had it when it was paused."""
        return {**self._fault.figures(), "written_when_paused": self._counts[0]}

    def _look(self, world: World) -> None:
        self._counts.append(sum(self._job in device.got for device in world.fleet.devices.values()))

    async def _until_taken(self, world: World, action: str) -> None:
        """Ask center until it takes an action; raises TimeoutError."""
        async with asyncio.timeout(ANSWERS), CenterClient(world.system) as center:
            while True:
                try:
                    await center.post(f"/v1/broadcasts/{self._job}/{action}", {"by": "chaos"})
                except (Answered, NotFound, Unreachable):
                    await asyncio.sleep(ASK_AGAIN)
                else:
                    return

    async def _until_in(self, world: World, state: str) -> None:
        """Ask center until the job is in a state; raises TimeoutError."""
        async with asyncio.timeout(ANSWERS), CenterClient(world.system) as center:
            while True:
                try:
                    if (await center.get(f"/v1/broadcasts/{self._job}"))["state"] == state:
                        return
                except (Answered, NotFound, Unreachable):
                    pass
                await asyncio.sleep(ASK_AGAIN)


def paused_faults() -> list[Fault]:
    """The rows."""
    return [
        WhilePaused("paused-job-kv-wiped", KvWiped(), held=KvWiped.held),
        WhilePaused("paused-job-owner-sigkill", WorkerSigkill("broadcast"), held=SESSION_TIMEOUT + 2),
    ]
