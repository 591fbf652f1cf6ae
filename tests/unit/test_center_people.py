"""`/v1/users`, `/v1/products/{product}/groups/{group}` and `/v1/audit`."""

from __future__ import annotations

import pytest
from center_world import World, room

from infra.register import ClientView, SessionView
from infra.wire import Bind
from schemas.broadcasts import NO_PRODUCT, Audit
from workers.center.campaigns.census import Known
from workers.center.web.paging import cursor_of

USER = "/v1/users/ann"
LEFT_MS = 1795880406190


def with_clients(*online: str, offline: tuple[str, ...] = ()) -> World:
    world = World()
    world.rooms.views = [room("r1"), room("r2")]
    for name in (*online, *offline):
        session = SessionView(1, 4, "r1", 7, 9) if name in online else None
        bind = Bind("shop", 1, ["news"], "ann", {})
        world.clients.views[f"main:{name}"] = ClientView(
            session, {"shop": bind}, {"shop": 3}, {} if session else {"shop": LEFT_MS}
        )
    return world


def audited(subject: str, number: int, product: str = "shop") -> Audit:
    return Audit(product=product, subject=subject, action="put", by="ann", at_ms=number, before="a", after="b")


async def test_given_a_user_then_all_clients_are_shown_online_or_not_page_by_page() -> None:
    world = with_clients("phone", "tablet", offline=("watch",))
    world.clients.views["eu:other"] = world.clients.views["main:phone"]
    async with world.client() as http:
        first = (await http.get(USER, params={"product": "shop", "limit": 2})).json()
        assert (first["clients_total"], [each["client"] for each in first["clients"]]) == (3, ["phone", "tablet"])
        assert first["clients"][0]["session"]["live"]
        assert first["clients"][0]["last_seen_ms"] > LEFT_MS
        rest = (await http.get(USER, params={"product": "shop", "cursor": first["next"]})).json()
        assert rest["clients"] == [{"client": "watch", "session": None, "last_seen_ms": LEFT_MS, "bound": True, "pending": 3}]
        assert rest["next"] is None
        assert (await http.get("/v1/users/bob", params={"product": "shop"})).json()["type"].endswith(":unknown-user")
        assert (await http.get(USER, params={"product": "other"})).json()["type"].endswith(":unknown-product")
        assert (await http.get(USER)).status_code == 400
        assert (await http.get("/v1/users/a b", params={"product": "shop"})).status_code == 400


async def test_given_a_kick_then_every_session_of_the_user_is_ended_and_each_client_is_told_of() -> None:
    world = with_clients("phone", "tablet", offline=("watch",))
    async with world.client() as http:
        answer = await http.post(f"{USER}/kick", json={"product": "shop", "reason": "closed"})
        assert answer.json() == {"kicked": ["phone", "tablet"], "absent": ["watch"], "failed": []}
        assert (await http.post(f"{USER}/kick", json={"product": "other"})).status_code == 404
        world.clients.down = True
        assert (await http.post(f"{USER}/kick", json={"product": "shop"})).status_code == 503
    assert sorted(world.kicks.asked) == [("main:phone", "r1", "closed"), ("main:tablet", "r1", "closed")]


async def test_given_a_group_then_rooms_and_registry_are_counted() -> None:
    world = with_clients()
    world.census.persons, world.census.found = {"r1": 5}, Known(20, 9, exact=True)
    async with world.client() as http:
        found = (await http.get("/v1/products/shop/groups/news")).json()
        expected = {"online": 5, "unasked": ["r2"], "known": 9, "known_estimated": False}
        assert found == {"product": "shop", "group": "news", **expected}
        assert (world.census.asked[0].groups, world.census.asked[0].include_new) == (["news"], True)
        world.census.found = None
        assert (await http.get("/v1/products/shop/groups/news")).json()["known"] is None
        assert (await http.get("/v1/products/shop/groups/News")).status_code == 400
        assert (await http.get("/v1/products/other/groups/news")).status_code == 404


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
async def test_given_an_audit_then_its_pages_bring_each_record_once_newest_first(limit: int) -> None:
    world = World()
    world.trail.records = [audited("product" if n % 2 else "queue", n, "shop" if n % 5 else "other") for n in range(20)]
    for subject in ("", "queue"):
        times, cursor, params = [], "", {"product": "shop", "subject": subject, "limit": limit}
        async with world.client() as http:
            while cursor is not None:
                page = (await http.get("/v1/audit", params={**params, "cursor": cursor})).json()
                times += [each["at_ms"] for each in page["records"]]
                cursor = page["next"]
        assert times == [n for n in reversed(range(20)) if n % 5 and (not subject or not n % 2)]


async def test_given_no_product_then_the_audit_is_of_what_is_no_products_and_cursors_are_of_one_list() -> None:
    world = World()
    world.trail.records = [audited("config", 1, NO_PRODUCT), audited("product", 2)]
    async with world.client() as http:
        [only] = (await http.get("/v1/audit")).json()["records"]
        assert (only["product"], only["subject"]) == (None, "config")
        foreign = cursor_of("shop", "", 1)
        for cursor in (foreign, cursor_of(NO_PRODUCT, "", -1), cursor_of(NO_PRODUCT, "", "1"), "x"):
            assert (await http.get("/v1/audit", params={"cursor": cursor})).status_code == 400
