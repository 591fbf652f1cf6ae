"""Revocations and issuers by the API: what is asked of the table, what is shown, what does not fit; and `pushctl`'s texts."""

from __future__ import annotations

import time
from typing import Any

import msgspec
import pytest
from center_world import World
from token_world import pair

from infra.documents import Issuer, KeySet
from infra.ops.token_text import issuer_text, issuers_text, revocation_text, revocations_text
from infra.revoked import MAX_S, Revocation, Revoked
from infra.tokens import Verifier
from tests.unit.gateway_world import claims
from workers.center.callers.auth import Role
from workers.center.operating.revocations import DEFAULT_S
from workers.center.operating.revoker import Revoker
from workers.center.web.problems import Problem

URL = "https://login.example/jwks"
KEYS = (pair("RS256").document("r"),)


def issuers(world: World, **more: Any) -> World:
    world.documents.issuers["shop"] = Issuer(iss="shop", keys=(pair("HS256").document("own"),), jwks=URL, **more)
    return world


async def post(world: World, body: dict[str, Any], path: str = "/v1/revocations") -> tuple[int, dict[str, Any]]:
    async with world.client() as http:
        answer = await http.post(path, json=body)
    return answer.status_code, answer.json()


@pytest.mark.parametrize(
    ("body", "entry"),
    [
        ({"client": "c1"}, ("client", "main", "", "c1")),
        ({"client": "c1", "realm": "eu"}, ("client", "eu", "", "c1")),
        ({"user": "u1", "product": "shop"}, ("user", "main", "shop", "u1")),
        ({"jti": "t1", "issuer": "https://a/ b"}, ("token", "https://a/ b", "", "t1")),
    ],
)
async def test_given_whom_when_revoked_then_the_table_has_it(body: dict[str, Any], entry: tuple[str, ...]) -> None:
    world = issuers(World())
    now = time.time()
    status, shown = await post(world, {**body, "by": "ann", "reason": "lost"})
    [found] = world.revocations.entries.values()
    assert status == 200
    assert (found.kind, found.scope, found.product, found.subject) == entry
    assert (shown["id"], shown["by"], shown["reason"]) == (found.id, "ann (key operator)", "lost")
    assert now <= found.before <= time.time()
    assert found.until == found.before + DEFAULT_S
    assert entry[3] in revocation_text(shown)


@pytest.mark.parametrize(
    ("lifetimes", "asked", "seconds"),
    [
        ((3600,), None, 3600),
        ((3600, 7200), None, 7200),
        ((3600, None), None, DEFAULT_S),
        ((), None, DEFAULT_S),
        ((3600,), 60, 60),
    ],
)
async def test_given_lifetimes_of_issuers_when_revoked_then_it_holds_until_the_longest_token_is_over(
    lifetimes: tuple[int | None, ...], asked: int | None, seconds: int
) -> None:
    world = World()
    for number, lifetime in enumerate(lifetimes):
        key = pair("HS256").document()
        world.documents.issuers[f"i{number}"] = Issuer(iss=f"i{number}", keys=(key,), max_lifetime=lifetime)
    world.documents.issuers["eu"] = Issuer(iss="eu", realm="eu", keys=(pair("HS256").document(),), max_lifetime=9.0)
    await post(world, {"client": "c1", **({"expires_in_s": asked} if asked else {})})
    [found] = world.revocations.entries.values()
    assert found.until - found.before == pytest.approx(seconds)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"client": "a b"},
        {"client": "c1", "user": "u1", "product": "shop"},
        {"user": "u1"},
        {"client": "c1", "product": "shop"},
        {"jti": "t1"},
        {"issuer": "shop"},
        {"client": "c1", "issuer": "shop"},
        {"jti": "", "issuer": "shop"},
        {"jti": "j" * 257, "issuer": "shop"},
        {"client": "c1", "expires_in_s": 0},
        {"client": "c1", "expires_in_s": MAX_S + 1},
        {"client": "c1", "by": "a\nb"},
        {"client": "c1", "more": 1},
        {"client": "c1", "realm": "E U"},
    ],
)
async def test_given_what_does_not_fit_when_revoked_then_400_and_nothing_is_done(body: dict[str, Any]) -> None:
    world = World()
    status, problem = await post(world, body)
    assert (status, problem["type"]) == (400, "urn:longwire:problem:bad-input")
    assert world.revocations.entries == {}


