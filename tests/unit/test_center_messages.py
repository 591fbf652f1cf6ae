"""POST /v1/messages: what is accepted, and what is refused and how."""

from __future__ import annotations

import base64
import json
from typing import Any
from uuid import UUID

import pytest
from center_world import KEY, World

from schemas.records import PushMessage
from workers.center.web.bodies import MAX_BODY

GOOD = {"product": "shop", "client": "phone-1", "payload": "hello"}


async def post(world: World, body: Any, **headers: str) -> Any:
    async with world.client() as http:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await http.post("/v1/messages", content=content, headers={"Content-Type": "application/json", **headers})


def only(world: World) -> PushMessage:
    [record] = world.journal.records
    assert isinstance(record, PushMessage)
    return record


async def test_given_the_least_then_it_is_in_kafka_under_the_clients_key_with_a_uuid7() -> None:
    world = World()
    response = await post(world, GOOD)
    assert response.status_code == 202
    record = only(world)
    assert response.json() == {"id": record.id}
    assert UUID(record.id).version == 7
    assert (world.journal.entries[0].topic, world.journal.entries[0].key) == ("push.messages", "phone-1")
    assert (record.client, record.user, record.payload, record.qos, record.priority, record.ttl_s) == (
        "phone-1",
        None,
        b"hello",
        1,
        1,
        None,
    )


async def test_given_every_field_then_every_field_is_in_the_record() -> None:
    world = World()
    body = {
        "product": "shop",
        "realm": "eu",
        "user": "ann",
        "payload_base64": base64.b64encode(b"\x00\xff").decode(),
        "qos": 0,
        "ttl": "1.5s",
        "priority": "high",
        "collapse_key": "score",
        "group": "news",
        "content_type": "text/plain",
        "correlation_base64": "AQI=",
        "properties": {"k": "ü"},
        "id": "my-id",
    }
    assert (await post(world, body)).json() == {"id": "my-id"}
    assert only(world) == PushMessage(
        id="my-id",
        product="shop",
        user="ann",
        realm="eu",
        payload=b"\x00\xff",
        qos=0,
        priority=0,
        ttl_s=2,
        collapse_key="score",
        group="news",
        content_type="text/plain",
        correlation=b"\x01\x02",
        properties={"k": "ü"},
    )


async def test_given_one_idempotency_key_then_one_id_and_another_product_another_id() -> None:
    world = World()
    world.documents.products["other"] = world.documents.products["shop"].model_copy(update={"name": "other"})
    bodies = [GOOD, GOOD, {**GOOD, "product": "other"}]
    ids = [(await post(world, body, **{"Idempotency-Key": "order 17"})).json()["id"] for body in bodies]
    assert ids[0] == ids[1] != ids[2]


