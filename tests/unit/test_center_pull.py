"""`/v1/pull`: whose token may see what, what a body looks like, and what confirms it."""

from __future__ import annotations

import time
from typing import Any

import pytest
from center_world import World
from gateway_world import claims, issuer, sign

from infra.register import PendingItem, Stored

PATH = "/v1/pull/shop"


def token(**changes: Any) -> dict[str, str]:
    now = int(time.time())
    fields = {"iat": now, "exp": now + 24 * 3600, "products": {"shop": {}, "gone": {}}, **changes}
    return {"Authorization": f"Bearer {sign(claims('phone-1', **fields)).decode()}"}


@pytest.fixture
def world() -> World:
    world = World()
    world.tokens.load({"shop": issuer()})
    body = Stored(b"<b>body</b>", content_type="text/html; charset=utf-8", properties=[("k", "\u00e9")], mode="pull", size=11)
    world.pending.items["main:phone-1", "shop"] = [
        PendingItem(1, "m1", body, 30),
        PendingItem(2, "m2", Stored(b"xx", content_type="text/x\r\nSet-Cookie: a=b"), 40),
    ]
    return world


async def ask(world: World, method: str, path: str, headers: dict[str, str]) -> Any:
    async with world.client(key="") as http:
        return await http.request(method, path, headers=headers)


async def test_given_a_devices_token_then_it_sees_what_is_pending_for_it(world: World) -> None:
    answer = await ask(world, "GET", f"{PATH}?limit=1", token())
    assert answer.status_code == 200
    assert answer.json() == {
        "items": [
            {
                "id": "m1",
                "size": 11,
                "expires_in_s": 30,
                "mode": "pull",
                "pull_after_s": 0.0,
                "group": "",
                "content_type": "text/html; charset=utf-8",
                "properties": {"k": "\u00e9"},
            }
        ],
        "more": True,
    }


async def test_given_a_body_then_it_comes_as_bytes_that_no_browser_shows(world: World) -> None:
    answer = await ask(world, "GET", f"{PATH}/m1", token())
    assert (answer.status_code, answer.content) == (200, b"<b>body</b>")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["content-disposition"] == "attachment"
    assert answer.headers["longwire-id"] == "m1"
    assert answer.headers["longwire-properties"] == '{"k": "\\u00e9"}'


async def test_given_a_content_type_that_is_none_then_the_body_is_octets(world: World) -> None:
    answer = await ask(world, "GET", f"{PATH}/m2", token())
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/octet-stream")
    assert "set-cookie" not in answer.headers


async def test_given_a_confirmation_then_it_is_204_and_404_for_what_is_not_pending(world: World) -> None:
    assert (await ask(world, "DELETE", f"{PATH}/m1", token())).status_code == 204
    assert world.pending.confirmed == [("main:phone-1", "shop", "m1")]
    answer = await ask(world, "DELETE", f"{PATH}/nothing", token())
    assert (answer.status_code, answer.json()["type"]) == (404, "urn:longwire:problem:not-pending")


@pytest.mark.parametrize(
    ("headers", "path", "status", "kind"),
    [
        ({}, PATH, 401, "bad-token"),
        ({"Authorization": "Bearer x.y.z"}, PATH, 401, "bad-token"),
        ({"Authorization": "Basic abc"}, f"{PATH}/m1", 401, "bad-token"),
        (token(exp=int(time.time()) - 1), PATH, 401, "bad-token"),
        (token(sub="a b"), PATH, 401, "bad-token"),
        (token(products={"other": {}}), f"{PATH}/m1", 403, "forbidden"),
        (token(), "/v1/pull/gone/m1", 404, "unknown-product"),
        (token(), f"{PATH}/nothing", 404, "not-pending"),
        (token(), f"{PATH}/bad%20id", 400, "bad-input"),
        (token(), f"{PATH}?limit=0", 400, "bad-input"),
    ],
)
async def test_given_a_request_that_does_not_fit_then_the_reason_is_told(
    world: World, headers: dict[str, str], path: str, status: int, kind: str
) -> None:
    answer = await ask(world, "GET", path, headers)
    assert (answer.status_code, answer.json()["type"]) == (status, f"urn:longwire:problem:{kind}"), answer.text
    assert world.pending.confirmed == []


async def test_given_another_client_then_it_sees_nothing_of_this_one(world: World) -> None:
    other = token(sub="phone-2")
    assert (await ask(world, "GET", PATH, other)).json() == {"items": [], "more": False}
    assert (await ask(world, "GET", f"{PATH}/m1", other)).status_code == 404
    assert (await ask(world, "DELETE", f"{PATH}/m1", other)).status_code == 404


@pytest.mark.parametrize("status", ["retry"])
async def test_given_a_register_that_is_not_ready_then_503_and_nothing_is_confirmed(world: World, status: str) -> None:
    world.pending.status = status
    assert (await ask(world, "GET", f"{PATH}/m1", token())).status_code == 503
    assert (await ask(world, "DELETE", f"{PATH}/m1", token())).status_code == 503


async def test_given_the_api_key_instead_of_a_token_then_nothing_is_shown(world: World) -> None:
    async with world.client() as http:
        assert (await http.get(PATH)).status_code == 401
