"""Faults of our own processes: killed, stopped for a while, drained, with another clock."""

from __future__ import annotations

import asyncio
import signal
from bisect import bisect_left
from typing import Any, Final

from infra.documents import Policy
from tests.chaos.fault import Fault, NobodyLeaves
from tests.chaos.traffic import HOUR, Traffic
from tests.chaos.world import Victim, World

SESSION_TIMEOUT: Final = 10.0
"""Of a consumer group (infra.settings.KafkaSettings)."""
AT_ONCE: Final = 0.35
"""The part of a drained room's clients that may come back within one second."""
CLAIMS: Final = "longwire_broadcast_claims_total"


class OfRoom(Fault):
    """A fault of the fullest room."""

    room: Victim

    async def begin(self, world: World) -> None:
        """Choose it."""
        self.room = world.fullest_room()
        self._before = {device.client: device.connections for device in self.room.devices}

    async def holds(self, world: World, traffic: Traffic) -> list[str]:
        """A room without devices would prove nothing."""
        few = len(self.room.devices) < len(world.fleet.devices) / 10
        return [f"{self.room.name} had only {len(self.room.devices)} devices"] if few else []

    def figures(self) -> dict[str, Any]:
        """How many it touched."""
        return {"room_devices": len(self.room.devices)}

    def stayed(self, world: World) -> int:
        """How many of the room's clients have not connected again since."""
        return sum(world.fleet.devices[client].connections == count for client, count in self._before.items())


class RoomSigkill(OfRoom):
    """Its clients come back elsewhere; the sweep of its sessions never ends their new ones."""

    name = "room-sigkill"
    held = 0.0
    target = 15.0

    async def begin(self, world: World) -> None:
        """SIGKILL."""
        await super().begin(world)
        world.signal(self.room.name, signal.SIGKILL)

    async def holds(self, world: World, traffic: Traffic) -> list[str]:
        """All have to come back."""
        stayed = self.stayed(world)
        return [*await super().holds(world, traffic), *([f"{stayed} never came back"] if stayed else [])]


class RoomSigstop(OfRoom):
    """Longer than its lease lives: what it wrote without having asked would show as repeats that no return explains."""

    name = "room-sigstop"
    held = 30.0
    target = 5.0

    async def begin(self, world: World) -> None:
        """SIGSTOP."""
        await super().begin(world)
        world.signal(self.room.name, signal.SIGSTOP)

    async def end(self, world: World) -> None:
        """SIGCONT."""
        world.signal(self.room.name, signal.SIGCONT)

    def figures(self) -> dict[str, Any]:
        """How many waited for it."""
        return {**super().figures(), "held_s": self.held}


class RoomDrain(OfRoom):
    """SIGTERM: its clients are sent to other rooms, spread over the drain; it is started again."""

    name = "room-drain"
    held = 0.0
    target = 60.0
    watched = 25.0
    _most = 0

    async def begin(self, world: World) -> None:
        """SIGTERM."""
        await super().begin(world)
        world.signal(self.room.name, signal.SIGTERM)

    async def holds(self, world: World, traffic: Traffic) -> list[str]:
        """Everybody moved, and not all at once."""
        problems = await super().holds(world, traffic)
        clients = set(self._before)
        times = sorted(at for at, client in world.fleet.returns if client in clients and at >= self.began)
        self._most = max((bisect_left(times, at + 1.0) - i for i, at in enumerate(times)), default=0)
        if stayed := self.stayed(world):
            problems.append(f"{stayed} were not moved")
        if self._most > AT_ONCE * len(clients):
            problems.append(f"{self._most} of {len(clients)} came back within one second")
        return problems

    def figures(self) -> dict[str, Any]:
        """The most that came back within one second."""
        return {**super().figures(), "most_in_a_second": self._most}


class RoomCutFromNats(OfRoom):
    """Its clients stay connected to it, and get what came meanwhile by sync."""

    name = "room-cut-from-nats"
    held = 15.0
    target = 15.0

    async def begin(self, world: World) -> None:
        """Nothing passes, either way."""
        await super().begin(world)
        world.nats_of_room[self.room.name].stall()

    async def end(self, world: World) -> None:
        """All passes."""
        world.nats_of_room[self.room.name].release()

    async def holds(self, world: World, traffic: Traffic) -> list[str]:
        """Nobody had to connect again."""
        moved = len(self.room.devices) - self.stayed(world)
        return [*await super().holds(world, traffic), *([f"{moved} of its clients connected again"] if moved else [])]


