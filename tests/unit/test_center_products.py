"""`/v1/products` and `/v1/config`: documents of the keeper, read and written with preconditions, audited; and usage."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from center_world import World, room

from infra.documents import POLICY, Policy, Product, Queue, product_key
from infra.documents.webhooks import new_secret
from schemas.broadcasts import Audit
from workers.center.operating.shelf import HIDDEN, merged
from workers.center.operating.switch import MAX_QUEUES
from workers.center.web.paging import cursor_of

SHOP = "/v1/products/shop"


def stocked(**fields: Any) -> World:
    world = World()
    world.store.put(product_key("shop"), Product(name="shop", rate=500, **fields))
    return world


def audits(world: World) -> list[Audit]:
    return [record for record in world.journal.records if isinstance(record, Audit)]


def hook(*secrets: str, name: str = "main") -> dict[str, Any]:
    return {"name": name, "url": "https://shop.example/hook", "secrets": list(secrets), "events": ["*"]}


async def test_given_a_product_that_is_put_then_it_is_there_with_its_tag_and_in_the_audit() -> None:
    world = World()
    async with world.client() as http:
        made = await http.put("/v1/products/news", json={"rate": 100, "services": ["echo"]}, params={"reason": "a new app"})
        assert made.status_code == 201, made.text
        shown = await http.get("/v1/products/news")
    assert shown.json() == made.json()
    assert shown.headers["ETag"] == made.headers["ETag"] == '"1"'
    assert (shown.json()["name"], shown.json()["rate"], shown.json()["services"]) == ("news", 100, ["echo"])
    [audit] = audits(world)
    assert (audit.product, audit.subject, audit.action, audit.by) == ("news", "product", "put", "operator")
    assert (audit.before, audit.reason) == ("none", "a new app")
    assert '"rate": 100' in audit.after


async def test_given_a_patch_then_only_its_fields_change_and_null_is_the_default() -> None:
    world = stocked(ttl_s=60, queue=Queue(rate=5))
    async with world.client() as http:
        changed = await http.patch(SHOP, json={"rate": 200, "queue": None, "frequency_cap": {"count": 2}})
    assert changed.status_code == 200, changed.text
    assert world.store.entries[product_key("shop")][0] == Product.model_validate(
        {"name": "shop", "rate": 200, "ttl_s": 60, "frequency_cap": {"count": 2}}
    )
    [audit] = audits(world)
    assert audit.before == '{"rate": 500, "frequency_cap": null, "queue": {"rate": 5, "paused": false}}'
    assert '"rate": 200' in audit.after
    assert "ttl_s" not in audit.after


async def test_given_what_changes_nothing_then_nothing_is_written_or_audited() -> None:
    world = stocked()
    async with world.client() as http:
        assert (await http.patch(SHOP, json={"rate": 500})).headers["ETag"] == '"1"'
        assert (await http.put(SHOP, json={"rate": 500})).headers["ETag"] == '"1"'
    assert not audits(world)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"If-Match": '"1"'}, 200),
        ({"If-Match": '"7", "1"'}, 200),
        ({"If-Match": "*"}, 200),
        ({"If-Match": '"2"'}, 412),
        ({"If-None-Match": "*"}, 412),
        ({"If-Match": "1"}, 400),
        ({"If-Match": 'W/"1"'}, 412),
        ({"If-Match": 'W/"1", "1"'}, 200),
        ({"If-Match": '"a,b"'}, 412),
        ({"If-Match": '"1" "1"'}, 400),
        ({"If-Match": '"1",'}, 400),
        ({"If-Match": 'w/"1"'}, 400),
        ({"If-None-Match": '"1"'}, 400),
    ],
)
async def test_given_preconditions_then_they_are_kept_to(headers: dict[str, str], status: int) -> None:
    world = stocked()
    async with world.client() as http:
        assert (await http.put(SHOP, json={"rate": 1}, headers=headers)).status_code == status
        assert (await http.get(SHOP)).json()["rate"] == (1 if status == 200 else 500)
    assert len(audits(world)) == (status == 200)


async def test_given_a_new_product_then_if_none_match_makes_it_and_if_match_does_not() -> None:
    async with World().client() as http:
        assert (await http.put("/v1/products/n", json={}, headers={"If-Match": "*"})).status_code == 412
        made = await http.put("/v1/products/n", json={}, headers={"If-None-Match": "*"})
        assert (made.status_code, made.headers["Location"]) == (201, "/v1/products/n")
        again = await http.put("/v1/products/n", json={"rate": 7})
        assert (again.status_code, "Location" in again.headers) == (200, False)
        assert (await http.delete("/v1/products/n")).status_code == 204
        assert (await http.put("/v1/products/n", json={})).status_code == 201
        assert (await http.put("/v1/products/n", json={}, headers={"If-None-Match": "*"})).status_code == 412


async def test_given_somebody_who_is_faster_then_a_patch_is_made_from_theirs_and_a_precondition_fails() -> None:
    world = stocked()
    world.store.overtaken = [Product(name="shop", rate=500, ttl_s=99)]
    async with world.client() as http:
        changed = (await http.patch(SHOP, json={"rate": 7})).json()
        assert (changed["rate"], changed["ttl_s"]) == (7, 99)
        world.store.overtaken = [Product(name="shop", rate=1)]
        tag = (await http.get(SHOP)).headers["ETag"]
        assert (await http.patch(SHOP, json={"rate": 8}, headers={"If-Match": tag})).status_code == 412
        world.store.overtaken = [Product(name="shop", rate=rate) for rate in range(10, 20)]
        answer = await http.patch(SHOP, json={"rate": 9})
        assert (answer.status_code, answer.json()["type"]) == (409, "urn:longwire:problem:changed-meanwhile")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"rate": 0}, "rate"),
        ({"colour": "red"}, "colour"),
        ({"queue": {"rate": -1}}, "queue.rate"),
        ({"services": ["A B"]}, "services.0"),
        ({"name": "other"}, "name"),
        ({"webhooks": [hook("whsec_short")]}, "webhooks.0.secrets.0"),
        ({"webhooks": [hook(HIDDEN)]}, "webhooks.0.secrets.0"),
        ({"webhooks": {}}, "webhooks"),
        ({"fallback_webhook": "http://10.0.0.1/"}, "fallback_webhook"),
    ],
)
async def test_given_what_does_not_fit_then_the_field_is_named_and_nothing_happens(body: Any, field: str) -> None:
    world = stocked()
    async with world.client() as http:
        for call in (http.put, http.patch):
            answer = await call(SHOP, json=body)
            assert answer.status_code == 400, answer.text
            assert field in [each["field"] for each in answer.json()["errors"]]
            assert "whsec_short" not in answer.text
    assert not audits(world)
    assert world.documents.products["shop"].rate == 500


async def test_given_webhooks_then_secrets_are_shown_as_stars_and_stars_stand_for_what_is_there() -> None:
    first, second, third = new_secret(), new_secret(), new_secret()
    world = stocked(webhooks=[hook(first, second)])
    async with world.client() as http:
        shown = await http.get(SHOP)
        assert shown.json()["webhooks"][0]["secrets"] == [HIDDEN, HIDDEN]
        turned = {**shown.json(), "webhooks": [{**shown.json()["webhooks"][0], "secrets": [HIDDEN, third]}]}
        answers = [await http.put(SHOP, json=turned), await http.get(SHOP)]
        moved = {"webhooks": [hook(HIDDEN, name="other")]}
        assert (await http.patch(SHOP, json=moved)).status_code == 400, "no secret goes to an endpoint of another name"
    document, _ = world.store.entries[product_key("shop")]
    assert isinstance(document, Product)
    assert [secret.get_secret_value() for secret in document.webhooks[0].secrets] == [first, third]
    for text in (shown.text, *(answer.text for answer in answers), *(audit.before + audit.after for audit in audits(world))):
        assert not any(secret in text for secret in (first, second, third))


async def test_given_a_delete_then_it_is_gone_and_a_second_one_is_a_404() -> None:
    world = stocked()
    async with world.client() as http:
        assert (await http.delete(SHOP, headers={"If-Match": '"9"'})).status_code == 412
        assert (await http.delete(SHOP)).status_code == 204
        for answer in (await http.delete(SHOP), await http.get(SHOP), await http.patch(SHOP, json={})):
            assert (answer.status_code, answer.json()["type"]) == (404, "urn:longwire:problem:unknown-product")
        assert (await http.put(SHOP, json={}, headers={"If-None-Match": "*"})).status_code == 201
    assert [audit.action for audit in audits(world)] == ["delete", "put"]
    assert audits(world)[0].after == "none"


async def test_given_a_document_that_does_not_parse_then_it_can_be_put_and_not_patched() -> None:
    world = stocked()
    world.store.unreadable.add(product_key("shop"))
    async with world.client() as http:
        assert (await http.get(SHOP)).json()["type"] == "urn:longwire:problem:unreadable"
        assert (await http.patch(SHOP, json={})).status_code == 409
        assert (await http.put(SHOP, json={"rate": 3}, headers={"If-Match": '"1"'})).status_code == 200
        assert (await http.get(SHOP)).json()["rate"] == 3


async def test_given_nats_or_kafka_is_down_then_503_and_nothing_is_written() -> None:
    world = stocked()
    async with world.client() as http:
        world.journal.down = True
        assert (await http.patch(SHOP, json={"rate": 3})).status_code == 503
        world.journal.down, world.store.down = False, True
        assert (await http.get(SHOP)).status_code == (await http.patch(SHOP, json={"rate": 3})).status_code == 503
    assert world.documents.products["shop"].rate == 500


async def test_given_as_many_queues_as_may_be_then_one_more_by_the_document_is_refused_too() -> None:
    world = stocked()
    for number in range(MAX_QUEUES):
        world.documents.products[f"q{number}"] = Product(name=f"q{number}", queue=Queue(rate=1))
    async with world.client() as http:
        assert (await http.patch(SHOP, json={"queue": {"rate": 1}})).json()["type"] == "urn:longwire:problem:too-many-queues"


async def test_given_many_products_then_they_come_page_by_page() -> None:
    world = World()
    world.documents.products = {f"p{number:02}": Product(name=f"p{number:02}") for number in range(25)}
    names, cursor = [], ""
    async with world.client() as http:
        while cursor is not None:
            page = (await http.get("/v1/products", params={"limit": 10, "cursor": cursor})).json()
            names += [each["name"] for each in page["products"]]
            cursor = page["next"]
        assert names == sorted(world.documents.products)
        for bad in ("x", cursor_of(1), cursor_of("a", "b"), "%", "WyJhIl", cursor_of(True)):
            answer: httpx.Response = await http.get("/v1/products", params={"cursor": bad})
            assert (answer.status_code, answer.json()["errors"][0]["field"]) == (400, "cursor"), bad


async def test_given_rooms_and_broadcasts_then_usage_tells_of_this_product_only() -> None:
    world = stocked()
    world.rooms.views = [room("r1"), room("r2")]
    world.jobs.put(job="j1", product="shop", state="running")
    world.jobs.put(job="j2", product="other", state="running")
    async with world.client() as http:
        usage = (await http.get(f"{SHOP}/usage")).json()
        assert (usage["bound"], usage["rooms"], usage["broadcasts"]) == (4, {"r1": 2, "r2": 2}, {"active": 1, "most": 64})
        assert (await http.get("/v1/products/nobody/usage")).status_code == 404
        assert (await http.get("/v1/products")).json()["products"] == [{"name": "shop", "rate": 500, "queue": False, "bound": 4}]


async def test_given_the_policy_then_it_is_shown_whole_and_changed_with_preconditions() -> None:
    world = World()
    async with world.client() as http:
        first = await http.get("/v1/config")
        assert first.json()["window"] == Policy().window
        assert "ETag" not in first.headers
        assert (await http.put("/v1/config", json={"window": 16}, headers={"If-None-Match": "*"})).json()["window"] == 16
        changed = await http.patch("/v1/config", json={"sync_interval": "10m"}, headers={"If-Match": '"1"'})
        assert (changed.json()["window"], changed.json()["sync_interval"], changed.headers["ETag"]) == (16, 600.0, '"2"')
        bad = await http.patch("/v1/config", json={"windows": 1, "keep_alive": {"4g": "x"}})
        assert [each["field"] for each in bad.json()["errors"]] == ["keep_alive.4g", "windows"]
    assert world.store.entries[POLICY][0] == Policy(window=16, sync_interval=600.0)
    assert [(audit.product, audit.subject, audit.action) for audit in audits(world)] == [
        ("-", "config", "put"),
        ("-", "config", "patch"),
    ]


@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [  # cases of RFC 7396, Appendix A
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [1, 2]}, {"a": [3]}, {"a": [3]}),
        ({"a": "foo"}, {"a": {"b": {"c": None}}}, {"a": {"b": {}}}),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
    ],
)
def test_given_a_merge_patch_then_it_is_merged_as_the_rfc_says(target: Any, patch: Any, result: Any) -> None:
    assert merged(target, patch) == result


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (SHOP, '{"service_timeout": 1e999}'),
        (SHOP, '{"frequency_cap": {"count": 1, "per": Infinity}}'),
        ("/v1/config", '{"sync_interval": 1e999}'),
        ("/v1/config", '{"keep_alive": {"wifi": 0}}'),
        ("/v1/config", '{"keep_alive": {"wifi": 70000}}'),
    ],
)
async def test_given_a_value_that_no_process_could_read_back_then_400_and_nothing_is_written(path: str, text: str) -> None:
    world = stocked()
    before = dict(world.store.entries)
    async with world.client() as http:
        answer = await http.patch(path, content=text, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400, answer.text
    assert world.store.entries == before
    assert audits(world) == []


async def test_given_another_secret_then_the_audit_says_that_the_webhooks_changed_and_shows_stars() -> None:
    world = stocked(webhooks=[hook(new_secret())])
    async with world.client() as http:
        answer = await http.patch(SHOP, json={"webhooks": [hook(fresh := new_secret())]})
    assert answer.status_code == 200, answer.text
    [audit] = audits(world)
    assert HIDDEN in audit.after
    assert HIDDEN in audit.before
    assert fresh not in audit.after
