"""Center's other nouns, its health, its key, its gate, and the document that describes it all."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import time
from typing import Any

import httpx
import pytest
from center_world import World, room
from prometheus_client import generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from infra.register import ClientView, SessionView
from infra.wire import Bind
from schemas.broadcasts import Broadcast
from tests.unit.center_routes import application
from workers.center import app
from workers.center.callers.keycheck import Keys, NoKey
from workers.center.callers.keyring import KeyRing
from workers.center.callers.oidc import ApiTokens
from workers.center.ids import uuid7
from workers.center.readiness import Readiness
from workers.center.web.bodies import Bodies
from workers.center.web.gate import Gate
from workers.center.web.server import HttpServer

SALE = {"product": "shop", "payload": "sale", "groups": ["vip"], "include_new": True}


def unfailing(reason: str) -> None:
    raise AssertionError(reason)


# --- broadcasts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("asked", "kept"), [(100, 100), (None, 500), (500, 500)])
async def test_given_a_broadcast_then_it_is_in_kafka_and_shown_as_accepted(asked: int | None, kept: int) -> None:
    world = World()
    async with world.client() as http:
        response = await http.post("/v1/broadcasts", json={**SALE, "rate": asked, "ttl": "5m"})
        job = response.json()
        shown = (await http.get(response.headers["Location"])).json()
    assert (response.status_code, job["state"], job["rate"]) == (202, "accepted", kept)
    assert job["expires_ms"] - job["accepted_ms"] == 300_000
    assert (shown["id"], shown["state"], shown["rate"], shown["totals"]["sent"]) == (job["id"], "accepted", kept, 0)
    [record] = world.journal.records
    expected = Broadcast(
        id=job["id"], product="shop", groups=("vip",), payload=b"sale", rate=asked or 0, ttl_s=300, include_new=True
    )
    assert record == expected
    assert (world.journal.entries[0].topic, world.journal.entries[0].key) == ("push.broadcasts", "shop")


async def test_given_kafka_is_down_then_503_and_no_job_is_shown() -> None:
    world = World()
    world.journal.down = True
    async with world.client() as http:
        response = await http.post("/v1/broadcasts", json=SALE)
    assert (response.status_code, world.jobs.documents) == (503, {})


@pytest.mark.parametrize("change", [{"rate": 0}, {"rate": "fast"}, {"groups": ["A"]}, {"groups": ["a"] * 65}, {"client": "c"}])
async def test_given_a_bad_broadcast_then_400(change: dict[str, Any]) -> None:
    world = World()
    async with world.client() as http:
        response = await http.post("/v1/broadcasts", json={**SALE, **change})
    assert (response.status_code, world.journal.entries) == (400, [])


async def test_given_an_owners_document_then_it_is_shown_whole() -> None:
    world = World()
    counts = {"sent": 5, "acked": 4}
    document = {
        "job": "j:1",
        "product": "shop",
        "state": "running",
        "rate": 100,
        "progress": 0.5,
        "totals": counts,
        "rooms": [{"room": "r1", "epoch": 7, "slot": 2048, "counts": counts}],
    }
    world.jobs.documents["j:1"] = document
    async with world.client() as http:
        shown = (await http.get("/v1/broadcasts/j:1")).json()
    assert shown.items() >= document.items()
    assert shown["id"] == "j:1"


@pytest.mark.parametrize(("job", "status"), [("none", 404), ("a b", 400), ("x" * 65, 400)])
async def test_given_no_such_broadcast_then_a_problem(job: str, status: int) -> None:
    async with World().client() as http:
        assert (await http.get(f"/v1/broadcasts/{job}")).status_code == status


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/broadcasts", {"product": "shop", "payload": "x", "validate_only": True}),
        ("/v1/messages", {"product": "shop", "payload": "x", "client": "c1", "validate_only": True}),
        ("/v1/messages/batch", {"messages": [{"product": "shop", "payload": "x", "client": "c1", "validate_only": True}]}),
    ],
)
async def test_given_a_request_that_is_only_checked_then_its_200_is_in_the_document(path: str, body: dict[str, Any]) -> None:
    async with World().client() as http:
        answer = await http.post(path, json=body)
        document = (await http.get("/openapi.json")).json()
    assert answer.status_code == 200, answer.text
    assert "200" in document["paths"][path]["post"]["responses"]


# --- clients and rooms -------------------------------------------------------------------------------------------------


async def test_given_a_client_then_session_binds_and_pending_are_shown() -> None:
    world = World()
    bind = Bind("shop", 1, ["vip"], "ann", {"lang": "de"})
    world.clients.views["eu:c1"] = ClientView(SessionView(1, 4, "r1", 7, 9), {"shop": bind}, {"shop": 0, "old": 2, "empty": 0})
    world.rooms.views = [room("r1")]
    async with world.client() as http:
        shown = (await http.get("/v1/clients/c1", params={"realm": "eu"})).json()
    assert abs(shown.pop("last_seen_ms") / 1000 - time.time()) < 60
    assert shown == {
        "client": "c1",
        "realm": "eu",
        "session": {"room": "r1", "epoch": 7, "generation": 1, "number": 4, "connection": 9, "live": True},
        "binds": {"shop": {"qos": 1, "groups": ["vip"], "user": "ann", "attrs": {"lang": "de"}}},
        "pending": {"shop": 0, "old": 2},
    }


async def test_given_a_client_whose_room_is_dead_then_its_session_is_not_live() -> None:
    world = World()
    world.clients.views["main:c1"] = ClientView(SessionView(1, 4, "r1", 6, 9), {}, {})
    world.rooms.views = [room("r1", epoch=7)]
    async with world.client() as http:
        shown = (await http.get("/v1/clients/c1")).json()
    assert (shown["session"]["live"], shown["last_seen_ms"]) == (False, None)


@pytest.mark.parametrize(("left", "last"), [({"shop": 1795880406190, "old": 1795880406180}, 1795880406190), ({}, None)])
async def test_given_a_client_without_a_session_then_it_was_seen_last_when_it_left_if_that_is_known(
    left: dict[str, int], last: int | None
) -> None:
    world = World()
    world.clients.views["main:c1"] = ClientView(None, {}, {}, left)
    async with world.client() as http:
        shown = (await http.get("/v1/clients/c1")).json()
    assert (shown["session"], shown["last_seen_ms"]) == (None, last)


@pytest.mark.parametrize(("path", "status"), [("c2", 404), ("c1?realm=eu", 404), ("c1?realm=EU", 400), ("a{b", 400)])
async def test_given_no_such_client_then_a_problem(path: str, status: int) -> None:
    world = World()
    world.clients.views["main:c1"] = ClientView(None, {}, {})
    async with world.client() as http:
        assert (await http.get(f"/v1/clients/{path}")).status_code == status


@pytest.mark.parametrize(("gone", "status", "asked"), [(0, 204, 1), (1, 204, 2), (9, 404, 3)])
async def test_given_a_kick_then_its_room_is_asked_until_it_has_the_session(gone: int, status: int, asked: int) -> None:
    world = World()
    world.clients.views["eu:phone-1"] = ClientView(SessionView(1, 3, "r1", 7, 9), {}, {})
    world.kicks.gone = gone
    async with world.client() as http:
        response = await http.post("/v1/clients/phone-1/kick?realm=eu", json={"reason": "lost phone"})
    assert (response.status_code, world.kicks.asked) == (status, [("eu:phone-1", "r1", "lost phone")] * asked)


async def test_given_a_kick_of_who_is_not_there_or_with_a_bad_reason_then_a_problem() -> None:
    world = World()
    async with world.client() as http:
        away = await http.post("/v1/clients/phone-1/kick", json={})
        bad = await http.post("/v1/clients/phone-1/kick", json={"reason": "a\u0000b"})
    assert (away.status_code, away.json()["type"]) == (404, "urn:longwire:problem:not-connected")
    assert (bad.status_code, world.kicks.asked) == (400, [])


async def test_given_redis_is_down_then_503_with_retry_after() -> None:
    world = World()
    world.clients.down = True
    async with world.client() as http:
        response = await http.get("/v1/clients/c1")
    assert (response.status_code, response.headers["Retry-After"]) == (503, "2")


async def test_given_live_rooms_then_they_are_listed_with_address_labels_and_counts() -> None:
    world = World()
    world.rooms.views = [room("r1", state="draining")]
    async with world.client() as http:
        [shown] = (await http.get("/v1/rooms")).json()["rooms"]
    assert shown == {
        "room": "r1",
        "epoch": 7,
        "host": "10.0.0.1",
        "port": 1883,
        "labels": {"zone": "a"},
        "state": "draining",
        "connections": 3,
        "bound": {"shop": 2},
    }


# --- health, key, gate -------------------------------------------------------------------------------------------------


async def test_given_no_key_then_health_answers_and_readyz_names_who_is_away_and_metrics_are_elsewhere() -> None:
    world = World()
    async with world.client(key="") as http:
        assert (await http.get("/healthz")).status_code == 200
        assert (await http.get("/readyz")).status_code == 200
        world.health.found = {"kafka": "JournalDown: no answer"}
        ready = await http.get("/readyz")
        assert (ready.status_code, ready.json()["reasons"]) == (503, {"kafka": "can't be used"})
        assert (await http.get("/metrics")).status_code == 401
    assert 'longwire_center_requests_total{route="/readyz",status="503"}' in generate_latest().decode()
    async with world.client() as http:
        assert (await http.get("/metrics")).status_code == 404


async def test_given_probes_then_readiness_has_each_reason_until_it_is_mended() -> None:
    away = {"redis"}

    def probe(name: str) -> Any:
        async def ask() -> None:
            if name in away:
                raise ConnectionError(f"{name} is away")

        return ask

    readiness = Readiness({name: probe(name) for name in ("kafka", "redis")}, fail=unfailing)
    assert set(readiness.reasons()) == {"kafka", "redis"}
    await readiness.start()
    assert readiness.reason() == "redis: ConnectionError: redis is away"
    away.clear()
    await readiness.ask()
    assert readiness.reason() == ""
    await readiness.stop()


def test_given_an_empty_key_then_the_application_is_not_built() -> None:
    with pytest.raises(NoKey, match="LONGWIRE_CENTER__API_KEY"):
        Keys(KeyRing(), ApiTokens(), operator="")


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/v1/nothing", 404), ("DELETE", "/v1/rooms", 405), ("GET", "/docs", 404)]
)
async def test_given_no_such_page_then_a_problem(method: str, path: str, status: int) -> None:
    async with World().client() as http:
        response = await http.request(method, path)
    assert (response.status_code, response.headers["content-type"]) == (status, "application/problem+json")


@pytest.mark.parametrize(
    ("path", "allowed"),
    [("/v1/messages/batch", "POST"), ("/v1/messages/m1", "GET"), ("/v1/products/shop", "DELETE, GET, PATCH, PUT")],
)
async def test_given_a_method_that_a_path_does_not_have_then_405_with_those_that_the_document_has(
    path: str, allowed: str
) -> None:
    async with World().client() as http:
        response = await http.options(path)
    assert (response.status_code, sorted(response.headers["allow"].split(", "))) == (405, sorted(allowed.split(", ")))


async def gated(gate: ASGIApp, *chunks: bytes | None, headers: tuple[tuple[bytes, bytes], ...] = ()) -> Message:
    """Send a request in chunks (None: then silence) and return the answer's start."""
    waiting = list(chunks)
    sent: list[Message] = []

    async def receive() -> Message:
        if waiting and (chunk := waiting.pop(0)) is not None:
            return {"type": "http.request", "body": chunk, "more_body": bool(waiting)}
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Message) -> None:
        sent.append(message)

    await gate({"type": "http", "method": "POST", "path": "/v1/messages", "headers": list(headers)}, receive, send)
    return sent[0]


