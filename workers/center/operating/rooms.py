"""`/v1/rooms`: the live rooms, one of them, and its drain."""

from __future__ import annotations

import time
from typing import Annotated, Final

from fastapi import APIRouter, Path
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from infra.rooms import RoomView
from schemas import names
from workers.center.callers.auth import Caller, Role, Who, needs
from workers.center.ports import DrainOrder, Parts
from workers.center.web.etags import Words
from workers.center.web.examples import example, example_of
from workers.center.web.problems import Problem, responses

OPEN: Final = "open"
MAX_RATE: Final = 100_000
MAX_TO: Final = 16

RoomId = Annotated[str, Path(alias="room"), AfterValidator(names.room)]
Address = Annotated[str, Field(max_length=255, pattern=r"^(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+):[0-9]{1,5}$")]


class Room(BaseModel):
    """A room by its entry and its last lease. `state`: open, draining, stopped; `bound`: product → clients bound there."""

    model_config = example(
        room="r1", epoch=7, host="10.0.0.1", port=1883, labels={"zone": "a"}, state="open", connections=1500, bound={"demo": 1200}
    )

    room: str
    epoch: int
    host: str
    port: int
    labels: dict[str, str]
    state: str
    connections: int
    bound: dict[str, int]


class RoomDetail(Room):
    """A room with what its lease says besides."""

    model_config = example(
        **example_of(Room), endpoints={"mqtt": "10.0.0.1:1883"}, capacity=100_000, admits=True, lease_age_s=1.4
    )

    endpoints: dict[str, str] = Field(description="Transport → where it takes clients.", examples=[{"mqtt": "10.0.0.1:1883"}])
    capacity: int = Field(description="Connections that it takes at most; 0: an older room, which does not say.")
    admits: bool = Field(description="Does it let clients in now?")
    lease_age_s: float = Field(description="How old all this is.")


class RoomList(BaseModel):
    """All live rooms, in the order of their ids."""

    model_config = example(rooms=[example_of(Room)])

    rooms: list[Room]


class DrainRequest(BaseModel):
    """How a room is emptied."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        json_schema_extra={"examples": [{"conn_evict_rate": 200, "redirect_to": ["10.0.0.2:1883"], "reason": "a new kernel"}]},
    )

    conn_evict_rate: int = Field(ge=1, le=MAX_RATE, description="Clients that are sent away per second.")
    redirect_to: tuple[Address, ...] = Field(
        default=(), max_length=MAX_TO, description="`host:port` of where they are told to go; default: other rooms, by transport."
    )
    reason: Words | None = None
    confirm: bool = Field(default=False, strict=True, description="Also where no other room is open.")


class StopRequest(BaseModel):
    """Why the room is opened again."""

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra={"examples": [{"reason": "it was the wrong one"}]})

    reason: Words | None = None


class DrainView(BaseModel):
    """How far a drain is, by the room's last lease: over when `state` is draining and nobody is connected."""

    model_config = example(room="r1", state="draining", connections=900)

    room: str
    state: str = Field(examples=["draining"])
    connections: int


NO_WORDS: Final = StopRequest()


def router(parts: Parts) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["rooms"])
    known = responses("bad-input", "unauthorized", "unknown-room")
    refusals = {**known, **responses("confirm-needed", "room-ends", "journal-down", "bus-down")}

    @routes.get("/v1/rooms", dependencies=needs(Role.READ), response_model=RoomList, responses=responses("unauthorized"))
    async def list_rooms(who: Who) -> RoomList:
        """The rooms with a young lease, with their connections."""
        return RoomList(rooms=[_room(who, view) for view in parts.rooms.live()])

    @routes.get("/v1/rooms/{room}", dependencies=needs(Role.READ), response_model=RoomDetail, responses=known)
    async def show_room(who: Who, name: RoomId) -> RoomDetail:
        """One room."""
        return _detail(who, _live(parts, name))

    @routes.get("/v1/rooms/{room}/drain", dependencies=needs(Role.READ), response_model=DrainView, responses=known)
    async def show_drain(name: RoomId) -> DrainView:
        """How far a room's drain is."""
        return _drain(_live(parts, name))

    @routes.post(
        "/v1/rooms/{room}/drain",
        dependencies=needs(Role.OPERATE, everywhere=True),
        status_code=202,
        response_model=DrainView,
        responses=refusals,
    )
    async def drain_room(who: Who, name: RoomId, request: DrainRequest) -> DrainView:
        """Empty a room: it admits nobody, devices are not sent to it, and its clients get DISCONNECT 0x9C at this rate. It
        lives on until it is stopped, or opened again. Asked again, it goes on at the new rate."""
        view = _live(parts, name)
        if not request.confirm and not any(other.lease.state == OPEN for other in parts.rooms.live() if other.entry.room != name):
            raise Problem("confirm-needed", f'no other room is open: clients of {name} could go nowhere. "confirm": true does it')
        await parts.drains.drain(name, _order(who, view, request.conn_evict_rate, request.redirect_to, request.reason))
        return DrainView(room=name, state="draining", connections=view.lease.connections)

    @routes.post(
        "/v1/rooms/{room}/drain/stop",
        dependencies=needs(Role.OPERATE, everywhere=True),
        status_code=202,
        response_model=DrainView,
        responses=refusals,
    )
    async def stop_drain(who: Who, name: RoomId, request: StopRequest = NO_WORDS) -> DrainView:
        """Open a room again: who is left stays, and others come in."""
        view = _live(parts, name)
        await parts.drains.drain(name, _order(who, view, 0, (), request.reason))
        return DrainView(room=name, state=OPEN, connections=view.lease.connections)

    return routes


def _live(parts: Parts, name: str) -> RoomView:
    for view in parts.rooms.live():
        if view.entry.room == name:
            return view
    raise Problem("unknown-room", f"room {name} is not there, or its last lease is too old")


def _order(who: Caller, view: RoomView, rate: int, to: tuple[str, ...], reason: str | None) -> DrainOrder:
    return DrainOrder(rate=rate, to=to, by=who.key, reason=reason, before=view.lease.state)


def _drain(view: RoomView) -> DrainView:
    return DrainView(room=view.entry.room, state=view.lease.state, connections=view.lease.connections)


def _room(who: Caller, view: RoomView) -> Room:
    entry, lease = view.entry, view.lease
    return Room(
        room=entry.room,
        epoch=entry.epoch,
        host=entry.host,
        port=entry.port,
        labels=entry.labels,
        state=lease.state,
        connections=lease.connections,
        bound={product: count for product, count in lease.bound.items() if who.sees(product)},
    )


def _detail(who: Caller, view: RoomView) -> RoomDetail:
    return RoomDetail(
        **_room(who, view).model_dump(),
        endpoints={transport: str(endpoint) for transport, endpoint in view.entry.endpoints.items()},
        capacity=view.lease.capacity,
        admits=view.lease.admits,
        lease_age_s=round(max(0.0, time.monotonic() - view.seen), 1),
    )
