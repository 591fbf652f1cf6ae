"""What is asked of a broadcast that was accepted: by its state, into Kafka, answered with what it leads to; and the list."""

from __future__ import annotations

from typing import Any

import pytest
from center_world import World

from schemas.broadcasts import Transition
from schemas.jobs import TRANSITIONS, Action, JobState


def world_with(state: str, **more: Any) -> World:
    world = World()
    world.jobs.put(job="j1", product="shop", state=state, rate=100, **more)
    return world


async def ask(world: World, action: str, body: dict[str, Any] | None = None, *, job: str = "j1") -> Any:
    async with world.client() as http:
        if action == "rate":
            return await http.put(f"/v1/broadcasts/{job}/rate", json=body)
        return await http.post(f"/v1/broadcasts/{job}/{action}", json=body)


@pytest.mark.parametrize("state", [state for state in JobState if state is not JobState.ACCEPTED])
@pytest.mark.parametrize("action", list(Action))
async def test_given_a_state_then_each_action_is_taken_or_refused_as_the_table_says(state: JobState, action: Action) -> None:
    world = world_with(state)
    response = await ask(world, action, {"rate": 50} if action is Action.RATE else None)
    then = TRANSITIONS.get((state, action))
    if then is None:
        problem = response.json()
        assert (response.status_code, problem["type"]) == (409, "urn:longwire:problem:wrong-state")
        assert problem["state"] == state
        assert problem["possible"] == sorted(other for at, other in TRANSITIONS if at is state)
        assert world.journal.entries == []
    else:
        assert (response.status_code, response.json()["state"]) == (202, then)
        assert [type(record) for record in world.journal.records] == [Transition]


async def test_given_a_cancelled_job_resumed_then_409_and_nothing_is_sent() -> None:
    world = world_with("cancelled")
    response = await ask(world, "resume")
    assert response.json()["detail"] == "a cancelled job can't resume; possible: cancel"
    assert (response.status_code, world.journal.entries) == (409, [])


async def test_given_an_action_then_who_and_why_are_in_kafka_beside_the_products_broadcasts() -> None:
    world = world_with("running")
    response = await ask(world, "pause", {"by": "ann", "reason": "a wrong link"})
    [entry] = world.journal.entries
    assert (entry.topic, entry.key) == ("push.broadcasts", "shop")
    assert world.journal.records == [Transition(job="j1", product="shop", action="pause", by="ann", reason="a wrong link")]
    assert response.json() == {"id": "j1", "product": "shop", "state": "paused", "rate": 100}


async def test_given_a_rate_then_it_is_answered_and_in_the_record() -> None:
    world = world_with("paused")
    response = await ask(world, "rate", {"rate": 500})
    assert (response.json()["state"], response.json()["rate"]) == ("paused", 500)
    assert world.journal.records == [Transition(job="j1", product="shop", action="rate", rate=500)]


async def test_given_a_rate_over_the_products_then_400_and_nothing_is_sent() -> None:
    world = world_with("running")
    response = await ask(world, "rate", {"rate": 501})
    assert (response.status_code, world.journal.entries) == (400, [])
    assert "500 persons per second of product shop" in response.json()["detail"]


@pytest.mark.parametrize(
    ("more", "action", "status"),
    [
        ({}, "pause", 202),
        ({}, "start", 202),
        ({"draft": True}, "pause", 409),
        ({"draft": True}, "start", 202),
        ({"start_ms": 1}, "pause", 409),
        ({"start_ms": 1}, "cancel", 202),
    ],
)
async def test_given_a_job_that_is_not_claimed_yet_then_it_is_judged_by_its_first_state(
    more: dict[str, Any], action: str, status: int
) -> None:
    assert (await ask(world_with("accepted", **more), action)).status_code == status


async def test_given_a_full_product_when_a_draft_is_started_then_409() -> None:
    world = world_with("draft")
    for number in range(64):
        world.jobs.put(job=f"other{number}", product="shop", state="running", rate=1)
    response = await ask(world, "start")
    assert (response.status_code, response.json()["type"]) == (409, "urn:longwire:problem:too-many-broadcasts")
    assert world.journal.entries == []


