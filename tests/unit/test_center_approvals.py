"""A broadcast to more persons than may be reached unasked: 409 with how many, and a token for this request alone."""

from __future__ import annotations

import time
from typing import Any

import httpx
import pytest
from center_world import World, room

from schemas.broadcasts import Broadcast, Transition
from workers.center.callers.approval import KEPT_S, approved, limit_of, token_of
from workers.center.callers.auth import OPERATOR, Caller, Role
from workers.center.campaigns.campaign import BroadcastRequest
from workers.center.campaigns.census import Known

SALE = {"product": "shop", "payload": "sale"}
SECRET = b"k" * 32


@pytest.fixture
def world() -> World:
    """Five persons are known, three of them online; the shop's limit is four."""
    world = World()
    world.documents.products["shop"] = world.documents.products["shop"].model_copy(update={"confirm_over": 4})
    world.rooms.views = [room("r1")]
    world.census.persons = {"r1": 3}
    world.census.found = Known(9, 5, exact=True)
    return world


async def start(world: World, key: str = "", **more: Any) -> httpx.Response:
    async with world.client(**({"key": key} if key else {})) as http:
        return await http.post("/v1/broadcasts", json={**SALE, **more})


def started(world: World) -> list[str]:
    return [record.id for record in world.journal.records if isinstance(record, Broadcast)]


async def test_given_more_persons_than_the_limit_then_409_and_the_second_request_goes_through(world: World) -> None:
    asked = await start(world)
    assert (asked.status_code, asked.json()["type"]) == (409, "urn:longwire:problem:confirm-needed")
    assert (asked.json()["estimate"], started(world)) == (5, [])
    looked = len(world.census.asked)
    answer = await start(world, confirm=asked.json()["confirm"])
    assert (answer.status_code, started(world)) == (202, [answer.json()["id"]])
    assert len(world.census.asked) == looked


async def test_given_a_confirmed_request_again_then_it_has_the_same_id(world: World) -> None:
    token = (await start(world)).json()["confirm"]
    ids = [(await start(world, confirm=token)).json()["id"] for _ in range(2)]
    assert ids[0] == ids[1]
    own = await start(world, id="mine")
    assert (await start(world, id="mine", confirm=own.json()["confirm"])).json()["id"] == "mine"


@pytest.mark.parametrize("change", [{"payload": "another"}, {"sample": "50%"}, {"rate": 7}, {"by": "eve"}, {"id": "j2"}])
async def test_given_the_token_of_another_request_then_it_is_asked_again(world: World, change: dict[str, Any]) -> None:
    token = (await start(world)).json()["confirm"]
    answer = await start(world, confirm=token, **change)
    assert (answer.status_code, "of another request" in answer.json()["detail"], started(world)) == (409, True, [])


async def test_given_the_token_of_another_caller_then_it_is_asked_again(world: World) -> None:
    keys = [world.key(Role.BROADCAST) for _ in range(2)]
    token = (await start(world, keys[0])).json()["confirm"]
    assert (await start(world, keys[1], confirm=token)).status_code == 409
    assert (await start(world, keys[0], confirm=token)).status_code == 202


@pytest.mark.parametrize("token", ["", "x", "..", "a.b.c", "ü.1.2", "0" * 257])
async def test_given_nonsense_for_a_token_then_a_problem(world: World, token: str) -> None:
    answer = await start(world, confirm=token)
    assert (answer.status_code, started(world)) == (400 if len(token) > 256 else 409, [])


def test_given_time_then_a_token_ends() -> None:
    request = BroadcastRequest(**SALE)  # type: ignore[arg-type]
    token = token_of(SECRET, OPERATOR, request, 1000.0)
    assert approved(SECRET, token, OPERATOR, request, 1000.0 + KEPT_S - 1) is not None
    assert approved(SECRET, token, OPERATOR, request, 1000.0 + KEPT_S) is None
    assert approved(b"another" * 5, token, OPERATOR, request, 1000.0) is None
    head, _, mac = token.rpartition(".")
    later = f"{head.partition('.')[0]}.{int(time.time()) + 10**6}.{mac}"
    assert approved(SECRET, later, OPERATOR, request, 1000.0) is None


@pytest.mark.parametrize(
    ("of_key", "of_product", "limit"), [(None, None, None), (3, None, 3), (None, 4, 4), (3, 4, 3), (5, 4, 4), (0, 4, 0)]
)
def test_given_limits_of_key_and_product_then_the_lesser_one_holds(
    of_key: int | None, of_product: int | None, limit: object
) -> None:
    who = Caller(key="k", products=None, roles=frozenset(), confirm_over=of_key)
    assert limit_of(who, of_product) == limit


@pytest.mark.parametrize(("known", "status"), [(4, 202), (5, 409), (None, 409)])
async def test_given_few_persons_or_an_unknown_number_then_they_are_reached_or_it_is_asked(
    world: World, known: int | None, status: int
) -> None:
    world.census.found = None if known is None else Known(9, known, exact=True)
    answer = await start(world)
    assert (answer.status_code, answer.json().get("estimate")) == (status, known if status == 409 else None)


async def test_given_a_list_then_its_clients_are_counted(world: World) -> None:
    async with world.client() as http:
        for name, count in (("few", 4), ("many", 5)):
            lines = "".join(f"c{i}\n" for i in range(count))
            headers = {"Content-Type": "text/plain"}
            assert (await http.put(f"/v1/audiences/{name}?product=shop", content=lines, headers=headers)).status_code == 201
    assert (await start(world, audience="few")).status_code == 202
    answer = await start(world, audience="many")
    assert (answer.status_code, answer.json()["estimate"]) == (409, 5)


