"""The dry run: whom a broadcast would reach; nothing is sent or kept."""

from __future__ import annotations

from typing import Any

import pytest
from center_world import World, room
from hypothesis import given
from hypothesis import strategies as st

from infra.meant import of_registry
from infra.wire import JobContent
from schemas.records import ClientProduct, ClientRecord
from workers.center.campaigns.census import Known

NEWS: dict[str, Any] = {"product": "shop", "groups": ["news", "vip"], "match": "all", "sample": "5%", "sample_seed": "s"}


async def estimate(world: World, **body: Any) -> Any:
    async with world.client() as http:
        response = await http.post("/v1/broadcasts/estimate", json=body)
    assert (world.journal.entries, world.jobs.documents, world.keys.found) == ([], {}, {})
    return response


async def test_given_rooms_and_a_registry_then_online_offline_and_each_room_are_told() -> None:
    world = World()
    world.rooms.views = [room("r1"), room("r2"), room("r3")]
    world.census.persons = {"r1": 40, "r2": 2}
    world.census.found = Known(clients=1000, meant=100, exact=False)
    shown = (await estimate(world, **NEWS, rate=10)).json()
    assert shown == {
        "online": 42,
        "rooms": [
            {"room": "r1", "persons": 40, "error": None},
            {"room": "r2", "persons": 2, "error": None},
            {"room": "r3", "persons": None, "error": "no answer"},
        ],
        "offline": 58,
        "known": 1000,
        "offline_estimated": True,
        "rate": 10,
        "takes_s": 4.2,
    }
    [content] = world.census.asked
    assert (content.product, content.groups, content.every_group) == ("shop", ["news", "vip"], True)
    assert (content.sample_bp, content.sample_seed, content.payload, content.include_new) == (500, "s", b"", True)


async def test_given_more_online_than_the_registry_tells_then_nobody_is_offline() -> None:
    world = World()
    world.rooms.views = [room("r1")]
    world.census.persons = {"r1": 40}
    world.census.found = Known(clients=30, meant=30, exact=True)
    shown = (await estimate(world, product="shop")).json()
    assert (shown["online"], shown["offline"], shown["offline_estimated"]) == (40, 0, False)


async def test_given_kafka_is_down_then_who_is_online_is_told_all_the_same() -> None:
    world = World()
    world.rooms.views = [room("r1")]
    world.census.persons = {"r1": 3}
    shown = (await estimate(world, product="shop", payload="hello")).json()
    assert (shown["online"], shown["offline"], shown["known"]) == (3, None, None)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"product": "none"}, 404),
        ({"product": "shop", "rate": 501}, 400),
        ({"product": "shop", "segment": "platform =="}, 400),
        ({"product": "shop", "payload": "x" * 1001}, 413),
        ({"product": "shop", "payload": "a", "payload_base64": "YQ=="}, 400),
        ({"product": "shop", "audience": "list-1"}, 400),
        ({"product": "shop", "start_at": "2020-01-01T00:00:00Z"}, 400),
    ],
)
async def test_given_what_could_not_be_sent_then_it_can_not_be_estimated(body: dict[str, Any], status: int) -> None:
    world = World()
    assert (await estimate(world, **body)).status_code == status
    assert world.census.asked == []


# --- whom a content means ----------------------------------------------------------------------------------------------


def record(groups: frozenset[str], attrs: dict[str, str] | None = None) -> ClientRecord:
    bind = ClientProduct(user=None, groups=tuple(groups), attrs=attrs or {}, qos=1, first_bind_ms=1)
    return ClientRecord(realm="main", client="c", product="shop", bind=bind)


def content(groups: frozenset[str] = frozenset(), **more: Any) -> JobContent:
    return JobContent("j", (-1, -1), "shop", sorted(groups), b"", 1, 1, **more)


NAMES = st.frozensets(st.sampled_from(["a", "b", "c"]))


@given(wanted=NAMES, joined=NAMES)
def test_given_groups_then_any_or_all_of_them_decide(wanted: frozenset[str], joined: frozenset[str]) -> None:
    assert of_registry(content(wanted))(record(joined)) == (not wanted or bool(wanted & joined))
    assert of_registry(content(wanted, every_group=True))(record(joined)) == (wanted <= joined)


def test_given_a_segment_then_the_clients_attributes_decide() -> None:
    meant = of_registry(content(segment='lang == "de"'))
    assert [meant(record(frozenset(), attrs)) for attrs in ({"lang": "de"}, {"lang": "fr"}, {})] == [True, False, False]