@pytest.mark.parametrize(
    ("action", "body"),
    [
        ("pause", {"by": "a\u0007b"}),
        ("pause", {"reason": "x" * 129}),
        ("pause", {"rate": 5}),
        ("rate", {}),
        ("rate", {"rate": 0}),
        ("rate", {"rate": 10_000_001}),
    ],
)
async def test_given_an_order_that_does_not_fit_then_400_and_nothing_is_sent(action: str, body: dict[str, Any]) -> None:
    world = world_with("running")
    response = await ask(world, action, body)
    assert (response.status_code, world.journal.entries) == (400, [])


async def test_given_no_such_job_then_404_also_under_an_id_that_shares_its_key() -> None:
    world = World()
    world.jobs.put(job="a:b", product="shop", state="running", rate=1)
    world.jobs.documents["a_b"] = world.jobs.documents["a:b"]
    assert (await ask(world, "pause", job="a_b")).status_code == 404
    assert (await ask(world, "pause", job="nothing")).status_code == 404


async def test_given_kafka_is_down_then_503_and_no_id_to_repeat_it_by() -> None:
    world = world_with("running")
    world.journal.down = True
    response = await ask(world, "pause")
    assert response.status_code == 503
    assert "id" not in response.json()


# --- the list ----------------------------------------------------------------------------------------------------------


async def listed(world: World, **params: Any) -> Any:
    async with world.client() as http:
        response = await http.get("/v1/broadcasts", params=params)
    assert response.status_code == 200, response.text
    return response.json()


async def test_given_jobs_then_pages_have_each_once_newest_first() -> None:
    world = World()
    for number in range(25):
        world.jobs.put(job=f"j{number}", product="shop", state="running", rate=1, started_ms=1000 + number // 2, rooms=[])
    world.jobs.put(job="fresh", product="shop", state="accepted", rate=1)
    seen, cursor = [], ""
    while True:
        page = await listed(world, limit=10, cursor=cursor)
        seen += [each["id"] for each in page["broadcasts"]]
        cursor = page["next"]
        if cursor is None:
            break
    assert seen[0] == "fresh"
    assert sorted(seen) == sorted(world.jobs.documents)
    starts = [world.jobs.documents[job].get("started_ms", 9999) for job in seen]
    assert starts == sorted(starts, reverse=True)


async def test_given_a_product_or_a_state_then_only_those_are_listed_without_their_rooms() -> None:
    world = World()
    rooms = [{"room": "r1", "epoch": 1, "slot": 1, "counts": {}}]
    world.jobs.put(job="a", product="shop", state="running", rate=1, rooms=rooms, priority=0)
    world.jobs.put(job="b", product="shop", state="paused", rate=1)
    world.jobs.put(job="c", product="news", state="running", rate=1)
    [found] = (await listed(world, product="shop", state="running"))["broadcasts"]
    assert (found["id"], found["priority"], "rooms" in found) == ("a", "high", False)
    assert len((await listed(world, product="shop"))["broadcasts"]) == 2
    assert (await listed(world, product="none")) == {"broadcasts": [], "next": None}


async def test_given_a_job_that_is_gone_from_the_bucket_then_it_is_listed_no_more() -> None:
    world = world_with("running")
    world.jobs.index.take("j1", None)
    assert (await listed(world))["broadcasts"] == []


@pytest.mark.parametrize("params", [{"state": "flying"}, {"limit": 0}, {"limit": 101}, {"cursor": "!"}, {"cursor": "W10="}])
async def test_given_a_list_that_does_not_fit_then_400(params: dict[str, Any]) -> None:
    async with World().client() as http:
        assert (await http.get("/v1/broadcasts", params=params)).status_code == 400


async def test_given_an_entry_that_is_no_job_then_it_is_in_no_list() -> None:
    world = world_with("running")
    for value in (b"{", b"[]", b'{"job": 1}', b"\xff"):
        world.jobs.index.take("broken", value)
    assert len((await listed(world))["broadcasts"]) == 1
