"""The room's sign of life: a lease every few seconds, and where it listens in the KV bucket `rooms`.

A lease routes, it does not decide (docs/design.md): losing NATS costs readiness, never a connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import msgspec
import structlog

from gateway.room import Room
from infra.bus import Bus, BusError, KvErrors
from infra.lifecycle import Loops
from infra.wire import Lease, RoomEntry, encoder
from schemas import names

OPEN: Final = "open"
DRAINING: Final = "draining"
STOPPED: Final = "stopped"
REWRITE_EVERY: Final = 10
"""Leases between two writes of the KV entry: a wiped bucket has it again within half a minute."""

log = structlog.get_logger("lease")


class LeaseKeeper:
    """Publishes the lease; `start()` returns when the room is known, `stop()` when it is known to be gone."""

    def __init__(self, bus: Bus, room: Room, entry: Callable[[], RoomEntry], *, fail: Callable[[str], None]) -> None:
        """`entry()`: where the room listens, known once it does."""
        self._bus = bus
        self._room = room
        self._entry = entry
        self._loops = Loops(fail)
        self._encoder = encoder()
        self._wake = asyncio.Event()
        self._state = OPEN
        self._last_seen = room.clock()
        self._started = False
        self._written = False

    async def start(self) -> None:
        """Write the entry, announce the room and begin; raises BusDown. An entry that the KV does not take now is tried again."""
        await self._rewrite()
        await self._bus.publish(names.ROOMS_ANNOUNCE, self._encoder.encode(self._entry()))
        await self._publish()
        self._bus.on_reconnect.append(self._reconnected)
        self._loops.start("lease", self._run())
        self._started = True

    async def drain(self) -> None:
        """Tell everyone that this room takes nobody any more."""
        self._state = DRAINING
        await self._publish()

    async def reopen(self) -> None:
        """Tell everyone that this room takes clients again."""
        self._state = OPEN
        await self._publish()

    async def stop(self) -> None:
        """Say "stopped" and remove the entry."""
        await self._loops.stop()
        if not self._started:
            return
        self._started = False
        self._state = STOPPED
        await self._publish()
        try:
            bucket = await self._bus.bucket(names.KV_ROOMS)
            await bucket.delete(self._room.id)
        except KvErrors as error:
            log.warning("entry not removed", room=self._room.id, error=type(error).__name__)

    async def _run(self) -> None:
        count = 0
        while True:
            try:
                async with asyncio.timeout(self._room.host.policy.lease_interval):
                    await self._wake.wait()
            except TimeoutError:
                pass
            rewrite = not self._written or self._wake.is_set() or count % REWRITE_EVERY == REWRITE_EVERY - 1
            self._wake.clear()
            count += 1
            await self._publish()
            if rewrite:
                await self._rewrite()

    async def _publish(self) -> None:
        room = self._room
        now = room.clock()
        lease = Lease(
            room.id, room.epoch, int(now * 1000), self._state, room.connections, room.fanout.bound_counts(),
            capacity=room.settings.max_connections, admits=room.gate.admits,
        )  # fmt: skip
        try:
            await self._bus.publish(names.ROOMS_LEASE, self._encoder.encode(lease))
            self._last_seen = now
        except BusError as error:
            log.debug("lease not published", room=room.id, error=type(error).__name__)

    async def _rewrite(self) -> None:
        """A store that does not answer must not hold up the next lease."""
        self._written = False
        try:
            async with asyncio.timeout(self._room.host.policy.lease_interval / 2):
                bucket = await self._bus.bucket(names.KV_ROOMS)
                await bucket.put(self._room.id, msgspec.json.encode(self._entry()))
            self._written = True
        except KvErrors as error:
            log.warning("entry not written", room=self._room.id, error=type(error).__name__)

    def _reconnected(self) -> None:
        """A short cut costs hints, which a sync heals; after a long one others may have thought us dead: the same sync."""
        away = self._room.clock() - self._last_seen
        log.info("NATS is back", room=self._room.id, away_s=round(away, 1))
        self._room.resync()
        self._wake.set()
