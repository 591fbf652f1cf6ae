"""POST /v1/projects/{product}/messages:send: FCM's bodies and what becomes of them, and refusals in Google's shape."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from center_world import World

from schemas.broadcasts import Broadcast
from schemas.codes import PLACES
from schemas.records import PushMessage
from workers.center.web.bodies import MAX_BODY

SEND = "/v1/projects/shop/messages:send"
TOKEN = {"token": "phone-1"}


async def post(world: World, body: Any, *, path: str = SEND, key: str | None = None, **headers: str) -> Any:
    bearer = {"Authorization": f"Bearer {key}"} if key is not None else {}
    async with world.client(**({"key": ""} if key is not None else {})) as http:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await http.post(path, content=content, headers={"Content-Type": "application/json", **bearer, **headers})


async def sent(message: dict[str, Any]) -> Any:
    world = World()
    response = await post(world, {"message": message})
    assert response.status_code == 200, response.text
    [record] = world.journal.records
    assert response.json() == {"name": f"projects/shop/messages/{record.id}"}  # type: ignore[union-attr]
    return record


async def refused(message: Any, *, world: World | None = None) -> dict[str, Any]:
    world = world or World()
    response = await post(world, {"message": message})
    assert not world.journal.records
    error: dict[str, Any] = response.json()["error"]
    assert error["code"] == response.status_code
    return error


def detail(error: dict[str, Any], name: str) -> dict[str, Any]:
    """The detail of a type, by the last word of its name."""
    [found] = [each for each in error["details"] if each["@type"].endswith(name)]
    return found


def fields(error: dict[str, Any]) -> list[str]:
    return [each["field"] for each in detail(error, ".BadRequest")["fieldViolations"]]


async def test_given_a_token_then_the_client_gets_notification_and_data_as_json() -> None:
    shown, data = {"title": "Grüße", "body": "at the door", "image": "https://shop.example/p.png"}, {"parcel": "4711"}
    record = await sent({**TOKEN, "notification": shown, "data": data})
    assert isinstance(record, PushMessage)
    assert (record.client, record.user, record.qos, record.priority, record.ttl_s) == ("phone-1", None, 1, 1, None)
    assert record.content_type == "application/json"
    assert json.loads(record.payload) == {"notification": shown, "data": data}
    assert "Grüße".encode() in record.payload


@pytest.mark.parametrize(
    ("parts", "payload"),
    [({}, b"{}"), ({"data": {}}, b'{"data":{}}'), ({"notification": {"body": "x"}}, b'{"notification":{"body":"x"}}')],
)
async def test_given_parts_that_are_left_out_then_they_are_left_out_of_the_payload(parts: Any, payload: bytes) -> None:
    assert (await sent({**TOKEN, **parts})).payload == payload


@pytest.mark.parametrize(
    ("android", "ttl_s", "qos", "priority", "key"),
    [
        ({"ttl": "3600s", "priority": "high", "collapse_key": "score"}, 3600, 1, 0, "score"),
        ({"ttl": "3.5s", "priority": "NORMAL", "collapseKey": "score"}, 4, 1, 1, "score"),
        ({"ttl": "2419200s"}, 2_419_200, 1, 1, None),
        ({"ttl": "0s"}, None, 0, 1, None),
        ({"ttl": "0.0s", "priority": "HIGH"}, None, 0, 0, None),
        ({"ttl": "0.000000001s"}, 1, 1, 1, None),
    ],
)
async def test_given_androids_options_then_they_hold(android: Any, ttl_s: Any, qos: int, priority: int, key: str | None) -> None:
    record = await sent({**TOKEN, "android": android})
    assert (record.ttl_s, record.qos, record.priority, record.collapse_key) == (ttl_s, qos, priority, key)


@pytest.mark.parametrize(
    ("platforms", "priority", "key"),
    [
        ({"apns": {"headers": {"apns-priority": "10", "apns-collapse-id": "a"}}}, 0, "a"),
        ({"apns": {"headers": {"APNS-Priority": "5"}}}, 1, None),
        ({"apns": {"headers": {"apns-priority": "1"}}}, 2, None),
        ({"webpush": {"headers": {"Urgency": "high", "Topic": "w"}}}, 0, "w"),
        ({"webpush": {"headers": {"urgency": "very-low"}}}, 2, None),
        ({"webpush": {"headers": {"Urgency": "low"}}, "apns": {"headers": {"apns-priority": "10"}}}, 0, None),
        ({"webpush": {"headers": {"Urgency": "low", "Topic": "w"}}, "apns": {}, "android": {"priority": "high"}}, 0, "w"),
    ],
)
async def test_given_several_platforms_then_of_each_option_the_first_that_says_it_counts(
    platforms: Any, priority: int, key: str | None
) -> None:
    record = await sent({**TOKEN, **platforms})
    assert (record.priority, record.collapse_key) == (priority, key)


async def test_given_times_in_the_words_of_apns_and_web_push_then_they_are_seconds_from_now() -> None:
    until = int(time.time()) + 600
    assert 590 <= (await sent({**TOKEN, "apns": {"headers": {"apns-expiration": str(until)}}})).ttl_s <= 600
    assert (await sent({**TOKEN, "webpush": {"headers": {"TTL": "60"}}})).ttl_s == 60
    for headers in ({"apns": {"headers": {"apns-expiration": "0"}}}, {"webpush": {"headers": {"TTL": "0"}}}):
        record = await sent({**TOKEN, **headers})
        assert (record.qos, record.ttl_s) == (0, None), "now or never"


async def test_given_a_topic_then_it_is_a_broadcast_to_the_group_at_the_products_rate() -> None:
    record = await sent({"topic": "news", "data": {"story": "42"}, "android": {"ttl": "60s", "priority": "high"}})
    assert isinstance(record, Broadcast)
    assert (record.groups, record.segment, record.rate, record.ttl_s, record.priority) == (("news",), None, 0, 60, 0)
    assert (record.payload, record.content_type) == (b'{"data":{"story":"42"}}', "application/json")


async def test_given_a_condition_then_it_is_a_broadcast_to_a_segment() -> None:
    record = await sent({"condition": "'news' in topics && ('a' in topics || !('b' in topics))", "data": {"story": "42"}})
    assert (record.groups, record.segment) == ((), 'group("news") && ( group("a") || ! ( group("b") ) )')


@pytest.mark.parametrize("name", ["validate_only", "validateOnly"])
@pytest.mark.parametrize("target", [TOKEN, {"topic": "news"}])
async def test_given_validate_only_then_it_is_answered_and_nothing_is_sent(name: str, target: Any) -> None:
    world = World()
    response = await post(world, {"message": target, name: True})
    assert response.status_code == 200
    assert response.json()["name"].startswith("projects/shop/messages/")
    assert not world.journal.records


async def test_given_an_idempotency_key_then_a_repeat_has_the_same_name_and_another_body_is_refused() -> None:
    world, headers = World(), {"Idempotency-Key": "17"}
    answers = [await post(world, {"message": {**TOKEN, "data": {"n": n}}}, **headers) for n in ("1", "1", "2")]
    assert answers[0].json() == answers[1].json()
    assert (answers[2].status_code, answers[2].json()["error"]["status"]) == (409, "ALREADY_EXISTS")


@pytest.mark.parametrize(
    ("message", "field"),
    [
        ({**TOKEN, "android": {"ttl": "60"}}, "message.android.ttl"),
        ({**TOKEN, "android": {"ttl": "2419201s"}}, "message.android.ttl"),
        ({**TOKEN, "android": {"ttl": 60}}, "message.android.ttl"),
        ({**TOKEN, "android": {"priority": "low"}}, "message.android.priority"),
        ({**TOKEN, "android": {"collapse_key": "a b"}}, "message.android.collapse_key"),
        ({**TOKEN, "android": {"notification": {"sound": "x"}}}, "message.android.notification"),
        ({**TOKEN, "android": {"restricted_package_name": "a.b"}}, "message.android.restricted_package_name"),
        ({**TOKEN, "apns": {"payload": {"aps": {"badge": 1}}}}, "message.apns.payload"),
        ({**TOKEN, "apns": {"headers": {"apns-topic": "a.b"}}}, "message.apns.headers.apns-topic"),
        ({**TOKEN, "apns": {"headers": {"apns-priority": "7"}}}, "message.apns.headers.apns-priority"),
        ({**TOKEN, "apns": {"headers": {"apns-expiration": "1000"}}}, "message.apns.headers.apns-expiration"),
        ({**TOKEN, "apns": {"headers": {"apns-expiration": "9" * 12}}}, "message.apns.headers.apns-expiration"),
        ({**TOKEN, "webpush": {"headers": {"TTL": "-1"}}}, "message.webpush.headers.TTL"),
        ({**TOKEN, "webpush": {"headers": {"TTL": "٣"}}}, "message.webpush.headers.TTL"),
        ({**TOKEN, "webpush": {"headers": {"Urgency": "now"}}}, "message.webpush.headers.Urgency"),
        ({**TOKEN, "webpush": {"notification": {}}}, "message.webpush.notification"),
        ({**TOKEN, "fcm_options": {"analytics_label": "x"}}, "message.fcm_options"),
        ({**TOKEN, "name": "projects/shop/messages/1"}, "message.name"),
        ({**TOKEN, "notification": {"title": 1}}, "message.notification.title"),
        ({**TOKEN, "notification": {"color": "red"}}, "message.notification.color"),
        ({**TOKEN, "data": {"n": 1}}, "message.data.n"),
        ({**TOKEN, "data": {"google.x": "1"}}, "message.data.google.x.[key]"),
        ({**TOKEN, "data": {"from": "1"}}, "message.data.from.[key]"),
        ({"token": "a b"}, "message.token"),
        ({"topic": "/topics/news"}, "message.topic"),
        ({"topic": "News"}, "message.topic"),
        ({"condition": "'a' in topic"}, "message.condition"),
        ({"condition": "('a' in topics"}, "message.condition"),
        ({}, "message"),
        ({**TOKEN, "topic": "news"}, "message"),
        ({"topic": "news", "android": {"collapse_key": "a"}}, "message"),
        ({"topic": "news", "android": {"ttl": "0s"}}, "message"),
        ("hello", "message"),
        ({**TOKEN, "data": {"k": "\ud800"}}, "message.data.k"),
    ],
)
async def test_given_what_is_not_supported_then_it_is_a_400_that_names_the_field(message: Any, field: str) -> None:
    error = await refused(message)
    assert (error["code"], error["status"]) == (400, "INVALID_ARGUMENT")
    assert fields(error) == [field]
    assert detail(error, ".FcmError")["errorCode"] == "INVALID_ARGUMENT"


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"message": {"token": "a"}, "validate_only": 1}', b'{"massage": {}}'])
async def test_given_a_body_that_is_none_then_it_is_a_400(body: bytes) -> None:
    response = await post(World(), body)
    assert (response.status_code, response.json()["error"]["status"]) == (400, "INVALID_ARGUMENT")


async def test_given_another_product_or_key_or_path_then_googles_words_for_it() -> None:
    body = {"message": TOKEN}
    unknown = await post(World(), body, path="/v1/projects/other/messages:send")
    assert (unknown.status_code, unknown.json()["error"]["status"]) == (404, "NOT_FOUND")
    assert detail(unknown.json()["error"], ".ErrorInfo")["reason"] == "UNKNOWN_PRODUCT"
    assert "UNREGISTERED" not in unknown.text, "a sender would forget the token"
    stranger = await post(World(), body, key="wrong")
    assert (stranger.status_code, stranger.json()["error"]["status"]) == (401, "UNAUTHENTICATED")
    assert stranger.headers["WWW-Authenticate"].startswith("Bearer")
    assert (await post(World(), body, key="a-secret-key")).status_code == 200
    nowhere = await post(World(), body, path="/v1/projects/shop/messages:sent")
    assert (nowhere.status_code, nowhere.json()["error"]["status"]) == (404, "NOT_FOUND")


async def test_given_too_much_then_it_is_an_invalid_argument_as_fcm_says_it() -> None:
    for data in ("x" * 1001, "x" * (MAX_BODY + 1)):
        error = await refused({**TOKEN, "data": {"k": data}})
        assert (error["code"], error["status"]) == (400, "INVALID_ARGUMENT")


async def test_given_kafka_is_down_then_unavailable_and_when_to_ask_again() -> None:
    world = World()
    world.journal.down = True
    response = await post(world, {"message": TOKEN})
    error = response.json()["error"]
    assert (response.status_code, error["status"]) == (503, "UNAVAILABLE")
    assert detail(error, ".FcmError")["errorCode"] == "UNAVAILABLE"
    assert detail(error, ".RetryInfo")["retryDelay"] == f"{response.headers['Retry-After']}s"


async def test_given_as_many_broadcasts_as_may_be_then_the_quota_is_exceeded() -> None:
    world = World()
    for number in range(PLACES):
        world.jobs.put(job=f"j{number}", product="shop", state="running", expires_ms=1 << 50)
    error = await refused({"topic": "news"}, world=world)
    assert (error["code"], error["status"]) == (429, "RESOURCE_EXHAUSTED")
    assert detail(error, ".FcmError")["errorCode"] == "QUOTA_EXCEEDED"


async def test_given_the_api_document_then_its_errors_are_googles_and_no_problems() -> None:
    async with World().client() as http:
        document = (await http.get("/openapi.json")).json()
    answers = document["paths"]["/v1/projects/{product}/messages:send"]["post"]["responses"]
    assert {next(iter(answers[status]["content"])) for status in ("400", "404", "503")} == {"application/json"}
    other = document["paths"]["/v1/messages"]["post"]["responses"]
    assert next(iter(other["400"]["content"])) == "application/problem+json"
