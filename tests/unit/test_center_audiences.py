"""Explicit lists as they are uploaded: streamed, in three forms, sealed or refused whole, with what is bad by its line."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

import pytest
from center_world import World
from starlette.types import Message, Receive, Scope, Send

from schemas import codec
from schemas.broadcasts import MAX_AUDIENCE, MAX_CHUNK, AudienceChunk
from tests.unit.center_routes import application
from workers.center.callers.auth import OPERATOR, Caller
from workers.center.campaigns import uploads
from workers.center.campaigns.uploads import Slots, Upload
from workers.center.web.bodies import MAX_BODY, Bodies, Streamed
from workers.center.web.gate import Gate
from workers.center.web.problems import Problem

PLAIN = {"Content-Type": "text/plain; charset=utf-8"}


async def put(world: World, body: Any, *, audience: str = "vips", headers: dict[str, str] = PLAIN, **params: Any) -> Any:
    async with world.client() as http:
        return await http.put(
            f"/v1/audiences/{audience}", content=body, headers=headers, params={"product": "shop", **params}, timeout=60
        )


async def shown(world: World, audience: str = "vips", product: str = "shop") -> Any:
    async with world.client() as http:
        return await http.get(f"/v1/audiences/{audience}", params={"product": product})


def chunks(world: World) -> list[AudienceChunk]:
    return [record for record in world.journal.records if isinstance(record, AudienceChunk)]


async def pieces(parts: Iterable[bytes]) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def test_given_a_list_when_uploaded_then_its_ids_are_in_order_in_chunks_of_one_key_and_the_last_one_seals():
    world = World()
    ids = [f"phone-{i}" for i in range(2 * MAX_CHUNK + 7)]
    response = await put(world, "\n".join(ids), realm="eu")
    assert (response.status_code, response.json()) == (
        201, {"audience": "vips", "clients": len(ids), "chunks": 3, "bad": [], "bad_count": 0},
    )  # fmt: skip
    found = chunks(world)
    assert [client for chunk in found for client in chunk.clients] == ids
    assert [(chunk.number, chunk.sealed, chunk.realm) for chunk in found] == [(0, None, "eu"), (1, None, "eu"), (2, 2007, "eu")]
    assert len({chunk.upload for chunk in found}) == 1
    assert {(entry.topic, entry.key) for entry in world.journal.entries} == {("push.audiences", "shop/vips")}
    assert (await shown(world)).json() == {
        "audience": "vips", "product": "shop", "realm": "eu", "sealed": True, "clients": 2007, "chunks": 3,
    }  # fmt: skip


async def test_given_a_body_beyond_the_gates_cap_when_streamed_then_it_is_taken_piece_by_piece():
    world = World()
    line = b"x" * 120 + b"%07d\n"
    count = 4 * MAX_BODY // len(line)
    response = await put(world, pieces(line % i for i in range(count)))
    assert (response.status_code, response.json()["clients"]) == (201, count)
    assert max(len(codec.encode(chunk)) for chunk in chunks(world)) < MAX_BODY


@pytest.mark.parametrize(
    ("media_type", "body"),
    [
        ("application/x-ndjson", b'"a"\n{"client": "b"}\n"a"\n'),
        ("text/csv", b"client,name\na,Ann\nb,\na,\n"),
        ("TEXT/PLAIN", b"a\nb\na"),
    ],
)
async def test_given_each_form_when_uploaded_then_a_repeat_within_a_chunk_is_there_once(media_type: str, body: bytes):
    world = World()
    response = await put(world, body, headers={"Content-Type": media_type})
    assert (response.status_code, response.json()["clients"]) == (201, 2)
    assert chunks(world)[0].clients == ("a", "b")


async def test_given_bad_lines_when_uploaded_then_they_are_told_by_number_and_nothing_can_be_used():
    world = World()
    lines = [f"c{i}" if i % 10 else "not an id" for i in range(2_000)]
    response = await put(world, "\n".join(lines))
    problem = response.json()
    assert (response.status_code, problem["type"], problem["bad_count"]) == (400, "urn:longwire:problem:bad-lines", 200)
    assert [each["line"] for each in problem["bad"]] == [1 + 10 * i for i in range(100)]
    assert "does not fit" in problem["bad"][0]["reason"]
    assert "200 lines give no id (line 1: client 'not an id'" in problem["detail"]
    assert "and 197 more" in problem["detail"]
    assert all(chunk.sealed is None for chunk in chunks(world))
    assert (await shown(world)).status_code == 404


async def test_given_bad_lines_and_a_wish_to_keep_the_good_when_uploaded_then_the_good_ones_are_the_audience():
    world = World()
    response = await put(world, "a\nnot an id\nb\n", keep_good="true")
    told = response.json()
    assert (response.status_code, told["clients"], told["bad_count"]) == (201, 2, 1)
    assert told["bad"][0]["line"] == 2
    assert chunks(world)[0].clients == ("a", "b")


@pytest.mark.parametrize(
    ("body", "headers", "params", "status", "words"),
    [
        ("", PLAIN, {}, 400, "has no id"),
        ("\n\n", PLAIN, {}, 400, "has no id"),
        ("bad id", PLAIN, {"keep_good": "true"}, 400, "has no id"),
        ("a", {"Content-Type": "application/json"}, {}, 400, "application/x-ndjson, text/csv, text/plain"),
        ("a", {}, {}, 400, "Content-Type"),
        ("a", {**PLAIN, "Content-Encoding": "gzip"}, {}, 400, "Content-Encoding"),
        ("a", PLAIN, {"product": "nobody"}, 404, "nobody"),
        ("a", PLAIN, {"product": "No"}, 400, "product"),
        ("a", PLAIN, {"realm": "No"}, 400, "realm"),
        ("a", PLAIN, {"audience": "no*id"}, 400, "id"),
        ("a", {**PLAIN, "Content-Length": "2147483649"}, {}, 413, "2147483648"),
    ],
)
async def test_given_a_bad_upload_then_a_problem_and_nothing_in_kafka(body, headers, params, status, words):
    world = World()
    response = await put(world, body, headers=headers, **params)
    assert (response.status_code, world.journal.entries) == (status, [])
    assert words in response.json()["detail"]


async def test_given_a_sealed_audience_when_uploaded_again_then_409_and_it_stays_and_another_product_has_its_own():
    world = World()
    await put(world, "a")
    again = await put(world, "b\nc")
    assert (again.status_code, len(world.journal.entries)) == (409, 1)
    assert "has 1 ids and stays as it is" in again.json()["detail"]
    world.documents.products["other"] = world.documents.products["shop"].model_copy(update={"name": "other"})
    assert (await shown(world, product="other")).status_code == 404
    assert (await put(world, "b", product="other")).status_code == 201


async def test_given_kafka_away_midway_when_uploaded_then_503_and_a_new_upload_is_the_audience():
    world = World()

    async def broken() -> AsyncIterator[bytes]:
        yield b"".join(b"a%d\n" % i for i in range(MAX_CHUNK))
        world.journal.down = True
        yield b"".join(b"b%d\n" % i for i in range(MAX_CHUNK))

    response = await put(world, broken())
    assert (response.status_code, "Retry-After" in response.headers) == (503, True)
    world.journal.down = False
    assert (await shown(world)).json()["sealed"] is False
    assert (await put(world, "c")).status_code == 201
    assert (await shown(world)).json()["clients"] == 1


async def test_given_another_process_that_seals_first_when_uploaded_then_the_later_one_hears_of_it():
    world = World()

    async def raced() -> AsyncIterator[bytes]:
        yield b"a\n"
        other = Upload(world.journal, audience="vips", product="shop", realm="main")
        await other.add(["z"])
        await other.seal()

    response = await put(world, raced())
    assert (response.status_code, (await shown(world)).json()["clients"]) == (409, 1)
    assert "at the same time" in response.json()["detail"]


async def test_given_uploads_at_a_time_then_each_audience_once_and_no_more_than_so_many():
    slots = Slots(most=2)
    with slots.take(OPERATOR, "p", "a"):
        with pytest.raises(Problem) as twice, slots.take(OPERATOR, "p", "a"):
            pass
        with slots.take(OPERATOR, "q", "a"), pytest.raises(Problem) as busy, slots.take(OPERATOR, "p", "b"):
            pass
        with slots.take(OPERATOR, "p", "b"):
            pass
    assert (twice.value.status, busy.value.status) == (409, 503)


async def test_given_a_key_that_uploads_as_much_as_it_may_then_429_for_it_and_another_goes_on():
    slots, (one, two) = Slots(), (Caller(key=key, products=None, roles=frozenset(), rate=1) for key in ("k1", "k2"))
    with slots.take(one, "p", "a"), slots.take(one, "p", "b"):
        with pytest.raises(Problem) as refused, slots.take(one, "p", "c"):
            pass
        with slots.take(two, "p", "c"), slots.take(two, "p", "d"):
            pass
    with slots.take(one, "p", "c"):
        pass
    assert (refused.value.status, "Retry-After" in refused.value.headers) == (429, True)


async def test_given_more_ids_than_an_audience_may_have_then_413(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(uploads, "MAX_AUDIENCE", 2_500)
    world = World()
    response = await put(world, "\n".join(f"c{i}" for i in range(5_000)))
    assert (response.status_code, all(chunk.sealed is None for chunk in chunks(world))) == (413, True)
    assert MAX_AUDIENCE == 10_000_000


# --- broadcasts to them ------------------------------------------------------------------------------------------------


async def send(world: World, **fields: Any) -> Any:
    body = {"product": "shop", "payload": "sale", "audience": "vips", **fields}
    async with world.client() as http:
        return await http.post("/v1/broadcasts", json=body)


async def test_given_a_sealed_audience_when_a_broadcast_names_it_then_it_is_accepted():
    world = World()
    await put(world, "a\nb")
    response = await send(world)
    assert response.status_code == 202
    assert getattr(world.journal.records[-1], "audience", None) == "vips"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"audience": "others"}, "has no audience others: upload it first"),
        ({"realm": "eu"}, "clients of realm main, the broadcast is for realm eu"),
        ({"groups": ["g"], "sample": "5%"}, "leave out groups, a sample, or the audience"),
    ],
)
async def test_given_an_audience_that_cant_be_used_when_a_broadcast_names_it_then_400_and_nothing_is_sent(fields, words):
    world = World()
    await put(world, "a\nb")
    response = await send(world, **fields)
    assert (response.status_code, len(world.journal.entries)) == (400, 1)
    assert words in response.json()["detail"]


async def test_given_an_audience_that_cant_be_looked_for_when_a_broadcast_names_it_then_its_owner_decides():
    world = World()
    world.audiences.down = True
    assert (await send(world)).status_code == 202


# --- the gate ----------------------------------------------------------------------------------------------------------


async def through(gate: Gate, parts: list[tuple[float, bytes]], *, path: str = "/s/x", method: str = "PUT") -> int:
    """The status of a request whose body comes in these pieces, each after so many seconds."""
    status = 0
    left = list(parts)

    async def receive() -> Message:
        seconds, body = left.pop(0)
        await asyncio.sleep(seconds)
        return {"type": "http.request", "body": body, "more_body": bool(left)}

    async def send(message: Message) -> None:
        nonlocal status
        status = message.get("status", status)

    await gate({"type": "http", "method": method, "path": path, "headers": [(b"transfer-encoding", b"chunked")]}, receive, send)
    return status


async def reader(scope: Scope, receive: Receive, send: Send) -> None:
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


@pytest.mark.parametrize(
    ("parts", "more", "status"),
    [
        ([(0.0, b"x" * MAX_BODY)] * 3, {}, 200),
        ([(0.0, b"x" * MAX_BODY)] * 5, {}, 413),
        ([(0.0, b"x" * MAX_BODY)] * 3, {"path": "/other"}, 413),
        ([(0.0, b"x" * MAX_BODY)] * 3, {"method": "POST"}, 413),
        ([(0.1, b"x")] * 4, {}, 200),
        ([(0.3, b"x")], {}, 408),
        ([(0.15, b"x")] * 8, {}, 408),
    ],
)
async def test_given_a_streamed_body_then_its_size_its_pauses_and_its_time_are_bounded(parts, more, status):
    gate = Gate(Bodies(reader, streamed=Streamed("PUT", "/s/", 4 * MAX_BODY, 1.0), timeout=0.25))
    assert await through(gate, parts, **more) == status


async def test_given_no_api_key_then_401_before_any_of_the_body_is_read():
    world = World()
    gate = application(world.parts)

    async def receive() -> Message:
        raise AssertionError("the body was read")

    found: list[int] = []

    async def send(message: Message) -> None:
        found.append(message.get("status", 0))

    scope = {"type": "http", "method": "PUT", "path": "/v1/audiences/a", "headers": [], "query_string": b"product=shop"}
    await gate(scope, receive, send)
    assert found[0] == 401