async def held(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await asyncio.sleep(0.05)
    await send({"type": "http.response.start", "status": 200, "headers": []})


async def test_given_more_requests_than_places_then_503_and_the_places_come_back() -> None:
    gate = Gate(held, max_in_flight=2)
    answers = await asyncio.gather(*(gated(gate, b"") for _ in range(3)))
    assert sorted(answer["status"] for answer in answers) == [200, 200, 503]
    assert (await gated(gate, b""))["status"] == 200


async def test_given_an_asker_that_does_not_read_then_its_request_ends_and_its_place_is_free() -> None:
    gate = Gate(held, max_in_flight=1, send_timeout=0.02)

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def never(message: Message) -> None:
        await asyncio.Event().wait()

    await gate({"type": "http", "method": "GET", "path": "/v1/rooms", "headers": []}, receive, never)
    assert (await gated(gate, b""))["status"] == 200


@pytest.mark.parametrize("path", ["/", "/healthz", "/openapi.json", "/v1/pull/shop"])
async def test_given_a_body_for_what_needs_no_key_then_nobody_waits_for_it(path: str) -> None:
    world = World()
    sent: list[Message] = []

    async def receive() -> Message:
        raise AssertionError("the body was waited for")

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "http", "method": "GET", "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "",
        "headers": [(b"content-length", b"1")], "scheme": "http", "server": ("c", 80), "client": ("127.0.0.1", 1), "state": {},
    }  # fmt: skip
    await application(world.parts)(scope, receive, send)
    assert sent[0]["status"] < 500