async def test_given_a_dry_run_then_nothing_has_to_be_confirmed(world: World) -> None:
    assert (await start(world, validate_only=True)).status_code == 200


async def test_given_no_secret_to_sign_by_then_503_and_nothing_is_sent(world: World) -> None:
    world.approvals.down = True
    assert ((await start(world)).status_code, started(world)) == (503, [])


async def test_given_an_idempotency_key_then_the_token_is_of_that_key_alone(world: World) -> None:
    async def asked(key: str, **more: Any) -> httpx.Response:
        async with world.client() as http:
            return await http.post("/v1/broadcasts", json={**SALE, **more}, headers={"Idempotency-Key": key} if key else {})

    token = (await asked("a")).json()["confirm"]
    assert [(await asked(key, confirm=token)).status_code for key in ("b", "", "a", "a")] == [409, 409, 202, 202]
    assert len(set(started(world))) == 1


@pytest.mark.parametrize("blind", ["room", "registry"])
async def test_given_a_room_that_does_not_answer_or_a_registry_read_in_part_then_few_persons_are_asked_for_too(
    world: World, blind: str
) -> None:
    world.census.found = Known(9, 1, exact=blind != "registry")
    if blind == "room":
        world.rooms.views.append(room("r2"))
    answer = await start(world)
    assert (answer.status_code, started(world)) == (409, [])


# --- a draft, which is asked about when it is started ------------------------------------------------------------------


async def begin(world: World, job: str, key: str = "", **more: Any) -> httpx.Response:
    async with world.client(**({"key": key} if key else {})) as http:
        return await http.post(f"/v1/broadcasts/{job}/start", json={"by": "ann", **more})


def moves(world: World) -> list[str]:
    return [record.job for record in world.journal.records if isinstance(record, Transition)]


async def test_given_a_draft_that_has_grown_then_its_start_is_confirmed_by_the_count_of_now(world: World) -> None:
    world.census.found = Known(9, 3, exact=True)
    job = (await start(world, draft=True, groups=["news"], sample="5%")).json()["id"]
    world.census.found = Known(9, 7, exact=True)
    asked = await begin(world, job)
    assert (asked.status_code, asked.json()["type"]) == (409, "urn:longwire:problem:confirm-needed")
    assert (asked.json()["estimate"], moves(world)) == (7, [])
    counted = world.census.asked[-1]
    assert (counted.groups, counted.sample_bp, counted.sample_seed) == (["news"], 500, job)
    answer = await begin(world, job, confirm=asked.json()["confirm"])
    assert (answer.status_code, answer.json()["id"], moves(world)) == (202, job, [job])


async def test_given_many_persons_when_it_is_only_drafted_then_nothing_is_asked(world: World) -> None:
    assert (await start(world, draft=True)).status_code == 202
    assert world.census.asked == []


async def test_given_a_draft_for_few_then_it_starts_at_once(world: World) -> None:
    world.census.found = Known(9, 4, exact=True)
    job = (await start(world, draft=True)).json()["id"]
    assert ((await begin(world, job)).status_code, moves(world)) == (202, [job])


async def test_given_a_draft_of_who_needs_no_confirmation_then_who_starts_it_is_asked_by_his_own_limit(world: World) -> None:
    world.documents.products["shop"] = world.documents.products["shop"].model_copy(update={"confirm_over": None})
    free, bound = world.key(Role.BROADCAST), world.key(Role.BROADCAST, confirm_over=2)
    job = (await start(world, free, draft=True)).json()["id"]
    assert ((await begin(world, job, bound)).status_code, moves(world)) == (409, [])
    assert ((await begin(world, job, free)).status_code, moves(world)) == (202, [job])


async def test_given_the_token_of_another_draft_or_caller_or_of_a_broadcast_then_it_is_asked_again(world: World) -> None:
    one, two = [(await start(world, draft=True)).json()["id"] for _ in range(2)]
    token = (await begin(world, one)).json()["confirm"]
    assert (await begin(world, two, confirm=token)).status_code == 409
    assert (await begin(world, one, world.key(Role.BROADCAST), confirm=token)).status_code == 409
    assert (await begin(world, one, confirm=(await start(world)).json()["confirm"])).status_code == 409
    assert (await begin(world, one, reason="another", confirm=token)).status_code == 409
    assert moves(world) == []


async def test_given_a_draft_of_a_list_then_its_clients_are_counted(world: World) -> None:
    async with world.client() as http:
        lines, headers = "".join(f"c{i}\n" for i in range(5)), {"Content-Type": "text/plain"}
        assert (await http.put("/v1/audiences/many?product=shop", content=lines, headers=headers)).status_code == 201
    job = (await start(world, draft=True, audience="many")).json()["id"]
    answer = await begin(world, job)
    assert (answer.status_code, answer.json()["estimate"]) == (409, 5)


async def test_given_a_draft_whose_owner_does_not_tell_whom_it_means_then_it_is_asked(world: World) -> None:
    world.jobs.put(job="j1", product="shop", state="draft", rate=100)
    answer = await begin(world, "j1")
    assert (answer.status_code, answer.json()["estimate"]) == (409, None)


async def test_given_a_draft_with_a_segment_that_nobody_can_read_then_it_is_asked(world: World) -> None:
    world.jobs.put(job="j1", product="shop", state="draft", rate=100, target={"segment": "platform =="})
    answer = await begin(world, "j1")
    assert (answer.status_code, answer.json()["estimate"]) == (409, None)


@pytest.mark.parametrize("state", ["scheduled", "running"])
async def test_given_a_draft_that_was_started_when_it_is_asked_for_again_then_nothing_is_asked(world: World, state: str) -> None:
    world.jobs.put(job="j1", product="shop", state=state, rate=100)
    assert (await begin(world, "j1")).status_code == 202
