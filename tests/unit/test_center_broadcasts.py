"""POST /v1/broadcasts as a campaign: every field that it has, and every one that does not fit; nothing of those is produced."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from center_world import World

from infra.documents import Product
from schemas.broadcasts import Broadcast, Canary, Quiet
from schemas.codes import Priority
from workers.center.web.paging import cursor_of

SALE: dict[str, Any] = {"product": "shop", "payload": "sale"}
DAY_S = 86_400


def in_future(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


async def post(world: World, path: str = "", **body: Any) -> Any:
    async with world.client() as http:
        return await http.post(f"/v1/broadcasts{path}", json={**SALE, **body})


def only(world: World) -> Broadcast:
    [record] = world.journal.records
    assert isinstance(record, Broadcast)
    return record


async def refused(status: int, *words: str, world: World | None = None, **body: Any) -> dict[str, Any]:
    """The problem of a broadcast that must leave nothing behind; `words` are in its detail."""
    world = world or World()
    before = dict(world.jobs.documents)
    response = await post(world, **body)
    problem: dict[str, Any] = response.json()
    assert (response.status_code, response.headers["content-type"]) == (status, "application/problem+json"), problem
    assert all(word in problem["detail"] for word in words), problem["detail"]
    assert (world.journal.entries, world.jobs.documents) == ([], before)
    return problem


# --- what is accepted --------------------------------------------------------------------------------------------------


async def test_given_every_field_then_every_field_is_in_the_record() -> None:
    world = World()
    response = await post(
        world,
        id="sale-1",
        realm="eu",
        rate=400,
        ramp="30s",
        priority="low",
        groups=["news", "vip"],
        match="all",
        segment='platform == "ios"',
        sample="12.5%",
        sample_seed="week-48",
        include_new=True,
        draft=True,
        canary={"share": "1%", "wait": "60s", "min_acked": "90%", "max_failed": 0.25},
        quiet={"from": "22:00", "to": "08:30", "zone": "Europe/Berlin"},
        ttl="30m",
        fallback_after="10m",
        by="ann@example.org",
    )
    assert response.status_code == 202, response.text
    assert only(world) == Broadcast(
        id="sale-1",
        product="shop",
        realm="eu",
        groups=("news", "vip"),
        payload=b"sale",
        rate=400,
        ttl_s=1800,
        include_new=True,
        every_group=True,
        segment='platform == "ios"',
        sample_bp=1250,
        sample_seed="week-48",
        priority=Priority.LOW,
        ramp_s=30,
        draft=True,
        canary=Canary(share_bp=100, wait_s=60, min_acked_bp=9000, max_failed_bp=25),
        quiet=Quiet(from_minute=1320, to_minute=510, zone="Europe/Berlin"),
        fallback_after_s=600,
        by="ann@example.org",
    )


async def test_given_a_draft_then_its_time_to_live_has_not_begun() -> None:
    world = World()
    job = (await post(world, draft=True, ttl="1h")).json()
    assert (job["state"], job["expires_ms"], only(world).ttl_s) == ("accepted", None, 3600)


async def test_given_a_start_then_the_time_to_live_counts_from_it() -> None:
    world = World()
    job = (await post(world, start_at=in_future(3600), ttl="10m")).json()
    record = only(world)
    assert record.start_ms is not None
    assert job["expires_ms"] == record.start_ms + 600_000
    assert abs(record.start_ms / 1000 - time.time() - 3600) < 100


async def test_given_an_expiry_then_it_is_a_time_to_live_from_the_start() -> None:
    world = World()
    await post(world, expires_at=in_future(600))
    assert only(world).ttl_s in range(500, 601), "less what the test took"
    world = World()
    await post(world, start_at=in_future(3600), expires_at=in_future(7200))
    assert only(world).ttl_s in (3600, 3601), "rounded up"


@pytest.mark.parametrize(
    ("sample", "points"), [("5%", 500), ("0.01%", 1), ("100%", 10_000), (5, 500), (0.29, 29), (100, 10_000), ("33.33%", 3333)]
)
async def test_given_a_share_then_it_is_kept_to_a_hundredth_of_a_percent(sample: Any, points: int) -> None:
    world = World()
    await post(world, sample=sample)
    assert only(world).sample_bp == points


@pytest.mark.parametrize(
    ("body", "state"), [({}, "running"), ({"draft": True}, "draft"), ({"start_at": "2999-01-01T00:00:00Z"}, None)]
)
async def test_given_validate_only_then_all_is_checked_and_nothing_is_kept(body: dict[str, Any], state: str | None) -> None:
    world = World()
    response = await post(world, validate_only=True, **body)
    assert (world.journal.entries, world.jobs.documents) == ([], {})
    if state is None:
        assert response.status_code == 400
    else:
        job = response.json()
        assert (response.status_code, job["state"], job["accepted_ms"], job["expires_ms"]) == (200, state, None, None)


async def test_given_validate_only_then_its_idempotency_key_is_still_free() -> None:
    world = World()
    async with world.client() as http:
        body = {**SALE, "validate_only": True}
        for _ in range(2):
            assert (await http.post("/v1/broadcasts", json=body, headers={"Idempotency-Key": "k"})).status_code == 200
        assert (await http.post("/v1/broadcasts", json=SALE, headers={"Idempotency-Key": "k"})).status_code == 202


# --- bad input: a clear problem, and nothing is produced ------------------------------------------------------------------


async def test_given_a_rate_over_the_products_then_400_names_the_products() -> None:
    await refused(400, "rate 501", "500 persons per second of product shop", rate=501)


async def test_given_an_expiry_in_the_past_then_400() -> None:
    await refused(400, "expires_at", "is in the past", expires_at=in_future(-1))


async def test_given_a_start_in_the_past_then_400() -> None:
    await refused(400, "start_at", "is in the past", start_at=in_future(-60))


async def test_given_a_time_to_live_that_is_over_already_then_400() -> None:
    await refused(400, "ttl", ttl=0)
    await refused(400, "ttl", ttl="-5s")


async def test_given_an_expiry_before_the_start_then_400() -> None:
    await refused(400, "expires_at", "nobody would get it", start_at=in_future(3600), expires_at=in_future(1800))


async def test_given_an_end_that_kafka_does_not_reach_then_400() -> None:
    await refused(400, "start_at", "28 days", start_at=in_future(27 * DAY_S), ttl=2 * DAY_S)
    await refused(400, "expires_at", "28 days", expires_at=in_future(29 * DAY_S))


async def test_given_a_fallback_after_its_end_then_400() -> None:
    await refused(400, "fallback_after 61", "time to live of 60 s", fallback_after="61s")
    await refused(400, "fallback_after 31", "time to live of 30 s", fallback_after=31, ttl=30)


async def test_given_a_content_over_the_limit_then_413_names_the_limit() -> None:
    await refused(413, "1001 bytes", "allows 1000", payload="x" * 1001)


@pytest.mark.parametrize(
    ("segment", "words"),
    [('platform == "ios" &&', "character"), ("1 == 1", "character"), ("", "at least 1"), ("x" * 5000, "at most 4096")],
)
async def test_given_a_segment_that_means_nothing_then_400_says_where(segment: str, words: str) -> None:
    problem = await refused(400, "segment", words, segment=segment)
    assert problem["errors"][0]["field"] == "segment"


async def test_given_an_unknown_zone_then_400() -> None:
    for zone in ("Europe/Atlantis", "../etc/passwd", "America", "/etc/passwd"):
        await refused(400, "quiet.zone", "IANA", quiet={"from": "22:00", "to": "08:00", "zone": zone})


async def test_given_a_65th_active_broadcast_then_409_says_what_frees_a_place() -> None:
    world = World()
    for number in range(64):
        world.jobs.put(job=f"j{number}", product="shop", state="running" if number % 2 else "completed", rate=1)
    problem = await refused(409, "64", "cancel one", world=world)
    assert problem["type"] == "urn:longwire:problem:too-many-broadcasts"
    assert (await post(world, draft=True)).status_code == 202, "a draft takes no place"


async def test_given_broadcasts_that_take_no_place_then_one_more_is_accepted() -> None:
    world = World()
    past, idle = int(time.time() * 1000) - 1, ("cancelled", "expired", "draft", "scheduled")
    for number in range(200):
        world.jobs.put(job=f"idle{number}", product="shop", state=idle[number % 4], rate=1)
        world.jobs.put(job=f"past{number}", product="shop", state="running", rate=1, expires_ms=past)
        world.jobs.put(job=f"other{number}", product="news", state="running", rate=1)
        world.jobs.put(job=f"plan{number}", product="shop", state="accepted", rate=1, draft=True)
    assert (await post(world)).status_code == 202


async def test_given_a_full_product_then_a_repeat_of_one_of_its_own_is_not_refused() -> None:
    world = World()
    for number in range(64):
        world.jobs.put(job=f"j{number}", product="shop", state="running", rate=1)
    assert (await post(world, id="j7")).status_code == 202


@pytest.mark.parametrize(
    ("field", "body"),
    [
        ("rate", {"rate": 0}),
        ("rate", {"rate": True}),
        ("ramp", {"ramp": "soon"}),
        ("ramp", {"ramp": "25h"}),
        ("priority", {"priority": "urgent"}),
        ("match", {"match": "some"}),
        ("sample", {"sample": "0%"}),
        ("sample", {"sample": 0}),
        ("sample", {"sample": "5"}),
        ("sample", {"sample": "101%"}),
        ("sample", {"sample": "0.001%"}),
        ("sample", {"sample": "NaN%"}),
        ("sample", {"sample": True}),
        ("sample", {"sample": [5]}),
        ("sample_seed", {"sample_seed": "a b"}),
        ("audience", {"audience": ""}),
        ("start_at", {"start_at": 1_900_000_000}),
        ("start_at", {"start_at": "2999-01-01T00:00:00"}),
        ("start_at", {"start_at": "tomorrow"}),
        ("canary.wait", {"canary": {"share": "1%"}}),
        ("canary.share", {"canary": {"share": "0%", "wait": 1}}),
        ("canary.wait", {"canary": {"share": "1%", "wait": "2d"}}),
        ("canary.min_acked", {"canary": {"share": "1%", "wait": 1, "min_acked": "101%"}}),
        ("quiet.from", {"quiet": {"from": "24:00", "to": "08:00"}}),
        ("quiet.to", {"quiet": {"from": "22:00", "to": "8:00"}}),
        ("quiet", {"quiet": {"from": "22:00", "to": "22:00"}}),
        ("fallback_after", {"fallback_after": "29d"}),
        ("by", {"by": "a\u0000b"}),
        ("by", {"by": "x" * 129}),
        ("", {"ttl": 60, "expires_at": "2999-01-01T00:00:00Z"}),
        ("", {"draft": True, "expires_at": "2999-01-01T00:00:00Z"}),
        ("nonsense", {"nonsense": 1}),
    ],
)
async def test_given_a_field_that_does_not_fit_then_400_names_it(field: str, body: dict[str, Any]) -> None:
    problem = await refused(400, **body)
    assert problem["errors"][0]["field"] == field or (not field and problem["errors"][0]["field"] == "body"), problem


async def test_given_a_products_rate_that_grew_then_it_is_the_bound() -> None:
    world = World()
    world.documents.products["shop"] = Product(name="shop", rate=5000)
    assert (await post(world, rate=5000)).json()["rate"] == 5000


async def test_given_a_cursor_with_a_number_beyond_all_then_400() -> None:
    cursor = cursor_of(int("1" + "0" * 309), "")
    async with World().client() as http:
        assert (await http.get("/v1/broadcasts", params={"cursor": cursor})).status_code == 400
