"""Roles and products: every operation of the OpenAPI document, asked with a key that may not, and with another product's key.

A new operation fails here until it says which role it needs and has its request in `REQUESTS`.
"""

from __future__ import annotations

import time
from typing import Any, Final

import httpx
import pytest
from center_world import KEY, World, room
from fastapi import FastAPI

from infra.documents import Issuer, Product, Queue, SigningKey, product_key
from infra.documents.webhooks import new_secret
from infra.journal import Entry
from infra.register import ClientView, SessionView
from infra.revoked import Revocation
from infra.wire import Bind
from schemas import names
from schemas.broadcasts import AudienceChunk, Audit
from schemas.records import PushMessage
from workers.center import app
from workers.center.callers.auth import OF_DEVICES, OPEN, Role
from workers.center.callers.keycheck import WRONG_BURST
from workers.center.dispatch.route import Dispatcher

HOOK: Final = {"name": "main", "url": "http://127.0.0.1:9/", "secrets": [new_secret()], "events": ["*"]}
SHOP: Final = Product.model_validate({"name": "shop", "queue": Queue(rate=10), "webhooks": [HOOK]})
CAFE: Final = Product(name="cafe")
REVOKED: Final = Revocation(kind="user", scope="main", subject="ann", product="shop", before=1.0, until=time.time() + 900)
SHOPS_KEY: Final = "0" * 12

REQUESTS: Final[dict[str, tuple[str, Any]]] = {
    "send_message": ("/v1/messages", {"product": "shop", "client": "phone-1", "payload": "x", "id": "m1"}),
    "send_batch": ("/v1/messages/batch", {"messages": [{"product": "shop", "client": "phone-1", "payload": "x"}]}),
    "send_as_fcm": ("/v1/projects/shop/messages:send", {"message": {"token": "phone-1", "data": {"a": "b"}}}),
    "show_message": ("/v1/messages/m1?client=phone-1", None),
    "list_client_messages": ("/v1/clients/phone-1/messages?product=shop", None),
    "start_broadcast": ("/v1/broadcasts", {"product": "shop", "payload": "x", "id": "j9"}),
    "estimate_broadcast": ("/v1/broadcasts/estimate", {"product": "shop", "payload": "x"}),
    "list_broadcasts": ("/v1/broadcasts?product=shop", None),
    "show_broadcast": ("/v1/broadcasts/j1", None),
    "watch_broadcast": ("/v1/broadcasts/over/events", None),
    "show_audit": ("/v1/broadcasts/j1/audit", None),
    "start_draft": ("/v1/broadcasts/draft/start", {}),
    "pause_broadcast": ("/v1/broadcasts/j1/pause", {}),
    "resume_broadcast": ("/v1/broadcasts/paused/resume", {}),
    "cancel_broadcast": ("/v1/broadcasts/j1/cancel", {}),
    "set_rate": ("/v1/broadcasts/j1/rate", {"rate": 5}),
    "upload_audience": ("/v1/audiences/list-2?product=shop", "phone-1\n"),
    "show_audience": ("/v1/audiences/list-1?product=shop", None),
    "list_queues": ("/v1/queues", None),
    "show_queue": ("/v1/products/shop/queue", None),
    "change_queue": ("/v1/products/shop/queue/pause", {}),
    "show_client": ("/v1/clients/phone-1", None),
    "kick_client": ("/v1/clients/phone-1/kick", {}),
    "list_rooms": ("/v1/rooms", None),
    "list_revocations": ("/v1/revocations", None),
    "revoke_tokens": ("/v1/revocations", {"user": "ann", "product": "shop"}),
    "lift_revocation": (f"/v1/revocations/{REVOKED.id}/lift", {}),
    "list_issuers": ("/v1/issuers", None),
    "show_access": ("/v1/access", None),
    "change_access": ("/v1/access", {"list": "deny", "add": {"clients": ["phone-1"]}}),
    "list_keys": ("/v1/keys", None),
    "create_key": ("/v1/keys", {"name": "n", "products": ["shop"], "roles": ["read"]}),
    "rotate_key": (f"/v1/keys/{SHOPS_KEY}/rotate", {}),
    "drop_old_secret": (f"/v1/keys/{SHOPS_KEY}/drop", {}),
    "revoke_key": (f"/v1/keys/{SHOPS_KEY}/revoke", {}),
    "show_user": ("/v1/users/ann?product=shop", None),
    "kick_user": ("/v1/users/ann/kick", {"product": "shop"}),
    "show_group": ("/v1/products/shop/groups/news", None),
    "list_audit": ("/v1/audit?product=shop", None),
    "show_room": ("/v1/rooms/r1", None),
    "show_drain": ("/v1/rooms/r1/drain", None),
    "drain_room": ("/v1/rooms/r1/drain", {"conn_evict_rate": 10, "confirm": True}),
    "stop_drain": ("/v1/rooms/r1/drain/stop", {}),
    "show_config": ("/v1/config", None),
    "put_config": ("/v1/config", {}),
    "patch_config": ("/v1/config", {"window": 16}),
    "test_webhook": ("/v1/products/shop/webhooks/main/test", None),
    "show_usage": ("/v1/products/shop/usage", None),
    "list_products": ("/v1/products", None),
    "show_product": ("/v1/products/shop", None),
    "patch_product": ("/v1/products/shop", {"rate": 7}),
    "delete_product": ("/v1/products/shop", None),
    "put_product": ("/v1/products/shop", {"rate": 8}),
    "unbind_client": ("/v1/clients/phone-1/unbind", {"product": "shop"}),
}
"""Operation → what is asked of it: all of it concerns the product `shop`. Its end comes last."""

