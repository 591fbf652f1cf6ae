"""`POST /v1/messages/batch`, and a message to a group: what is accepted together, and what is refused by itself."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from center_world import KEY, World
from journal_twin import JournalTwin

from infra.documents import Queue
from infra.journal import Position
from schemas.broadcasts import Broadcast
from schemas.codes import Priority
from schemas.records import PushMessage
from workers.center.callers import keycheck
from workers.center.callers.auth import Caller, Role
from workers.center.web.bodies import MAX_BODY, Bodies, Large
from workers.center.web.gate import Gate

GOOD = {"product": "shop", "client": "phone-1", "payload": "hello"}


async def post(world: World, messages: Any, **more: Any) -> Any:
    async with world.client() as http:
        body = json.dumps({"messages": messages, **more})  # in ASCII: also what is no UTF-8
        return await http.post("/v1/messages/batch", content=body, headers={"Content-Type": "application/json"})


def kinds(answer: Any) -> list[tuple[int, str | None]]:
    found = answer.json()["results"]
    return [(each["status"], each["problem"]["type"].rpartition(":")[2] if "problem" in each else None) for each in found]


class Counting(JournalTwin):
    """Counts the calls."""

    calls = 0

    async def produce(self, entries: Any, *, timeout: float | None = None) -> list[Position]:
        self.calls += 1
        return await super().produce(entries, timeout=timeout)


async def test_given_a_thousand_messages_then_they_are_produced_in_one_go_and_answered_in_order() -> None:
    world = World()
    world.journal = journal = Counting()
    answer = await post(world, [{**GOOD, "client": f"phone-{n}", "id": f"m{n}"} for n in range(1000)])
    assert answer.status_code == 202
    assert answer.json()["results"] == [{"status": 202, "id": f"m{n}"} for n in range(1000)]
    assert [entry.key for entry in journal.entries] == [f"phone-{n}" for n in range(1000)]
    assert journal.calls == 1


async def test_given_some_that_do_not_fit_then_each_has_its_problem_and_the_others_are_accepted() -> None:
    world = World()
    bad: list[Any] = [
        GOOD,
        {**GOOD, "user": "ann"},
        {**GOOD, "product": "none"},
        {**GOOD, "payload": "x" * 1001},
        {**GOOD, "qos": 7},
        "no object",
        {**GOOD, "id": "mine", "idempotency_key": "k"},
        {**GOOD, "idempotency_key": "\ud800"},
        {"product": "shop", "group": "news", "payload": "x"},
        {**GOOD, "user": None, "client": "phone-2"},
    ]
    answer = await post(world, bad)
    assert answer.status_code == 207
    assert kinds(answer) == [
        (202, None),
        (400, "bad-input"),
        (404, "unknown-product"),
        (413, "too-large"),
        (400, "bad-input"),
        (400, "bad-input"),
        (400, "bad-input"),
        (400, "bad-input"),
        (400, "bad-input"),
        (202, None),
    ]
    assert answer.json()["results"][4]["problem"]["errors"][0]["field"] == "qos"
    assert answer.json()["results"][5]["problem"]["errors"][0].keys() == {"field", "value", "bound"}, "as of a request alone"
    assert [record.client for record in world.journal.records if isinstance(record, PushMessage)] == ["phone-1", "phone-2"]


async def test_given_a_key_for_each_then_a_repeat_has_the_same_ids_and_another_body_is_409() -> None:
    world = World()
    messages = [{**GOOD, "idempotency_key": "a"}, {**GOOD, "idempotency_key": "b"}, GOOD]
    first, again = await post(world, messages), await post(world, messages)
    ids = [[each["id"] for each in answer.json()["results"]] for answer in (first, again)]
    assert ids[0][:2] == ids[1][:2]
    assert ids[0][2] != ids[1][2]
    other = await post(world, [{**GOOD, "payload": "other", "idempotency_key": "a"}, messages[1], messages[1]])
    assert kinds(other) == [(409, "key-reused"), (202, None), (202, None)]


async def test_given_the_key_of_a_message_that_was_posted_alone_then_it_is_the_same_message() -> None:
    world = World()
    async with world.client() as http:
        alone = (await http.post("/v1/messages", json=GOOD, headers={"Idempotency-Key": "a"})).json()["id"]
    [result] = (await post(world, [{**GOOD, "idempotency_key": "a"}])).json()["results"]
    assert result == {"status": 202, "id": alone}


async def test_given_kafka_down_then_each_has_a_503_with_its_id() -> None:
    world = World()
    world.journal.down = True
    answer = await post(world, [{**GOOD, "id": "m1"}, {**GOOD, "qos": 7}, {**GOOD, "id": "m2"}])
    assert kinds(answer) == [(503, "journal-down"), (400, "bad-input"), (503, "journal-down")]
    assert [each.get("id") for each in answer.json()["results"]] == ["m1", None, "m2"]


async def test_given_redis_away_then_keys_are_not_compared_and_ids_are_the_keys() -> None:
    world = World()
    world.keys.down = True
    answers = [await post(world, [{**GOOD, "idempotency_key": "a"}]) for _ in range(2)]
    assert answers[0].json() == answers[1].json()


async def test_given_checks_only_then_nothing_is_stored() -> None:
    world = World()
    assert (await post(world, [{**GOOD, "validate_only": True}])).status_code == 200
    assert world.journal.entries == []
    assert (await post(world, [{**GOOD, "validate_only": True}, GOOD])).status_code == 207
    assert len(world.journal.entries) == 1


async def test_given_a_product_with_a_queue_of_its_own_then_its_messages_go_there() -> None:
    world = World()
    world.documents.products["shop"] = world.documents.products["shop"].model_copy(update={"queue": Queue(rate=5)})
    await post(world, [GOOD])
    [entry] = world.journal.entries
    assert entry.topic == "push.messages.shop"


@pytest.mark.parametrize("messages", [[], [GOOD] * 1001, {}, None])
async def test_given_no_list_of_one_to_a_thousand_then_400(messages: Any) -> None:
    answer = await post(World(), messages)
    assert (answer.status_code, answer.json()["type"]) == (400, "urn:longwire:problem:bad-input")


async def test_given_a_body_of_four_mib_then_it_is_read_and_one_more_byte_is_413() -> None:
    world = World()
    text = json.dumps({"messages": [GOOD]}).encode()
    async with world.client() as http:
        for size, status in ((MAX_BODY + 1, 202), (4 * 1024 * 1024, 202), (4 * 1024 * 1024 + 1, 413)):
            body = text + b" " * (size - len(text))
            answer = await http.post("/v1/messages/batch", content=body, headers={"Content-Type": "application/json"})
            assert answer.status_code == status
        answer = await http.post("/v1/messages", content=b" " * (MAX_BODY + 1), headers={"Content-Type": "application/json"})
        assert answer.status_code == 413


async def test_given_many_large_bodies_at_once_then_those_beyond_the_bound_are_busy_and_others_pass() -> None:
    released, statuses = asyncio.Event(), []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        if scope["path"] == "/large":
            await released.wait()
        await send({"type": "http.response.start", "status": 202, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    gate = Gate(Bodies(app, large=Large("POST", "/large", most=10, at_once=3, of_one=2)))

    async def ask(path: str, key: str = "k1") -> None:
        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"x" * 5, "more_body": False}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                statuses.append((path, message["status"]))

        who = Caller(key=key, products=None, roles=frozenset(), rate=1)
        await gate({"type": "http", "method": "POST", "path": path, "headers": [], "state": {"caller": who}}, receive, send)

    waiting = [asyncio.create_task(ask("/large")) for _ in range(2)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await ask("/large")
    await ask("/other")
    assert statuses == [("/large", 429), ("/other", 202)], "the key has its share"
    statuses.clear()
    waiting.append(asyncio.create_task(ask("/large", "k2")))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert statuses == [], "another key has a place"
    await ask("/large", "k2")
    await ask("/other", "k2")
    assert statuses == [("/large", 503), ("/other", 202)]
    released.set()
    await asyncio.gather(*waiting)
    await ask("/large")
    assert statuses[2:] == [("/large", 202)] * 4


# --- a group -----------------------------------------------------------------------------------------------------------


async def to_group(world: World, **more: Any) -> Any:
    async with world.client() as http:
        key = more.pop("key", "")
        headers = {"Idempotency-Key": key} if key else {}
        body = {"product": "shop", "group": "news", "payload": "hello", **more}
        return await http.post("/v1/messages", json=body, headers=headers)


async def test_given_a_group_alone_then_it_is_a_broadcast_to_it_at_the_products_rate() -> None:
    world = World()
    answer = await to_group(world, ttl="1h", priority="high", fallback_after="10m", properties={"a": "b"}, content_type="text/x")
    assert answer.status_code == 202
    [record] = world.journal.records
    assert isinstance(record, Broadcast)
    assert answer.json() == {"id": record.id}
    assert answer.headers["Location"] == f"/v1/broadcasts/{record.id}"
    assert (record.groups, record.payload, record.ttl_s, record.rate, record.include_new) == (("news",), b"hello", 3600, 0, False)
    assert (record.priority, record.fallback_after_s, record.properties) == (Priority.HIGH, 600, {"a": "b"})
    assert (await world.jobs.get(record.id) or {})["state"] == "accepted"


async def test_given_its_key_again_then_the_same_id_and_another_body_is_409() -> None:
    world = World()
    answers = [await to_group(world, key="a"), await to_group(world, key="a"), await to_group(world, key="a", payload="other")]
    assert [answer.status_code for answer in answers] == [202, 202, 409]
    assert answers[0].json() == answers[1].json()


async def test_given_checks_only_then_no_broadcast_is_kept() -> None:
    world = World()
    assert (await to_group(world, validate_only=True)).status_code == 200
    assert world.journal.entries == []


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"qos": 0}, "has no qos"),
        ({"mode": "pull"}, "has no mode"),
        ({"collapse_key": "k", "pull_after": "1s"}, "has no collapse_key, pull_after"),
        ({"correlation_base64": "aGk="}, "has no correlation_base64"),
        ({"fallback_after": "2h", "ttl": "1h"}, "fallback_after"),
    ],
)
async def test_given_what_a_broadcast_does_not_have_then_400_names_it(more: dict[str, Any], said: str) -> None:
    world = World()
    answer = await to_group(world, **more)
    assert answer.status_code == 400
    assert said in answer.json()["detail"]
    assert world.journal.entries == []


async def test_given_a_key_that_may_not_broadcast_then_a_group_is_403_and_a_client_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sender = Caller(key="sender", products=frozenset({"shop"}), roles=frozenset({Role.SEND}))
    monkeypatch.setattr(keycheck, "OPERATOR", sender)
    world = World()
    assert (await to_group(world)).status_code == 403
    async with world.client(key=KEY) as http:
        assert (await http.post("/v1/messages", json=GOOD)).status_code == 202
    assert [type(entry.record) for entry in world.journal.entries] == [PushMessage]