async def test_given_validate_only_then_200_and_nothing_is_stored() -> None:
    world = World()
    response = await post(world, {**GOOD, "validate_only": True})
    assert (response.status_code, world.journal.entries) == (200, [])


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"product": "Shop!"}, "product"),
        ({"client": "a{b"}, "client"),
        ({"client": "a" * 129}, "client"),
        ({"client": None, "user": "x\r\n"}, "user"),
        ({"user": "ann"}, "body"),
        ({"client": None}, "body"),
        ({"qos": 2}, "qos"),
        ({"qos": "high"}, "qos"),
        ({"ttl": 0}, "ttl"),
        ({"ttl": "10 parsecs"}, "ttl"),
        ({"ttl": 29 * 86_400}, "ttl"),
        ({"ttl": True}, "ttl"),
        ({"fallback_after": 0}, "fallback_after"),
        ({"fallback_after": -5}, "fallback_after"),
        ({"fallback_after": "later"}, "fallback_after"),
        ({"fallback_after": 29 * 86_400}, "fallback_after"),
        ({"priority": "urgent"}, "priority"),
        ({"collapse_key": "a b"}, "collapse_key"),
        ({"group": "UP"}, "group"),
        ({"content_type": "x" * 129}, "content_type"),
        ({"properties": {"a": 1}}, "properties.a"),
        ({"properties": {str(i): "" for i in range(17)}}, "properties"),
        ({"properties": {"\ud800": ""}}, "properties"),
        ({"properties": {"a": "\ud800"}}, "properties.a"),
        ({"content_type": "\ud800"}, "content_type"),
        ({"client": "\ud800"}, "client"),
        ({"payload": "\ud800"}, "payload"),
        ({"payload": None}, "body"),
        ({"payload_base64": "AA=="}, "body"),
        ({"payload": None, "payload_base64": "no base64"}, "payload_base64"),
        ({"correlation_base64": "ü"}, "correlation_base64"),
        ({"id": "a/b"}, "id"),
        ({"colour": "red"}, "colour"),
        ({"\ud800": "red"}, "body"),
    ],
)
async def test_given_a_field_out_of_bounds_then_400_names_field_value_and_bound(change: dict[str, Any], field: str) -> None:
    world = World()
    response = await post(world, {**GOOD, **change})
    assert (response.status_code, response.headers["content-type"]) == (400, "application/problem+json")
    problem = response.json()
    assert problem["type"] == "urn:longwire:problem:bad-input"
    assert problem["errors"][0]["field"].startswith(field)
    assert problem["errors"][0]["bound"]
    assert world.journal.entries == []


@pytest.mark.parametrize(
    "change",
    [
        {"properties": {"id": "x"}},
        {"properties": {"a": "x" * 5000}},
        {"properties": {"a": "\0"}},
        {"content_type": "\0"},
        {"correlation_base64": base64.b64encode(b"x" * 1025).decode()},
    ],
)
async def test_given_what_only_the_record_refuses_then_400_says_the_bound(change: dict[str, Any]) -> None:
    response = await post(World(), {**GOOD, **change})
    assert (response.status_code, response.json()["type"]) == (400, "urn:longwire:problem:bad-input")


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"ttl": NaN}', b'{"qos": ' + b"9" * 5000 + b"}", b"[" * 100_000, b'"\\ud800"'],
)
async def test_given_no_object_then_400(body: bytes) -> None:
    response = await post(World(), body)
    assert (response.status_code, response.headers["content-type"]) == (400, "application/problem+json")


@pytest.mark.parametrize("value", [b"NaN", b"Infinity", b"1e999", b"-1"])
async def test_given_a_ttl_that_is_no_number_of_seconds_then_400(value: bytes) -> None:
    response = await post(World(), b'{"product": "shop", "client": "c", "payload": "", "ttl": ' + value + b"}")
    assert response.json()["errors"][0]["field"] == "ttl"


async def test_given_another_content_type_then_400_or_415_but_no_500() -> None:
    response = await post(World(), GOOD, **{"Content-Type": "text/plain"})
    assert response.status_code in (400, 415)


async def test_given_an_unknown_product_then_404() -> None:
    response = await post(World(), {**GOOD, "product": "nobody"})
    assert (response.status_code, response.json()["type"]) == (404, "urn:longwire:problem:unknown-product")


async def test_given_a_payload_over_the_products_bound_then_413_with_both_numbers() -> None:
    response = await post(World(), {**GOOD, "payload": "x" * 1001})
    assert response.status_code == 413
    assert "1001" in response.json()["detail"]
    assert "1000" in response.json()["detail"]


async def test_given_a_body_over_the_cap_then_413_before_it_is_understood() -> None:
    response = await post(World(), b" " * (MAX_BODY + 1))
    assert (response.status_code, response.json()["type"]) == (413, "urn:longwire:problem:too-large")


async def test_given_kafka_is_down_then_503_with_retry_after_and_the_id_to_repeat_by() -> None:
    world = World()
    world.journal.down = True
    response = await post(world, GOOD)
    assert (response.status_code, response.headers["Retry-After"]) == (503, "2")
    again = response.json()["id"]
    world.journal.down = False
    assert (await post(world, {**GOOD, "id": again})).json() == {"id": again}