CHUNKED = ((b"transfer-encoding", b"chunked"),)


async def test_given_a_body_that_stops_then_408() -> None:
    assert (await gated(Gate(Bodies(held, timeout=0.02)), b"x", None, headers=CHUNKED))["status"] == 408


@pytest.mark.parametrize("length", [b"262145", b"-1", b"9" * 5000, b"x"])
async def test_given_a_declared_length_out_of_bounds_then_413_without_reading(length: bytes) -> None:
    assert (await gated(Gate(Bodies(held)), None, headers=((b"content-length", length),)))["status"] == 413


async def test_given_chunks_over_the_cap_then_413() -> None:
    assert (await gated(Gate(Bodies(held)), *[b"x" * 65_536] * 5, headers=CHUNKED))["status"] == 413


# --- the document ------------------------------------------------------------------------------------------------------


async def test_given_the_document_then_problems_are_described_and_examples_are_accepted() -> None:
    world = World()
    world.documents.products["demo"] = world.documents.products["shop"].model_copy(update={"name": "demo"})
    async with world.client(key="") as http:
        document = (await http.get("/openapi.json")).json()
    assert "HTTPValidationError" not in document["components"]["schemas"]
    operation = document["paths"]["/v1/messages"]["post"]
    assert set(operation["responses"]) == {"200", "202", "400", "401", "403", "404", "408", "409", "413", "429", "503"}
    assert "application/problem+json" in operation["responses"]["400"]["content"]
    assert operation["security"] == [{"bearer": ["send"]}, {"key": ["send"]}]
    assert "security" not in document["paths"]["/v1/dispatch"]["get"]
    async with world.client() as http:
        for path, schema in (("/v1/messages", "Message"), ("/v1/broadcasts", "BroadcastRequest")):
            for example in document["components"]["schemas"][schema]["examples"]:
                assert (await http.post(path, json=example)).status_code == 202


