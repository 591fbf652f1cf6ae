"""What a fault is: `begin` does it, `end` heals it, `holds` says what else must be true; the row runs traffic all the while."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.chaos.traffic import Traffic
from tests.chaos.world import World


class Fault:
    """One row of the table.

    `held`: s between `begin` and `end`; `target`: s until all is settled after it, None for no target; `watched`: s after it for
    which all must stay well, at least; `reorders`: the order may break once; `replays`: how often each client may get a window
    again without a reconnect; `began`: the monotonic time of `begin`.
    """

    name: str
    held: float = 5.0
    target: float | None = None
    watched: float = 0.0
    reorders: bool = False
    replays: int = 0
    began: float = 0.0

    async def prepare(self, world: World) -> None:
        """Before the row's first broadcast."""

    async def begin(self, world: World) -> None:
        """Make it bad."""

    async def hold(self, world: World, traffic: Traffic) -> None:
        """Leave it bad."""
        await asyncio.sleep(self.held)

    async def end(self, world: World) -> None:
        """Make it good."""

    async def holds(self, world: World, traffic: Traffic) -> list[str]:
        """What is wrong beside the ledger, once all has settled."""
        return []

    def figures(self) -> dict[str, Any]:
        """What only this fault can tell, for build/chaos.json."""
        return {}


class NobodyLeaves(Fault):
    """A fault behind the rooms: no device may lose its connection, and no process of ours may end."""

    async def prepare(self, world: World) -> None:
        """Remember who is connected."""
        self._connections = world.fleet.connections()
        self._restarts = world.restarts()

    async def holds(self, world: World, traffic: Traffic) -> list[str]:
        """Count who came back, and what was started again."""
        now = world.fleet.connections()
        back = sum(now[client] > count for client, count in self._connections.items())
        restarted = world.restarts() - self._restarts
        problems = [f"{back} devices had to connect again"] if back else []
        return [*problems, f"{restarted} processes ended on their own"] if restarted else problems