async def test_given_a_key_with_the_same_body_then_the_same_id_and_with_another_body_409_and_nothing_is_stored() -> None:
    world = World()
    first = await post(world, GOOD, **{"Idempotency-Key": "order 17"})
    spaced = json.dumps(GOOD, indent=2).encode()  # the same document in other bytes
    again = await post(world, spaced, **{"Idempotency-Key": "order 17"})
    other = await post(world, {**GOOD, "payload": "bye"}, **{"Idempotency-Key": "order 17"})
    assert (first.status_code, again.status_code, other.status_code) == (202, 202, 409)
    assert first.json() == again.json()
    assert other.json()["type"].endswith("key-reused")
    assert len(world.journal.records) == 2


async def test_given_redis_away_then_a_key_is_not_compared_and_the_message_is_accepted_under_its_id() -> None:
    world = World()
    world.keys.down = True
    ids = [(await post(world, {**GOOD, "payload": text}, **{"Idempotency-Key": "k"})).json()["id"] for text in ("a", "b")]
    assert ids[0] == ids[1]


async def test_given_kafka_known_to_be_down_then_503_without_asking_it() -> None:
    world = World()
    world.health.found = {"kafka": "no answer"}
    response = await post(world, GOOD, **{"Idempotency-Key": "k"})
    assert (response.status_code, world.journal.entries) == (503, [])
    assert response.json()["id"].startswith("k-")


@pytest.mark.parametrize("key", ["", "x" * 256])
async def test_given_an_idempotency_key_out_of_bounds_then_400(key: str) -> None:
    response = await post(World(), GOOD, **{"Idempotency-Key": key})
    assert response.json()["errors"][0]["field"] == "Idempotency-Key"


async def test_given_an_id_and_an_idempotency_key_then_400() -> None:
    assert (await post(World(), {**GOOD, "id": "a"}, **{"Idempotency-Key": "b"})).status_code == 400


@pytest.mark.parametrize("headers", [{}, {"X-API-Key": "wrong"}, {"Authorization": "Bearer"}, {"Authorization": f"Basic {KEY}"}])
async def test_given_no_right_key_then_401_whatever_the_body(headers: dict[str, str]) -> None:
    world = World()
    async with world.client(key="") as http:
        response = await http.post("/v1/messages", content=b"{", headers=headers)
    assert (response.status_code, response.json()["type"]) == (401, "urn:longwire:problem:unauthorized")
    assert "WWW-Authenticate" in response.headers


async def test_given_the_key_as_bearer_then_it_is_taken() -> None:
    async with World().client(key="") as http:
        response = await http.post("/v1/messages", json=GOOD, headers={"Authorization": f"bearer {KEY}"})
    assert response.status_code == 202


async def test_given_a_fallback_then_the_record_has_whole_seconds() -> None:
    world = World()
    assert (await post(world, {**GOOD, "ttl": "1h", "fallback_after": "90.5s"})).status_code == 202
    assert only(world).fallback_after_s == 91


@pytest.mark.parametrize(
    ("change", "detail"),
    [
        ({"fallback_after": "2h", "ttl": "1h"}, "fallback_after_s 7200 is longer than the time to live, 3600 s"),
        ({"fallback_after": "61s"}, "fallback_after_s 61 is longer than the time to live, 60 s"),  # the product's
        ({"fallback_after": "10s", "qos": 0}, "fallback_after_s at QoS 0: what is never stored can't be handed over"),
    ],
)
async def test_given_a_fallback_that_would_never_come_then_400_says_why(change: dict[str, Any], detail: str) -> None:
    world = World()
    response = await post(world, {**GOOD, **change})
    assert (response.status_code, response.json()["detail"]) == (400, detail)
    assert world.journal.entries == []
