"""A token in place of an API key: whose, with what in its claim, for which roles and products; off unless configured."""

from __future__ import annotations

import time
from typing import Any

import pytest
from center_world import KEY, World
from token_world import pair

from infra.documents import ApiGrant, ApiIssuer, Issuer

ISS = "https://login.example"


def token(**change: Any) -> str:
    body = {"iss": ISS, "aud": "longwire-api", "sub": "ann", "exp": int(time.time()) + 600, "groups": ["staff", "push-readers"]}
    body |= change
    return pair("RS256").sign({name: value for name, value in body.items() if value is not None}).decode()


@pytest.fixture
def world() -> World:
    world = World()
    grants = (
        ApiGrant(value="push-admins", roles=("admin", "read"), products=None),
        ApiGrant(value="push-readers", roles=("read",), products=("shop",)),
    )
    issuer = ApiIssuer(iss=ISS, audience="longwire-api", keys=(pair("RS256").document(),), grants=grants)
    world.api_tokens.load({ISS: issuer})
    return world


async def status(world: World, shown: str, path: str = "/v1/broadcasts", method: str = "GET") -> int:
    async with world.client(key="") as http:
        return (await http.request(method, path, headers={"Authorization": f"Bearer {shown}"})).status_code


async def test_given_a_token_then_it_may_what_its_group_is_granted(world: World) -> None:
    assert await status(world, token()) == 200
    assert await status(world, token(), "/v1/keys") == 403
    assert await status(world, token(), "/v1/access") == 403
    assert await status(world, token(groups=["push-readers", "push-admins"]), "/v1/keys") == 200
    assert await status(world, token(groups="push-admins"), "/v1/access") == 200
    assert await status(world, token(), "/v1/products/shop/queue") == 404
    assert world.api_keys.used == []


@pytest.mark.parametrize(
    "change",
    [
        {"aud": "longwire"},
        {"aud": None},
        {"iss": "https://other.example"},
        {"exp": 1},
        {"exp": None},
        {"sub": None},
        {"sub": ""},
        {"sub": 7},
        {"groups": None},
        {"groups": []},
        {"groups": ["staff"]},
        {"groups": {"push-readers": True}},
        {"groups": [["push-readers"]]},
        {"nbf": 1 << 39},
    ],
)
async def test_given_a_token_that_does_not_fit_then_401(world: World, change: dict[str, Any]) -> None:
    assert await status(world, token(**change)) == 401


async def test_given_a_forged_token_or_none_configured_then_401(world: World) -> None:
    good = token()
    head, body, signature = good.split(".")
    assert await status(world, f"{head}.{body}.{signature[:-4]}AAAA") == 401
    assert await status(world, f"{head}.{body}.") == 401
    assert await status(world, "a.b.c") == 401
    assert await status(World(), good) == 401
    assert await status(World(), KEY) == 200


async def test_given_a_devices_token_then_it_opens_nothing(world: World) -> None:
    world.tokens.load({"shop": Issuer(iss="shop", keys=(pair("RS256").document(),))})
    assert await status(world, pair("RS256").sign().decode()) == 401


async def test_given_two_people_then_each_has_a_rate_and_ids_of_its_own(world: World) -> None:
    for sub in ("ann", "bob", "ann"):
        await status(world, token(sub=sub))
    names = [name for name, *_ in world.shared.asked]
    assert (names[0], len(set(names))) == (names[2], 2)
    assert all(name.startswith("oidc-") for name in names)