BY_BODY: Final = {"send_as_fcm"}
"""Operations whose role depends on what they are asked, and whose errors have Google's shape."""

OF_ALL: Final = {"show_access", "change_access", "put_config", "patch_config", "drain_room", "stop_drain"}
"""Operations that concern all products: for no key of some."""

NEW_OR_GONE: Final = {"put_product", "list_audit"}
"""Operations that the operator may ask of a product that is not there; for a key of others it is an unknown one."""

ALIKE: Final = {*OF_ALL, "list_rooms", "show_room", "show_drain", "show_config", "put_product"}
"""Operations that answer the operator the same whether there is a shop or not, but for what they count."""


def a_job(job: str, state: str, **more: Any) -> dict[str, Any]:
    return {"job": job, "product": "shop", "state": state, "rate": 100, "started_ms": 1, "expires_ms": 10**15, **more}


def a_world(*, shop: bool) -> World:
    """A system with the product `cafe`; and one that has a `shop`, too, with something of everything."""
    world = World()
    world.documents.products = {"cafe": CAFE} | ({"shop": SHOP} if shop else {})
    world.rooms.views = [room("r1")] if shop else [room("r1", bound={})]
    if shop:
        for document in (a_job("j1", "running"), a_job("over", "cancelled"), a_job("draft", "draft"), a_job("paused", "paused")):
            world.jobs.put(**document)
        view = ClientView(SessionView(1, 4, "r1", 7, 9), {"shop": Bind("shop", 1, [], "ann", {})}, {"shop": 3})
        world.clients.views["main:phone-1"] = view
        chunk = AudienceChunk(
            audience="list-1", product="shop", realm="main", upload="u", number=0, clients=("phone-1",), sealed=1
        )
        message = PushMessage(id="m1", product="shop", client="phone-1", payload=b"x")
        world.journal.entries.append(Entry(names.MESSAGES, "phone-1", message))
        world.journal.entries.append(Entry(names.AUDIENCES, "shop list-1", chunk))
        world.store.put(product_key("shop"), SHOP)
        world.trail.records.append(Audit(product="shop", subject="j1", action="pause", by="ann", at_ms=1, before="a", after="b"))
        world.revocations.entries[REVOKED.id] = REVOKED
        key = SigningKey(secret="s" * 32)  # type: ignore[arg-type]
        world.documents.issuers["https://shop"] = Issuer(iss="https://shop", keys=(key,), products=("shop",))
        world.key(Role.READ, key_id=SHOPS_KEY)
    return world


def api(world: World) -> FastAPI:
    """Its routes, without what is around them."""
    return app.api(world.parts, Dispatcher(world.parts), version="0")


def operations(world: World) -> dict[str, tuple[str, str, list[str]]]:
    """Operation → method, path and the roles that it needs, of those that need a key."""
    document = api(world).openapi()
    return {
        operation["operationId"]: (method, path, operation["security"][0]["bearer"])
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if path not in OPEN and not path.startswith(OF_DEVICES)
    }


OPERATIONS: Final = operations(World())


