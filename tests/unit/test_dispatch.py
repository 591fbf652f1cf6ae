"""The route that devices ask."""

from __future__ import annotations

import asyncio

import httpx
import msgspec
import pytest
from center_world import World, room
from prometheus_client import REGISTRY

from infra.documents import Policy, Product
from infra.wire import Endpoint
from pushclient.dispatch import parse_answer
from workers.center.dispatch.board import FRESH
from workers.center.dispatch.regions import Regions


async def test_given_open_rooms_then_a_device_without_a_key_gets_what_its_sdk_reads() -> None:
    world = World()
    world.rooms.views = [room("r1", port=1), room("r2", port=2), room("r3", port=3, state="draining")]
    async with world.client(key="") as http:
        response = await http.get("/v1/dispatch", params={"client": "c1", "network": "3g", "attempt": 2, "failed": "10.0.0.1:1"})
    assert response.status_code == 200
    assert [entry["room"] for entry in response.json()["addresses"]] == ["r2"]
    answer = parse_answer(response.content)
    assert (answer.ttl_s, answer.heartbeat_s) == (300, 300)
    assert answer.backoff is not None
    assert (answer.backoff.base_s, answer.backoff.cap_s) == (0.5, 30.0)


async def test_given_a_transport_then_only_ports_of_it_are_named() -> None:
    world = World()
    world.rooms.views = [room("r1", port=1), room("r2", port=2)]
    both = {"mqtt": Endpoint("10.0.0.2", 2), "mqtts": Endpoint("secure.test", 8883)}
    world.rooms.views[1].entry = msgspec.structs.replace(world.rooms.views[1].entry, endpoints=both)
    answers = {}
    async with world.client(key="") as http:
        for transport in ("mqtt", "mqtts", "wss", "carrier-pigeon"):
            answers[transport] = await http.get("/v1/dispatch", params={"client": "c1", "transport": transport})
    assert sorted(entry["port"] for entry in answers["mqtt"].json()["addresses"]) == [1, 2]
    assert answers["mqtts"].json()["addresses"] == [{"host": "secure.test", "port": 8883, "room": "r2"}]
    assert answers["wss"].status_code == 503
    assert answers["carrier-pigeon"].status_code == 400


async def test_given_an_unknown_network_then_the_default_heartbeat() -> None:
    world = World()
    world.rooms.views = [room("r1")]
    async with world.client(key="") as http:
        response = await http.get("/v1/dispatch", params={"client": "c1", "network": "carrier-pigeon"})
    assert response.json()["heartbeat_s"] == Policy().keep_alive_default


async def test_given_no_open_room_then_503_with_spread_retry_after() -> None:
    world = World()
    world.rooms.views = [room("r1", state="draining")]
    async with world.client(key="") as http:
        answers = [await http.get("/v1/dispatch", params={"client": "c1"}) for _ in range(30)]
    assert {answer.status_code for answer in answers} == {503}
    assert answers[0].json()["type"] == "urn:longwire:problem:no-room"
    waits = {int(answer.headers["Retry-After"]) for answer in answers}
    assert len(waits) > 3
    assert waits <= set(range(1, 31))


@pytest.mark.parametrize(
    "query", ["", "client=a/b", "client=" + "x" * 129, "client=c&attempt=-1", "client=c&attempt=x", "client=c" + "&failed=a" * 17]
)
async def test_given_a_bad_query_then_400(query: str) -> None:
    world = World()
    world.rooms.views = [room("r1")]
    async with world.client(key="") as http:
        response = await http.get(f"/v1/dispatch?{query}")
    assert response.status_code == 400
    assert response.headers["content-type"] == "application/problem+json"


async def ask(world: World, *queries: str, **headers: str) -> list[httpx.Response]:
    async with world.client(key="") as http:
        return [await http.get(f"/v1/dispatch?{query}", headers=headers) for query in queries]


def problem(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["type"].removeprefix("urn:longwire:problem:")


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("", "client"),
        ("client=", "client"),
        ("client=a%00b", "client"),
        ("client=a%0d%0aX:1", "client"),
        ("client=" + "x" * 20_000, "client"),
        ("client=c&client=d", "client"),
        ("client=c&attempt=1&attempt=2", "attempt"),
        ("client=c&attempt=99999999999999999999999", "attempt"),
        ("client=c&region=Europe%0d", "region"),
        ("client=c&product=../shop", "product"),
        ("client=c&last=a.b", "room"),
        ("client=c&network=" + "x" * 33, "network"),
        ("client=c&failed=" + "x" * 301, "failed"),
    ],
)
async def test_given_input_that_does_not_fit_then_a_problem_names_it_and_the_next_is_served(query: str, field: str) -> None:
    world = World()
    world.rooms.views = [room("r1")]
    bad, good = await ask(world, query, "client=c")
    assert problem(bad) == (400, "bad-input")
    assert field in bad.json()["detail"]
    assert len(bad.content) < 1_000
    assert bad.text.isprintable()
    assert good.status_code == 200


