"""Where else clients may go: asked once, when the room drains, so that a running room listens to nobody's leases."""

from __future__ import annotations

import asyncio
from typing import Final, get_args

import msgspec
import structlog

from infra.bus import Bus, KvErrors
from infra.labels import POOL
from infra.settings import Transport
from infra.wire import Lease, RoomEntry
from schemas import names

LISTEN_FACTOR: Final = 1.2
"""Lease intervals for which we listen: each room that lives says so once in one."""
TRANSPORTS: Final[tuple[Transport, ...]] = get_args(Transport)
MOST: Final = 32
"""Rooms that we name, at most."""

log = structlog.get_logger("neighbours")


async def addresses(bus: Bus, *, room: str, pool: str, lease_interval: float) -> dict[str, list[str]]:
    """transport → `host:port` of other rooms of the pool that take clients, by leases and entries; empty if NATS is away."""
    open_rooms: dict[str, int] = {}
    decode = msgspec.msgpack.Decoder(Lease).decode

    def take(data: bytes) -> None:
        lease = decode(data)
        if lease.state == "open" and lease.room != room and (len(open_rooms) < MOST or lease.room in open_rooms):
            open_rooms[lease.room] = lease.epoch

    try:
        await bus.subscribe(names.ROOMS_LEASE, take)
        await asyncio.sleep(LISTEN_FACTOR * lease_interval)
        bucket = await bus.bucket(names.KV_ROOMS)
        found: dict[str, list[str]] = {}
        for name, epoch in sorted(open_rooms.items()):
            entry = msgspec.json.decode((await bucket.get(name)).value or b"{}", type=RoomEntry)
            for transport in TRANSPORTS if entry.epoch == epoch and entry.labels.get(POOL, "") == pool else ():
                if (endpoint := entry.endpoint(transport)) is not None:
                    found.setdefault(transport, []).append(str(endpoint))
    except KvErrors as error:
        log.warning("no other rooms found", room=room, error=type(error).__name__)
        return {}
    return found