async def ask(http: httpx.AsyncClient, operation: str) -> httpx.Response:
    method, (url, body) = OPERATIONS[operation][0], REQUESTS[operation]
    sent: dict[str, Any] = {"json": body} if isinstance(body, dict) else {}
    if isinstance(body, str):
        sent = {"content": body, "headers": {"Content-Type": "text/plain"}}
    return await http.request(method, url, **sent)


async def ask_all(world: World, key: str) -> dict[str, httpx.Response]:
    """Every operation's answer, asked one after the other: what comes later finds what was done before."""
    async with world.client(key=key) as http:
        return {operation: await ask(http, operation) for operation in REQUESTS if operation in OPERATIONS}


def test_given_the_document_then_every_operation_says_which_one_role_it_needs_and_has_its_request_here() -> None:
    named = {name: roles for name, (*_, roles) in OPERATIONS.items() if name not in BY_BODY}
    assert {name: roles for name, roles in named.items() if len(roles) != 1 or roles[0] not in set(Role)} == {}
    assert sorted(OPERATIONS) == sorted(REQUESTS), "a new operation: put a request about the product shop into REQUESTS"


def test_given_the_application_then_it_has_no_route_that_the_document_does_not_show_but_its_pages() -> None:
    hidden = [route.path for route in api(World()).routes if not getattr(route, "include_in_schema", True)]  # type: ignore[attr-defined]
    assert set(hidden) <= OPEN


@pytest.mark.parametrize("role", Role)
async def test_given_a_key_with_every_role_but_one_then_403_names_it_and_nothing_happens(role: Role) -> None:
    world = a_world(shop=True)
    before, keys = len(world.journal.records), set(world.ring.keys)
    key = world.key(*(each for each in Role if each != role), products=None, rate=10_000)
    async with world.client(key=key) as http:
        for operation, (*_, needed) in OPERATIONS.items():
            if needed == [role]:
                answer = await ask(http, operation)
                found = (answer.status_code, answer.json()["type"], answer.json()["missing"])
                assert found == (403, "urn:longwire:problem:forbidden", role), operation
    assert (len(world.journal.records), world.kicks.asked, world.queues.changes) == (before, [], [])
    assert set(world.ring.keys) == {*keys, key.split("_")[1]}


async def test_given_no_key_then_401() -> None:
    for some in batched(sorted(OPERATIONS), int(WRONG_BURST)):  # more in a row are told to stop
        async with a_world(shop=True).client(key="") as http:
            for operation in some:
                answer = await ask(http, operation)
                assert answer.status_code == 401, operation
                assert operation in BY_BODY or answer.json()["type"] == "urn:longwire:problem:unauthorized", operation


def batched(names_: list[str], size: int) -> list[list[str]]:
    return [names_[at : at + size] for at in range(0, len(names_), size)]


async def test_every_api_call_with_another_products_id_404() -> None:
    """A row of the threat list. To a key of another product a system that has the shop answers as one that has none; where the
    operator, too, is told 404 then, so is that key."""
    full, empty = a_world(shop=True), a_world(shop=False)
    before, kept = len(full.journal.records), dict(full.ring.keys)
    foreign = [await ask_all(world, world.key(*Role, products=("cafe",), rate=10_000)) for world in (full, empty)]
    assert (len(full.journal.records), full.kicks.asked, full.queues.changes) == (before, [], [])
    assert full.revocations.entries == {REVOKED.id: REVOKED}
    assert kept.items() <= full.ring.keys.items()
    there, gone = await ask_all(full, KEY), await ask_all(empty, KEY)
    for operation in OPERATIONS:
        assert there[operation].is_success, there[operation].text
        assert operation in ALIKE or there[operation].text != gone[operation].text, operation
        found = [without_own(answers[operation]) for answers in foreign]
        assert found[0] == found[1], operation
        hidden = gone[operation].status_code == 404 or operation in NEW_OR_GONE
        expected = 404 if hidden else 403 if operation in OF_ALL else 207 if operation == "send_batch" else 200
        assert found[0][0] == expected, operation


