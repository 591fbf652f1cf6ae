"""A client is taken out of a product by its room, or by the saver where no room has it."""

from __future__ import annotations

import pytest
from center_world import World, room

from infra.documents import Product
from infra.register import ClientView, SessionView
from infra.wire import Bind
from workers.center.devices import unbind

PATH = "/v1/clients/phone-1/unbind"
SHOP = {"product": "shop"}
KEY = "main:phone-1"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unbind, "LOOK_S", 0.001)


def a_world(*, bound: bool = True, session: bool = True, registered: bool = True) -> World:
    world = World()
    world.documents.products = {"shop": Product(name="shop")}
    world.rooms.views = [room("r1", epoch=7)]
    binds = {"shop": Bind("shop", 1, ["news"], "ann", {})} if bound else {}
    world.clients.views[KEY] = ClientView(SessionView(1, 4, "r1", 7, 9) if session else None, binds, {"shop": 3})
    if registered:
        world.clients.registered.add((KEY, "shop"))
    return world


async def test_given_a_connected_client_then_its_room_does_it_and_the_answer_waits_for_that() -> None:
    world = a_world()
    async with world.client() as http:
        assert (await http.post(PATH, json=SHOP)).status_code == 204
        assert world.unbinds.asked == [("room", "r1", KEY, "shop")]
        again = await http.post(PATH, json=SHOP)
    assert (again.status_code, again.json()["type"]) == (404, "urn:longwire:problem:not-bound")


async def test_given_a_client_between_two_connections_then_its_room_is_asked_again() -> None:
    world = a_world()
    world.unbinds.late = 3
    async with world.client() as http:
        assert (await http.post(PATH, json=SHOP)).status_code == 204
    assert world.unbinds.asked == [("room", "r1", KEY, "shop")] * 3


async def test_given_a_room_that_never_does_it_then_503_says_to_ask_again() -> None:
    world = a_world()
    world.unbinds.late = 99
    async with world.client() as http:
        answer = await http.post(PATH, json=SHOP)
    assert (answer.status_code, answer.json()["type"]) == (503, "urn:longwire:problem:not-unbound")
    assert int(answer.headers["retry-after"]) > 0


@pytest.mark.parametrize(
    ("bound", "session"), [(False, False), (False, True)], ids=["it is not connected", "its session has not bound it"]
)
async def test_given_a_bind_that_only_the_registry_has_then_the_saver_forgets_it(bound: bool, session: bool) -> None:
    world = a_world(bound=bound, session=session)
    async with world.client() as http:
        assert (await http.post(PATH, json=SHOP)).status_code == 204
    assert world.unbinds.asked == [("saver", "1.4", KEY, "shop")]


async def test_given_a_session_of_a_dead_room_then_the_saver_forgets_its_bind() -> None:
    world = a_world()
    world.rooms.views = []
    async with world.client() as http:
        assert (await http.post(PATH, json=SHOP)).status_code == 204
    assert world.unbinds.asked == [("saver", "1.4", KEY, "shop")]


async def test_given_an_unknown_product_a_bad_name_or_redis_down_then_a_problem_and_nobody_is_asked() -> None:
    world = a_world()
    async with world.client() as http:
        assert (await http.post(PATH, json={"product": "cafe"})).status_code == 404
        assert (await http.post("/v1/clients/a{b/unbind", json=SHOP)).status_code == 400
        assert (await http.post(PATH, json={})).status_code == 400
        world.clients.down = True
        assert (await http.post(PATH, json=SHOP)).status_code == 503
    assert world.unbinds.asked == []