async def test_given_a_question_that_only_the_route_reads_then_the_answer_is_the_same() -> None:
    world = World()
    world.rooms.views = [room(f"r{index}", port=1000 + index) for index in range(9)]
    for query in ("client=c", "client=c&network=3g&attempt=4&failed=10.0.0.1:1001&last=r2&transport=mqtt&region=eu&product=shop"):
        quick, slow = await ask(world, query, f"{query}&%78=1")
        assert (quick.status_code, quick.json()) == (slow.status_code, slow.json())
        assert quick.headers["cache-control"] == slow.headers["cache-control"] == "no-store"
        assert quick.headers["content-type"] == slow.headers["content-type"] == "application/json"


async def test_given_products_with_pools_then_their_devices_get_no_others_rooms() -> None:
    world = World()
    world.documents.products = {"shop": Product(name="shop", pool="big"), "game": Product(name="game")}
    world.rooms.views = [room("r1", labels={"pool": "big"}), room("r2")]
    queries = ("client=c&product=shop", "client=c&product=game", "client=c&product=x", "client=c")
    shop, game, unknown, none = await ask(world, *queries)
    assert [entry["room"] for entry in shop.json()["addresses"]] == ["r1"]
    assert game.json() == unknown.json() == none.json()
    assert [entry["room"] for entry in game.json()["addresses"]] == ["r2"]
    world.rooms.views = [room("r1", labels={"pool": "big"}, connections=100, capacity=100), room("r2")]
    full, other = await ask(world, "client=c&product=shop", "client=c&product=game")
    assert problem(full) == (503, "no-room")
    assert "full" in full.json()["detail"]
    assert 1 <= int(full.headers["Retry-After"]) <= 30
    assert other.status_code == 200


async def test_given_a_listed_proxy_then_the_devices_region_is_that_of_its_own_address() -> None:
    world = World()
    world.balancers, world.regions = ["127.0.0.1/32"], Regions({"203.0.113.0/24": "eu", "127.0.0.0/8": "office"})
    world.rooms.views = [room("r1", labels={"region": "eu"}), room("r2", labels={"region": "us"})]
    [europe] = await ask(world, "client=c", **{"X-Forwarded-For": "9.9.9.9, 203.0.113.5"})
    assert (europe.json()["region"], europe.json()["addresses"][0]["room"]) == ("eu", "r1")
    [said] = await ask(world, "client=c&region=us", **{"X-Forwarded-For": "203.0.113.5"})
    assert (said.json()["region"], said.json()["addresses"][0]["room"]) == ("us", "r2")
    world.balancers = []
    [office] = await ask(world, "client=c", **{"X-Forwarded-For": "203.0.113.5"})
    assert office.json()["region"] == "office"


async def test_given_an_address_that_asks_too_often_then_429_and_others_are_served() -> None:
    world = World()
    world.balancers, world.rooms.views = ["127.0.0.1/32"], [room("r1")]
    world.documents.policy = Policy(dispatch_per_address=1, accept_burst=2)
    async with world.client(key="") as http:
        answers = [
            await http.get(f"/v1/dispatch?client={client}", headers={"X-Forwarded-For": address})
            for client, address in [("c", "9.9.9.9")] * 2 + [("a/b", "9.9.9.9")] * 2 + [("c", "8.8.8.8")]
        ]
    assert [answer.status_code for answer in answers] == [200, 200, 429, 429, 200]
    assert problem(answers[2]) == (429, "too-often")
    assert 1 <= int(answers[2].headers["Retry-After"]) <= 30


async def test_given_a_flood_from_everywhere_then_503_busy_and_it_ends_with_the_flood() -> None:
    def counted() -> float:
        labels = {"attempt": "first", "outcome": "busy"}
        return REGISTRY.get_sample_value("longwire_center_dispatched_total", labels) or 0.0

    world, before = World(), counted()
    world.rooms.views, world.documents.policy = [room("r1")], Policy(dispatch_rate=5)
    answers = await ask(world, *["client=c"] * 20)
    refused = [answer for answer in answers if answer.status_code == 503]
    assert 10 < len(refused) < 16
    assert problem(refused[0]) == (503, "busy")
    assert len({answer.headers["Retry-After"] for answer in refused}) > 1
    assert counted() - before == len(refused)


async def test_given_complaints_of_many_addresses_then_newcomers_go_elsewhere_but_not_all_of_them() -> None:
    world = World()
    world.balancers = ["127.0.0.1/32"]
    world.rooms.views = [room(f"r{index}", port=1000 + index) for index in range(4)]
    clients = [f"c{index}" for index in range(200)]

    async def at_r1(http: httpx.AsyncClient, network: str) -> int:
        asked = [(await http.get("/v1/dispatch", params={"client": each, "network": network})).json() for each in clients]
        return sum(answer["addresses"][0]["room"] == "r1" for answer in asked)

    async with world.client(key="") as http:
        before = await at_r1(http, "4g")
        for number in range(60):
            params = {"client": f"x{number}", "network": "4g", "attempt": 1, "failed": "10.0.0.1:1001"}
            await http.get("/v1/dispatch", params=params, headers={"X-Forwarded-For": f"203.0.113.{number}"})
        await asyncio.sleep(2 * FRESH)
        assert 0 < await at_r1(http, "4g") < before / 2
        assert await at_r1(http, "wifi") == before
