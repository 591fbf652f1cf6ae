"""A broadcast as server-sent events, over a real socket; and its audit."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
from center_world import KEY, World

from schemas.broadcasts import Audit
from tests.unit.center_routes import application
from workers.center.callers.auth import Role
from workers.center.callers.limits import limited
from workers.center.web.server import HttpServer
from workers.center.web.streams import Streams


def unfailing(reason: str) -> None:
    raise AssertionError(reason)


@asynccontextmanager
async def served(world: World) -> AsyncIterator[httpx.AsyncClient]:
    """Its application on a socket: an answer that goes on can't be had in process."""
    server = HttpServer(application(world.parts), host="127.0.0.1", port=0, fail=unfailing)
    await server.start()
    try:
        async with httpx.AsyncClient(base_url=server.url, headers={"X-API-Key": KEY}, timeout=10) as http:
            yield http
    finally:
        await world.streams.stop()
        await server.stop()


def running(sent: int, **more: Any) -> dict[str, Any]:
    return {"job": "j1", "product": "shop", "state": "running", "rate": 10, "totals": {"sent": sent}, **more}


async def next_event(lines: AsyncIterator[str]) -> dict[str, Any]:
    """The next event's document, over comments."""
    async with asyncio.timeout(5):
        async for line in lines:
            if line.startswith("data: "):
                found: dict[str, Any] = json.loads(line[6:])
                return found
    raise AssertionError("the stream ended")


async def eventually_free(world: World, places: int) -> None:
    async with asyncio.timeout(5):
        while True:
            if world.streams.free == places:
                return
            await asyncio.sleep(0.01)


async def test_given_a_job_then_each_change_is_an_event_until_it_is_over() -> None:
    world = World()
    world.jobs.put(**running(1, eta_s=9.5, priority=2))
    async with served(world) as http, http.stream("GET", "/v1/broadcasts/j1/events") as answer:
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert answer.headers["cache-control"] == "no-store"
        lines = answer.aiter_lines()
        first = await next_event(lines)
        assert (first["id"], first["totals"], first["eta_s"], first["priority"]) == ("j1", {"sent": 1}, 9.5, "low")
        world.jobs.put(**running(2))
        assert (await next_event(lines))["totals"] == {"sent": 2}
        world.jobs.put(**running(2, state="cancelled"))
        assert (await next_event(lines))["state"] == "cancelled"
        async with asyncio.timeout(5):
            assert [line async for line in lines if not line.startswith(":")] == [""]
        await eventually_free(world, 2)


async def test_given_a_job_that_is_over_then_the_stream_is_one_event() -> None:
    world = World()
    world.jobs.put(**running(5, state="expired"))
    async with served(world) as http:
        text = (await http.get("/v1/broadcasts/j1/events")).text
    assert text.count("event: job\n") == 1
    assert text.startswith("retry: ")


async def test_given_nothing_new_then_comments_keep_the_stream_open() -> None:
    world = World()
    world.jobs.put(**running(1))
    async with served(world) as http, http.stream("GET", "/v1/broadcasts/j1/events") as answer:
        lines = answer.aiter_lines()
        await next_event(lines)
        world.jobs.put(**running(1))
        async with asyncio.timeout(5):
            seen = [await anext(lines) for _ in range(6)]
    assert sum(line == ": nothing new" for line in seen) >= 2
    assert not any(line.startswith("data") for line in seen), "an event without a change"


async def test_given_as_many_streams_as_may_be_then_429_until_one_leaves() -> None:
    world = World()
    world.jobs.put(**running(1))
    async with served(world) as http:
        async with http.stream("GET", "/v1/broadcasts/j1/events") as one, http.stream("GET", "/v1/broadcasts/j1/events") as two:
            await next_event(one.aiter_lines())
            await next_event(two.aiter_lines())
            refused = await http.get("/v1/broadcasts/j1/events")
            assert (refused.status_code, refused.json()["type"]) == (429, "urn:longwire:problem:too-many-streams")
            assert refused.headers["retry-after"] == "30"
        await eventually_free(world, 2)
        async with http.stream("GET", "/v1/broadcasts/j1/events") as again:
            assert again.status_code == 200


async def test_given_a_key_with_as_many_streams_as_it_may_have_then_429_for_it_and_another_watches() -> None:
    world = World()
    world.jobs.put(**running(1))
    world.streams = Streams(most=2, of_one=1, keep_alive=0.02)
    one, two = ({"X-API-Key": world.key(Role.READ)} for _ in range(2))
    before = limited.labels("streams")._value.get()
    async with served(world) as http, http.stream("GET", "/v1/broadcasts/j1/events", headers=one) as first:
        await next_event(first.aiter_lines())
        refused = await http.get("/v1/broadcasts/j1/events", headers=one)
        assert (refused.status_code, refused.json()["type"]) == (429, "urn:longwire:problem:too-many-at-once")
        assert int(refused.headers["retry-after"]) > 0
        async with http.stream("GET", "/v1/broadcasts/j1/events", headers=two) as second:
            assert (await next_event(second.aiter_lines()))["id"] == "j1"
    assert limited.labels("streams")._value.get() == before + 1


async def test_given_a_stop_then_streams_end_at_once() -> None:
    world = World()
    world.jobs.put(**running(1))
    async with served(world) as http, http.stream("GET", "/v1/broadcasts/j1/events") as answer:
        lines = answer.aiter_lines()
        await next_event(lines)
        await world.streams.stop()
        async with asyncio.timeout(1):
            assert not [line async for line in lines if line.startswith("data")]


async def test_given_no_such_job_then_404_and_no_stream() -> None:
    async with World().client() as http:
        assert (await http.get("/v1/broadcasts/none/events")).status_code == 404
        assert (await http.get("/v1/broadcasts/none/audit")).status_code == 404


async def test_given_an_audit_then_it_is_listed_newest_last() -> None:
    world = World()
    world.jobs.put(**running(1))

    def audit(action: str, at_ms: int, **more: Any) -> Audit:
        return Audit(product="shop", subject="j1", action=action, by="ann", at_ms=at_ms, before="running", after="paused", **more)

    world.trail.records = [audit("pause", 1, reason="a wrong link"), audit("resume", 2)]
    async with world.client() as http:
        found = (await http.get("/v1/broadcasts/j1/audit")).json()
    assert [(each["action"], each["at_ms"], each["reason"]) for each in found["records"]] == [
        ("pause", 1, "a wrong link"),
        ("resume", 2, None),
    ]
    assert (found["id"], found["whole"], found["records"][0]["by"]) == ("j1", True, "ann")
