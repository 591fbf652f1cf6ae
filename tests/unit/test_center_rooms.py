"""`/v1/rooms/{room}`: figures of one room, and its drain."""

from __future__ import annotations

from typing import Any

import pytest
from center_world import World, room

from workers.center.ports import DrainOrder


def two_rooms(state: str = "open") -> World:
    world = World()
    world.rooms.views = [room("r1"), room("r2", state=state)]
    return world


async def test_given_a_room_then_its_figures_are_shown_and_another_is_a_404() -> None:
    async with two_rooms().client() as http:
        found = (await http.get("/v1/rooms/r1")).json()
        assert (found["room"], found["connections"], found["bound"], found["admits"]) == ("r1", 3, {"shop": 2}, True)
        assert 0 <= found["lease_age_s"] < 60
        for path in ("/v1/rooms/r9", "/v1/rooms/r9/drain"):
            answer = await http.get(path)
            assert (answer.status_code, answer.json()["type"]) == (404, "urn:longwire:problem:unknown-room")
        assert (await http.get("/v1/rooms/A*")).status_code == 400


async def test_given_a_drain_then_the_room_is_told_and_opened_again() -> None:
    world = two_rooms()
    async with world.client() as http:
        body = {"conn_evict_rate": 50, "redirect_to": ["10.0.0.2:1883", "[::1]:1883"], "reason": "a new kernel"}
        begun = await http.post("/v1/rooms/r1/drain", json=body)
        assert (begun.status_code, begun.json()) == (202, {"room": "r1", "state": "draining", "connections": 3})
        assert (await http.get("/v1/rooms/r1/drain")).json() == {"room": "r1", "state": "open", "connections": 3}
        assert (await http.post("/v1/rooms/r1/drain/stop")).json()["state"] == "open"
    to = ("10.0.0.2:1883", "[::1]:1883")
    assert world.drains.orders == [
        ("r1", DrainOrder(rate=50, to=to, by="operator", reason="a new kernel", before="open")),
        ("r1", DrainOrder(rate=0, to=(), by="operator", reason=None, before="open")),
    ]


async def test_given_no_other_open_room_then_a_drain_has_to_be_confirmed() -> None:
    world = two_rooms("draining")
    async with world.client() as http:
        answer = await http.post("/v1/rooms/r1/drain", json={"conn_evict_rate": 50})
        assert (answer.status_code, answer.json()["type"]) == (409, "urn:longwire:problem:confirm-needed")
        assert not world.drains.orders
        assert (await http.post("/v1/rooms/r1/drain", json={"conn_evict_rate": 50, "confirm": True})).status_code == 202


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "conn_evict_rate"),
        ({"conn_evict_rate": 0}, "conn_evict_rate"),
        ({"conn_evict_rate": 100_001}, "conn_evict_rate"),
        ({"conn_evict_rate": 1, "redirect_to": ["a b:1"]}, "redirect_to.0"),
        ({"conn_evict_rate": 1, "redirect_to": ["host"]}, "redirect_to.0"),
        ({"conn_evict_rate": 1, "redirect_to": ["h:1"] * 17}, "redirect_to"),
        ({"conn_evict_rate": 1, "rate": 1}, "rate"),
        ({"conn_evict_rate": 1, "reason": "a\nb"}, "reason"),
    ],
)
async def test_given_what_does_not_fit_then_the_field_is_named(body: Any, field: str) -> None:
    world = two_rooms()
    async with world.client() as http:
        answer = await http.post("/v1/rooms/r1/drain", json=body)
    assert answer.status_code == 400
    assert [each["field"] for each in answer.json()["errors"]] == [field]
    assert not world.drains.orders
