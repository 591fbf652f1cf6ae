"""`GET /v1/dispatch`: where a device connects. Devices ask it, so it needs no API key and shows addresses only.

Rendezvous hashing: each (client, room) has a weight that only the two names decide, and the heaviest rooms win. So every center
answers alike without talking to another, a client returns to its room, and a room that goes moves only its own clients.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from hashlib import blake2b
from typing import Annotated, Final

import msgspec
from fastapi import APIRouter, Query
from prometheus_client import Counter
from pydantic import BaseModel, Field

from infra.rooms import RoomView
from infra.settings import Transport
from infra.wire import RoomEntry
from schemas import names
from workers.center.ports import Parts
from workers.center.problems import Problem, responses

ADDRESSES: Final = 3
OPEN: Final = "open"
MAX_FAILED: Final = 16

dispatched = Counter("longwire_center_dispatched_total", "Devices sent to a room (or to none)", ["attempt", "outcome"])


class Address(BaseModel):
    """One room's address."""

    host: str
    port: int
    room: str


class Backoff(BaseModel):
    """How long a device waits between attempts: base · 2ⁿ up to the cap, full jitter."""

    base_s: float
    cap_s: float


class Dispatch(BaseModel):
    """Addresses, best first, good for `ttl_s`; and how the device is to behave."""

    addresses: list[Address] = Field(examples=[[{"host": "203.0.113.7", "port": 1883, "room": "r1"}]])
    ttl_s: int = Field(examples=[300])
    heartbeat_s: int = Field(description="The Keep Alive to ask for, by the network.", examples=[480])
    backoff: Backoff


def weight(client: str, room: str) -> int:
    """How much `room` wants `client`: 64 bits, the same everywhere."""
    return int.from_bytes(blake2b(f"{room}\0{client}".encode(), digest_size=8).digest(), "big")


def choose(client: str, rooms: Sequence[RoomEntry], failed: Collection[str], count: int = ADDRESSES) -> list[RoomEntry]:
    """Up to `count` of the rooms, heaviest first, without those whose `host:port` failed; if all failed, of all."""
    left = [room for room in rooms if address_of(room) not in failed] or rooms
    return sorted(left, key=lambda room: weight(client, room.room), reverse=True)[:count]


def address_of(room: RoomEntry) -> str:
    """`host:port` as a device writes it, IPv6 in brackets."""
    return str(room.endpoint(""))


def admitting(rooms: Sequence[RoomView], transport: str = "") -> list[RoomEntry]:
    """The rooms that take new clients, each with the address where it takes them by this transport, "" for its own port."""
    found = ((view.entry, view.entry.endpoint(transport)) for view in rooms if view.lease.state == OPEN)
    return [msgspec.structs.replace(entry, host=to.host, port=to.port) for entry, to in found if to is not None]


def router(parts: Parts) -> APIRouter:
    """The route."""
    routes = APIRouter(tags=["dispatch"])

    @routes.get("/v1/dispatch", response_model=Dispatch, responses=responses("bad-input", "no-room", "busy"))
    async def find_room(
        client: str,
        network: Annotated[str, Query(max_length=32, description="wifi, 4g, 3g, 2g; anything else gets the default.")] = "",
        attempt: Annotated[int, Query(ge=0, description="Failures since the last good connection.")] = 0,
        transport: Annotated[Transport | None, Query(description="How it connects; without it: each room's own port.")] = None,
        failed: Annotated[list[str] | None, Query(max_length=MAX_FAILED, description="Addresses that did not work.")] = None,
    ) -> Dispatch:
        """Where this client connects now, and what to try if that fails."""
        policy = parts.documents.policy
        rooms = choose(names.client(client), admitting(parts.rooms.live(), transport or ""), failed or ())
        dispatched.labels("again" if attempt else "first", "room" if rooms else "none").inc()
        if not rooms:
            wait = random.randint(1, max(2, int(policy.backoff_cap)))  # spread: all who come now would come back together
            raise Problem("no-room", "no open room has a young lease; come back later", retry_after_s=wait)
        return Dispatch(
            addresses=[Address(host=room.host, port=room.port, room=room.room) for room in rooms],
            ttl_s=policy.dispatch_ttl_s,
            heartbeat_s=policy.keep_alive.get(network, policy.keep_alive_default),
            backoff=Backoff(base_s=policy.backoff_base, cap_s=policy.backoff_cap),
        )

    return routes
