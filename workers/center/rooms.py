"""`GET /v1/rooms`: the live rooms."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel

from infra.rooms import RoomView
from workers.center.auth import Caller, Role, Who, needs
from workers.center.ports import Parts
from workers.center.problems import responses


class Room(BaseModel):
    """A room by its entry and its last lease. `state`: open, draining, stopped; `bound`: product → clients bound there."""

    room: str
    epoch: int
    host: str
    port: int
    labels: dict[str, str]
    state: str
    connections: int
    bound: dict[str, int]


class RoomList(BaseModel):
    """All live rooms, in the order of their ids."""

    rooms: list[Room]


def router(parts: Parts) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["rooms"])

    @routes.get("/v1/rooms", dependencies=needs(Role.READ), response_model=RoomList, responses=responses("unauthorized"))
    async def list_rooms(who: Who) -> RoomList:
        """The rooms with a young lease, with their connections."""
        return RoomList(rooms=[_room(who, view) for view in parts.rooms.live()])

    return routes


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
        bound={name: count for name, count in lease.bound.items() if who.sees(name)},
    )