@pytest.mark.parametrize(("role", "target"), [(Role.SEND, {"token": "phone-1"}), (Role.BROADCAST, {"topic": "news"})])
async def test_given_fcms_endpoint_then_a_message_needs_send_and_a_topic_broadcast(role: Role, target: dict[str, str]) -> None:
    body = {"message": {**target, "data": {"a": "b"}}}
    for roles, status in (((role,), 200), (tuple(each for each in Role if each != role), 403)):
        world = a_world(shop=True)
        before = len(world.journal.records)
        async with world.client(key=world.key(*roles)) as http:
            answer = await http.post("/v1/projects/shop/messages:send", json=body)
        assert answer.status_code == status, answer.text
        assert len(world.journal.records) - before == (1 if status == 200 else 0)


def without_own(answer: httpx.Response) -> tuple[int, Any]:
    """An answer without what is of the asking key, which is another one in each world, and of the moment."""
    document = answer.json() if answer.content else None
    if isinstance(document, dict):
        document.pop("lease_age_s", None)
    if isinstance(document, dict) and "keys" in document:
        document["keys"] = [key for key in document["keys"] if key["products"] != ["cafe"]]
    if isinstance(document, dict) and answer.status_code == 403:
        document.pop("detail")
    return answer.status_code, document


# --- what is between -----------------------------------------------------------------------------------------------------


async def test_given_a_client_of_two_products_then_each_key_sees_its_own_binds_and_counts_and_may_kick() -> None:
    world = World()
    world.documents.products["cafe"] = CAFE
    binds = {name: Bind(name, 1, [], "ann", {}) for name in ("shop", "cafe")}
    world.clients.views["main:phone-1"] = ClientView(SessionView(1, 4, "r1", 7, 9), binds, {"shop": 3, "cafe": 4})
    async with world.client(key=world.key(Role.READ, Role.OPERATE, products=("cafe",))) as http:
        shown = (await http.get("/v1/clients/phone-1")).json()
        assert (list(shown["binds"]), shown["pending"]) == (["cafe"], {"cafe": 4})
        assert (await http.post("/v1/clients/phone-1/kick", json={})).status_code == 204


async def test_given_a_client_that_has_left_then_a_key_sees_when_it_left_its_own_products_and_else_nothing_of_it() -> None:
    world = World()
    world.clients.views["main:phone-1"] = ClientView(None, {}, {"shop": 0}, {"shop": 1795880406190, "cafe": 1795880406180})
    world.clients.views["main:phone-2"] = ClientView(None, {}, {"shop": 0}, {"shop": 1795880406190})
    async with world.client(key=world.key(Role.READ, products=("cafe",))) as http:
        assert (await http.get("/v1/clients/phone-1")).json()["last_seen_ms"] == 1795880406180
        assert (await http.get("/v1/clients/phone-2")).status_code == 404


async def test_given_one_idempotency_key_of_two_callers_or_products_then_each_has_an_id_of_its_own() -> None:
    world = World()
    world.documents.products["cafe"] = CAFE
    keys = [world.key(Role.SEND, products=products) for products in (("shop", "cafe"), ("shop",))]
    asked = {"client": "phone-1", "payload": "x"}
    found: dict[tuple[str, str], str] = {}
    for key in keys:
        async with world.client(key=key) as http:
            for product in ("shop", "cafe"):
                for _ in range(2):
                    answer = await http.post("/v1/messages", json={**asked, "product": product}, headers={"Idempotency-Key": "k"})
                    if answer.is_success:
                        assert found.setdefault((key, product), answer.json()["id"]) == answer.json()["id"]
    assert len(found) == len(set(found.values())) == 3


async def test_given_another_products_broadcast_under_an_id_then_it_can_not_be_taken() -> None:
    world = a_world(shop=True)
    async with world.client(key=world.key(Role.BROADCAST, products=("cafe",))) as http:
        answer = await http.post("/v1/broadcasts", json={"product": "cafe", "payload": "x", "id": "j1"})
    assert (answer.status_code, answer.json()["type"]) == (409, "urn:longwire:problem:id-taken")
    assert "shop" not in answer.text
    assert world.jobs.documents["j1"]["product"] == "shop"


async def test_given_a_key_for_some_products_then_it_revokes_their_users_and_no_clients() -> None:
    world = World()
    async with world.client(key=world.key(Role.OPERATE)) as http:
        assert (await http.post("/v1/revocations", json={"user": "ann", "product": "shop"})).status_code == 200
        assert (await http.post("/v1/revocations", json={"client": "phone-1"})).status_code == 403
    [entry] = world.revocations.entries.values()
    assert entry.by.startswith("api (key ")
