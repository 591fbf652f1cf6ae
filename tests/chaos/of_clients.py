"""Faults of the devices and of their links."""

from __future__ import annotations

import time
from typing import Any, Final

from bench.process import private_bytes
from tests.chaos.fault import Fault
from tests.chaos.traffic import Traffic
from tests.chaos.waiting import latencies, percentile
from tests.chaos.world import ACK_TIMEOUT, KEEP_ALIVE, World

CLOSED: Final = "longwire_gateway_closed_total"
AWAY: Final = "longwire_gateway_flash_total"
REFUSED: Final = "longwire_gateway_refused_total"
LARGE: Final = 8 * 1024
OTHERS_P99_MS: Final = 2000.0
"""What a few slow clients may cost the others, on a busy machine."""


class OfDoor(Fault):
    """A fault of the clients that come through the door, all of one room. `cut`: how many connections that room ended."""

    room = "r2"
    cut = 0.0

    async def prepare(self, world: World) -> None:
        """Those that a room of a row before sent to another one come through the door again; count what was ended before."""
        await world.gather_at_door()
        self._before = await self._ended(world)

    async def count(self, world: World) -> None:
        """Count what the room has ended since."""
        self.cut = await self._ended(world) - self._before

    async def holds(self, world: World, traffic: Traffic) -> list[str]:
        """Every one of them was cut at least once."""
        few = self.cut < len(world.special)
        return [f"the room cut {self.cut:.0f} connections of {len(world.special)} such clients"] if few else []

    def figures(self) -> dict[str, Any]:
        """How many were cut."""
        return {"cut": self.cut}

    async def _ended(self, world: World) -> float:
        reasons = ("keepalive_timeout", "ack_timeout", "slow")
        return sum([await world.metric(self.room, CLOSED, reason=reason) for reason in reasons])


class ClientHalfOpen(OfDoor):
    """Nothing of their packets arrives, while their sockets stay open: cut after 1.5 keep-alives at the latest."""

    name = "client-half-open"
    held = 1.5 * KEEP_ALIVE + 5

    async def begin(self, world: World) -> None:
        """Stall what they send."""
        world.door.stall("up")

    async def end(self, world: World) -> None:
        """All passes; what hung is reset."""
        await self.count(world)
        world.door.release()
        world.door.reset()


class ClientSlow(OfDoor):
    """They read 300 bytes a second, and large messages come: each is cut, its messages stay pending, nobody else feels it.

    A client whose ping is not answered leaves by itself, maybe just before the room's ack timeout: that is an end, too.
    """

    name = "client-slow"
    held = ACK_TIMEOUT + 7

    async def _ended(self, world: World) -> float:
        left = await world.metric(self.room, CLOSED, reason="socket_closed") + await world.metric(self.room, AWAY)
        return await super()._ended(world) + left

    async def begin(self, world: World) -> None:
        """Slow the door."""
        world.door.bandwidth = 300

    async def hold(self, world: World, traffic: Traffic) -> None:
        """More than they can read in time."""
        for client in world.special:
            for _ in range(3):
                traffic.large(client, LARGE)
        await super().hold(world, traffic)

    async def end(self, world: World) -> None:
        """At full speed again; what hung is reset."""
        self._until = time.monotonic()
        await self.count(world)
        world.door.bandwidth = 0
        world.door.reset()

    async def holds(self, world: World, traffic: Traffic) -> list[str]:
        """And the others."""
        others = [client for client in world.fleet.devices if client not in {*world.special, *world.away}]
        found = latencies(traffic.history, others, since=self.began, until=self._until)
        self._others = percentile(found, 0.99)
        slow = self._others is None or self._others > OTHERS_P99_MS
        return [*await super().holds(world, traffic), *([f"the others' p99 was {self._others} ms"] if slow else [])]

    def figures(self) -> dict[str, Any]:
        """How the others fared."""
        return {**super().figures(), "others_p99_ms": self._others}


class ReconnectStorm(Fault):
    """Every client loses its connection at once: rooms admit them at their rate, and tell the rest when to come again."""

    name = "reconnect-storm"
    held = 0.0
    target = 30.0
    most_bytes = 400 << 20

    async def prepare(self, world: World) -> None:
        """Count what was refused and restarted before."""
        self._before = await self._refused(world)
        self._restarts = world.restarts()

    async def begin(self, world: World) -> None:
        """All at once."""
        for device in world.fleet.devices.values():
            device.push.reconnect()

    async def holds(self, world: World, traffic: Traffic) -> list[str]:
        """The limit was met, nothing fell over, nobody is missing."""
        back: dict[str, float] = {}
        for at, client in world.fleet.returns:
            if at >= self.began and client not in world.away:
                back.setdefault(client, at - self.began)
        self._p99 = percentile(list(back.values()), 0.99)
        self._now_refused = await self._refused(world) - self._before
        self._memory = max(private_bytes(pid) for room in world.system.rooms if (pid := world.pid(room.id)))
        missing = len(world.fleet.devices) - len(world.away) - len(back)
        problems = [f"{missing} never came back"] if missing else []
        if not self._now_refused:
            problems.append("no room limited the rate")
        if self._memory > self.most_bytes:
            problems.append(f"a room has {self._memory >> 20} MiB")
        return [*problems, "a process ended on its own"] if world.restarts() > self._restarts else problems

    async def _refused(self, world: World) -> float:
        return sum([await world.metric(room.id, REFUSED) for room in world.system.rooms])

    def figures(self) -> dict[str, Any]:
        """How long it took, and what it cost."""
        return {"back_p99_ms": self._p99, "refused": self._now_refused, "room_mib": self._memory >> 20}