class OfWorker(Fault):
    """A fault of one of a role's two processes: of the one that owns the row's first broadcast, where that is its work."""

    target = 20.0

    def __init__(self, role: str) -> None:
        self._role = role
        self._worker = ""
        self._claims: dict[str, float] = {}

    async def prepare(self, world: World) -> None:
        """Remember what each has claimed."""
        self._claims = {name: await world.metric(name, CLAIMS) for name in world.of_role(self._role)}

    async def choose(self, world: World) -> str:
        """The process; raises RuntimeError if nobody owns the broadcast that has just been started."""
        owners = [name for name, claims in self._claims.items() if await world.metric(name, CLAIMS) > claims]
        if self._role == "broadcast" and not owners:
            raise RuntimeError("no broadcast worker has claimed the broadcast")
        self._worker = owners[0] if owners else world.of_role(self._role)[0]
        return self._worker

    def figures(self) -> dict[str, Any]:
        """Which one it was."""
        return {"worker": self._worker}


class WorkerSigkill(OfWorker):
    """The supervisor starts it again; meanwhile the other one has its work."""

    held = 0.0

    def __init__(self, role: str) -> None:
        super().__init__(role)
        self.name = f"{role}-sigkill"

    async def begin(self, world: World) -> None:
        """SIGKILL."""
        world.signal(await self.choose(world), signal.SIGKILL)


class WorkerSigstop(OfWorker):
    """Stopped for half, once or three times its session timeout: a zombie changes nothing when it comes back."""

    def __init__(self, role: str, factor: float) -> None:
        super().__init__(role)
        self.held = factor * SESSION_TIMEOUT
        self.name = f"{role}-sigstop-{factor:g}x"

    async def begin(self, world: World) -> None:
        """SIGSTOP."""
        world.signal(await self.choose(world), signal.SIGSTOP)

    async def end(self, world: World) -> None:
        """SIGCONT."""
        world.signal(self._worker, signal.SIGCONT)


class SaverSigstopLong(WorkerSigstop):
    """Longer than the sweep's grace: when it goes on it has heard no room for that long, and may end the session of nobody."""

    def __init__(self) -> None:
        super().__init__("saver", 0)
        policy = Policy()
        self.held = policy.lease_dead_after + policy.sweep_grace + 8
        self.name = "saver-sigstop-long"


class CenterHalfClosed(Fault):
    """Senders' connections are half-closed again and again: what was under way is answered or asked again, under the same id."""

    name = "center-half-closed"
    target = 5.0

    def __init__(self) -> None:
        self._closed = 0

    async def hold(self, world: World, traffic: Traffic) -> None:
        """Every half second, whatever is under way."""
        for _ in range(10):
            self._closed += world.center.connections
            world.center.half_close()
            await asyncio.sleep(self.held / 10)

    async def end(self, world: World) -> None:
        """What hung is reset."""
        world.center.reset()

    async def holds(self, world: World, traffic: Traffic) -> list[str]:
        """It met somebody, and keys of before still mean their ids."""
        wrong = await traffic.ask_again(before=self.began)
        return wrong if self._closed else [*wrong, "no connection was half-closed"]

    def figures(self) -> dict[str, Any]:
        """How many."""
        return {"half_closed": self._closed}


class CenterSigkill(Fault):
    """Senders ask again: what was accepted before is not stored twice, and its key still means the same id."""

    name = "center-sigkill"
    held = 0.0
    target = 5.0

    async def begin(self, world: World) -> None:
        """SIGKILL."""
        world.signal("center", signal.SIGKILL)

    async def holds(self, world: World, traffic: Traffic) -> list[str]:
        """Use keys of before the kill again."""
        return await traffic.ask_again(before=self.began)


class ClockShift(NobodyLeaves):
    """The wall clock of all our processes jumps, and jumps back: nothing expires early, no lease is lost."""

    held = 20.0

    def __init__(self, name: str, shift: float) -> None:
        self.name = name
        self._shift = shift

    async def begin(self, world: World) -> None:
        """Jump."""
        world.shift_clocks(self._shift)

    async def end(self, world: World) -> None:
        """Jump back."""
        world.shift_clocks(0.0)

    async def holds(self, world: World, traffic: Traffic) -> list[str]:
        """Receipts of that time show that it was shifted."""
        clocks = [event["clock"] for event in traffic.history.events if event["e"] == "receipt"]
        shifted = any(abs(clock - self._shift) < HOUR / 10 for clock in clocks)
        return [*await super().holds(world, traffic), *([] if shifted else ["no process took the shift"])]