async def test_given_revocations_when_listed_and_lifted_then_the_newest_first_and_gone() -> None:
    world = World()
    for number in range(3):
        entry = Revocation(kind="client", scope="main", subject=f"c{number}", before=number, until=4e9, by="ann")
        world.revocations.entries[entry.id] = entry
    async with world.client() as http:
        listed = (await http.get("/v1/revocations", params={"limit": 2})).json()
        assert [row["subject"] for row in listed["revocations"]] == ["c2", "c1"]
        assert listed["total"] == 3
        assert revocations_text(listed).endswith("… and 1 more")
        lifted = await http.post(f"/v1/revocations/{listed['revocations'][0]['id']}/lift", json={"by": "ann"})
        again = await http.post(f"/v1/revocations/{listed['revocations'][0]['id']}/lift", json={})
    assert (lifted.status_code, again.status_code) == (200, 404)
    assert len(world.revocations.entries) == 2
    assert revocations_text({"revocations": [], "total": 0}) == "nothing is revoked"


async def test_given_no_key_when_asked_then_401() -> None:
    async with World().client(key="") as http:
        assert (await http.post("/v1/revocations", json={"client": "c1"})).status_code == 401
        assert (await http.get("/v1/issuers")).status_code == 401


async def test_given_a_revoked_token_when_shown_by_http_then_403() -> None:
    world = World()
    revoked = Revoked()
    world.tokens = Verifier(revoked)
    world.tokens.load({"shop": Issuer(iss="shop", keys=(pair("HS256").document(),))})
    now = int(time.time())
    token = pair("HS256").sign(claims(iat=now - 5, exp=now + 60, products={"shop": {}})).decode()
    async with world.client(key="") as http:
        assert (await http.get("/v1/pull/shop", headers={"Authorization": f"Bearer {token}"})).status_code == 200
        entry = Revocation(kind="client", scope="main", subject="c1", before=now, until=now + 60)
        revoked.put(entry.id, msgspec.json.encode(entry))
        answer = await http.get("/v1/pull/shop", headers={"Authorization": f"Bearer {token}"})
    assert (answer.status_code, answer.json()["detail"]) == (403, "the token was revoked")


async def test_given_issuers_when_listed_then_keys_by_name_and_age_and_no_secret() -> None:
    world = issuers(World(), max_lifetime=3600, products=("shop",))
    world.documents.key_sets["shop"] = KeySet(
        iss="shop",
        url=URL,
        fetched_at=time.time() - 50,
        tried_at=time.time(),
        error="it answered 500",
        keys=(pair("RS256").document("r"),),
    )
    async with world.client() as http:
        answer = await http.get("/v1/issuers")
    [row] = answer.json()["issuers"]
    assert [(key["kid"], key["alg"], key["fetched"]) for key in row["keys"]] == [("own", "HS256", False), ("r", "RS256", True)]
    assert 49 < row["jwks_age_s"] < 170
    assert row["jwks_error"] == "it answered 500"
    assert pair("HS256").material not in answer.text
    assert "s ago; the last attempt: it answered 500" in issuer_text(row)
    assert "shop" in issuers_text([row])
    assert issuers_text([]) == "no issuer is in the keeper"


async def test_given_keys_of_another_url_when_listed_then_they_are_not_shown() -> None:
    world = issuers(World())
    world.documents.key_sets["shop"] = KeySet(
        iss="shop", url="https://old/", fetched_at=1, tried_at=1, keys=(pair("RS256").document("r"),)
    )
    async with world.client() as http:
        [row] = (await http.get("/v1/issuers")).json()["issuers"]
    assert ([key["kid"] for key in row["keys"]], row["jwks_age_s"]) == (["own"], None)
    assert "never fetched" in issuer_text(row)


async def test_given_as_many_as_may_hold_when_one_more_is_asked_for_then_409(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.center.operating.revoker.MAX_REVOCATIONS", 1)
    revoked = Revoked()
    entry = Revocation(kind="client", scope="main", subject="c1", before=1, until=4e9)
    revoked.put(entry.id, msgspec.json.encode(entry))
    table = Revoker(None, None, revoked)  # type: ignore[arg-type] - nothing is asked of them
    with pytest.raises(Problem, match="as many as there may be"):
        await table.revoke(Revocation(kind="client", scope="main", subject="c2", before=1, until=4e9))


async def test_given_a_key_with_as_many_revocations_as_it_may_have_then_409_for_it_and_another_revokes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("workers.center.operating.revocations.MAX_OF_ONE", 2)
    world = World()
    one, two = (world.key(Role.OPERATE, products=None) for _ in range(2))

    async def revoke(key: str, client: str) -> Any:
        async with world.client(key=key) as http:
            return await http.post("/v1/revocations", json={"client": client, "by": f"ann (key {two.split('_')[1]})"})

    assert [(await revoke(one, f"c{i}")).status_code for i in (1, 2)] == [200, 200]
    refused = await revoke(one, "c3")
    assert (refused.status_code, refused.json()["type"]) == (409, "urn:longwire:problem:too-many-revocations")
    assert int(refused.headers["retry-after"]) > 0
    assert (await revoke(one, "c2")).status_code == 200, "one that holds may hold for longer"
    assert (await revoke(two, "c3")).status_code == 200
