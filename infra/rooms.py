"""Which rooms there are, where they listen, and which of them live: KV entries joined with leases.

A lease routes, it does not decide: a room counts as live while its last lease is younger than `lease_dead_after` by this
process's own monotonic clock. No clocks of two hosts are compared: a room's own clock is followed by its leases.

While this process stood still it could hear nobody: then silence is counted anew, or all rooms would seem dead when it goes on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgspec
import structlog

from infra.bus import Bus
from infra.lifecycle import Loops
from infra.mirror import Mirror
from infra.wire import Lease, RoomEntry
from schemas import names

ENDED: Final = 1024
"""Boots of rooms whose end is remembered."""
TICK: Final = 1.0
STOOD_STILL: Final = 3.0
"""Seconds without a tick of ours after which we were stopped, or so busy that leases may lie unread."""

log = structlog.get_logger("rooms")


@dataclass(slots=True)
class RoomView:
    """A room as this process sees it. `seen`: the monotonic time of the last lease, s."""

    entry: RoomEntry
    lease: Lease
    seen: float

    def clock_ms(self, now: float) -> int:
        """What the room's monotonic clock shows at least, when ours shows `now` (the lease's way here is not counted)."""
        return self.lease.clock_ms + int((now - self.seen) * 1000)


class Rooms:
    """All live rooms. `dead_after`: seconds without a lease."""

    def __init__(self, bus: Bus, *, dead_after: Callable[[], float], fail: Callable[[str], None] = lambda reason: None) -> None:
        self._bus = bus
        self._dead_after = dead_after
        self._entries: dict[str, RoomEntry] = {}
        self._leases: dict[str, tuple[Lease, float]] = {}
        self._ended: dict[tuple[str, int], float] = {}
        self._listening = self._ticked = time.monotonic()
        self._loops = Loops(fail)
        self._mirror = Mirror(bus, names.KV_ROOMS, on_change=self._take_entry, needed=False, fail=fail)
        self._lease = msgspec.msgpack.Decoder(Lease)
        self._entry = msgspec.json.Decoder(RoomEntry)

    async def start(self) -> None:
        """Follow the entries and the leases; raises BusDown. Entries that can't be read yet come when they can."""
        self._listen_anew()
        self._bus.on_reconnect.append(self._listen_anew)
        await self._bus.subscribe(names.ROOMS_LEASE, self._take_lease)
        await self._mirror.start()
        self._tick()
        self._loops.start("rooms", self._run())

    async def stop(self) -> None:
        """Stop following."""
        await self._loops.stop()
        await self._mirror.stop()

    def live(self) -> list[RoomView]:
        """The rooms with an entry and a young lease of the same epoch, in the order of their ids."""
        now, limit = time.monotonic(), self._dead_after()
        views = []
        for room, entry in sorted(self._entries.items()):
            lease, seen = self._leases.get(room, (None, 0.0))
            if lease is not None and lease.epoch == entry.epoch and now - seen < limit:
                views.append(RoomView(entry, lease, seen))
        return views

    def alive(self, room: str, epoch: int) -> bool:
        """Is this boot of a room alive, as far as its leases tell?"""
        lease, seen = self._leases.get(room, (None, 0.0))
        return lease is not None and lease.epoch == epoch and time.monotonic() - seen < self._dead_after()

    def silent_for(self, room: str, epoch: int) -> float:
        """Seconds for which this boot of a room gave no sign of life, as far as we listened; 0 while we can't hear any."""
        self._tick()  # whoever asks may run before the loop does
        if not self._bus.connected:
            return 0.0
        lease, seen = self._leases.get(room, (None, 0.0))
        if lease is None or lease.epoch != epoch:
            seen = self._ended.get((room, epoch), 0.0)
        return time.monotonic() - max(seen, self._listening)

    def dead(self, room: str, epoch: int) -> bool:
        """Has this boot of a room been silent for so long that it counts as dead? Not while we could not have heard it."""
        return self.silent_for(room, epoch) >= self._dead_after()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(TICK)
            self._tick()

    def _tick(self) -> None:
        now = time.monotonic()
        if now - self._ticked > STOOD_STILL:
            log.warning("stood still for a while: rooms are listened to anew", seconds=round(now - self._ticked, 1))
            self._listening = now
        self._ticked = now

    def _listen_anew(self) -> None:
        self._listening = time.monotonic()

    def silent(self, seconds: float) -> set[tuple[str, int]]:
        """The boots of rooms that we heard once, and not for so long."""
        known = {(room, lease.epoch) for room, (lease, _) in self._leases.items()} | set(self._ended)
        return {(room, epoch) for room, epoch in known if self.silent_for(room, epoch) >= seconds}

    def _take_lease(self, data: bytes) -> None:
        lease = self._lease.decode(data)
        known, seen = self._leases.get(lease.room, (None, 0.0))
        if known is None or lease.epoch >= known.epoch:
            if known is not None and known.epoch < lease.epoch:
                self._end(known, seen)
            self._leases[lease.room] = (lease, time.monotonic())
        if lease.state == "stopped":
            self._leases.pop(lease.room, None)
            self._end(lease, time.monotonic())

    def _end(self, lease: Lease, seen: float) -> None:
        self._ended[lease.room, lease.epoch] = seen
        while len(self._ended) > ENDED:
            del self._ended[next(iter(self._ended))]

    def _take_entry(self, room: str, value: bytes | None) -> None:
        if value is None:
            self._entries.pop(room, None)
            return
        try:
            self._entries[room] = self._entry.decode(value)
        except msgspec.MsgspecError as error:
            log.error("room entry refused", room=room, error=str(error)[:200])
