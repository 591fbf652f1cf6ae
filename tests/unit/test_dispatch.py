"""The dispatcher: the choice itself, and the route that devices ask."""

from __future__ import annotations

from collections import Counter

import msgspec
import pytest
from center_world import World, room

from infra.documents import Policy
from infra.wire import Endpoint, RoomEntry
from pushclient.dispatch import parse_answer
from workers.center.dispatch import address_of, choose


def rooms(count: int) -> list[RoomEntry]:
    return [RoomEntry(f"r{i}", 1, f"10.0.0.{i}", 1883) for i in range(count)]


CLIENTS = [f"client-{i}" for i in range(2000)]


def first(client: str, among: list[RoomEntry]) -> str:
    return choose(client, among, ())[0].room


def test_given_rooms_then_each_client_gets_three_different_ones_the_same_in_any_order() -> None:
    among = rooms(5)
    for client in CLIENTS[:100]:
        chosen = choose(client, among, ())
        assert len({entry.room for entry in chosen}) == 3
        assert choose(client, among[::-1], ()) == chosen


def test_given_one_room_is_lost_then_only_its_clients_move() -> None:
    before, lost = rooms(8), "r3"
    after = [entry for entry in before if entry.room != lost]
    moved = [client for client in CLIENTS if first(client, before) != first(client, after)]
    assert moved
    assert {first(client, before) for client in moved} == {lost}


def test_given_one_room_is_lost_then_its_clients_find_their_second_address_and_spread() -> None:
    before = rooms(8)
    after = [entry for entry in before if entry.room != "r3"]
    mine = [client for client in CLIENTS if first(client, before) == "r3"]
    assert all(choose(client, before, ())[1].room == first(client, after) for client in mine)
    assert len({first(client, after) for client in mine}) == 7


def test_given_many_clients_then_rooms_are_about_even() -> None:
    counts = Counter(first(client, rooms(8)) for client in CLIENTS)
    assert len(counts) == 8
    assert max(counts.values()) < 1.4 * len(CLIENTS) / 8


def test_given_an_address_failed_then_it_is_left_out_and_if_all_failed_all_are_given() -> None:
    among = rooms(3)
    best = choose("c", among, ())
    assert choose("c", among, {address_of(best[0])}) == best[1:]
    assert choose("c", among, {address_of(entry) for entry in among}) == best


def test_given_an_ipv6_host_then_its_address_has_brackets() -> None:
    assert address_of(RoomEntry("r", 1, "2001:db8::1", 1883)) == "[2001:db8::1]:1883"


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