async def test_given_the_page_then_it_lists_every_operation_and_loads_nothing_from_elsewhere() -> None:
    world = World()
    async with world.client(key="") as http:
        page = await http.get("/")
        document = (await http.get("/openapi.json")).json()
    assert all(path in page.text for path in document["paths"])
    assert not re.search(r"<script|https?://|<img|@import", page.text)
    assert "default-src 'none'" in page.headers["content-security-policy"]


# --- the server --------------------------------------------------------------------------------------------------------


async def test_given_port_0_then_it_serves_on_the_kernels_port_until_it_is_stopped() -> None:
    server = HttpServer(app.build(World().parts, version="0.0.0"), host="127.0.0.1", port=0, fail=unfailing)
    await server.start()
    async with httpx.AsyncClient(base_url=server.url) as http:
        assert json.loads((await http.get("/healthz")).text)["status"] == "ok"
    url = server.url
    await server.stop()
    async with httpx.AsyncClient(base_url=url) as http:
        with pytest.raises(httpx.ConnectError):
            await http.get("/healthz")


async def test_given_a_taken_port_then_the_error_names_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = HttpServer(app.build(World().parts, version="0.0.0"), host="127.0.0.1", port=port, fail=unfailing)
        with pytest.raises(OSError, match=f"127.0.0.1:{port}"):
            await server.start()
        await server.stop()


def test_given_a_time_then_a_uuid7_carries_it_and_sorts_by_it() -> None:
    first, second = uuid7(1_645_557_742_000, b"\xff" * 10), uuid7(1_645_557_742_001, b"\0" * 10)
    assert str(first) == "017f22e2-79b0-7fff-bfff-ffffffffffff"
    assert (first.version, second.version, first < second) == (7, 7, True)
