"""API keys: what they open and for how long, what the API says of them, and that no secret is ever seen again."""

from __future__ import annotations

import json
import time
from typing import Any

import msgspec
import pytest
from center_world import KEY, World
from prometheus_client import generate_latest
from structlog.testing import capture_logs

from workers.center.callers.apikey import ApiKey, Secret, hash_of, new_secret, split
from workers.center.callers.auth import Caller, NotAdmitted, Role
from workers.center.callers.keyring import KeyRing, held
from workers.center.callers.keysmith import rotated
from workers.center.web.problems import Problem

ASKED = {"name": "backend", "products": ["shop"], "roles": ["read", "send", "send"], "by": "ann", "reason": "a new server"}


def secret_of(key: str) -> str:
    return key.rpartition("_")[2]


# --- keys --------------------------------------------------------------------------------------------------------------


async def test_given_a_key_when_made_then_it_opens_what_its_roles_say_and_is_shown_once() -> None:
    world = World()
    async with world.client() as http:
        answer = await http.post("/v1/keys", json=ASKED)
        made = answer.json()
        [listed] = (await http.get("/v1/keys")).json()["keys"]
    assert (answer.status_code, answer.headers["cache-control"]) == (201, "no-store")
    assert made["roles"] == ["send", "read"]
    assert listed == {name: value for name, value in made.items() if name != "key"}
    assert secret_of(made["key"]) not in json.dumps(listed)
    [(action, order)] = world.api_keys.orders
    assert (action, order) == ("create", ("ann (key operator)", "a new server"))
    async with world.client(key=made["key"]) as http:
        assert (await http.get("/v1/rooms")).status_code == 200
        refused = await http.post("/v1/broadcasts", json={"product": "shop", "payload": "x"})
    assert (refused.status_code, refused.json()["missing"]) == (403, "broadcast")
    assert refused.json()["type"] == "urn:longwire:problem:forbidden"
    assert world.api_keys.used[-2:] == [made["id"], made["id"]]


@pytest.mark.parametrize("header", ["X-API-Key", "Authorization"])
@pytest.mark.parametrize("change", ["", "id", "secret", "form"])
async def test_given_a_key_that_is_not_one_of_ours_then_401_says_how_to_show_one(header: str, change: str) -> None:
    world = World()
    key = world.key(Role.READ)
    wrong = {
        "": "",
        "id": f"lw_{'0' * 12}_{secret_of(key)}",
        "secret": f"{key[:-1]}{'0' if key[-1] != '0' else '1'}",
        "form": key[3:],
    }
    async with world.client(key="") as http:
        shown = {header: wrong[change] if header == "X-API-Key" else f"Bearer {wrong[change]}"}
        answer = await http.get("/v1/rooms", headers=shown)
        assert (answer.status_code, answer.json()["type"]) == (401, "urn:longwire:problem:unauthorized")
        assert answer.headers["www-authenticate"].startswith("Bearer")
        good = {header: key if header == "X-API-Key" else f"Bearer {key}"}
        assert (await http.get("/v1/rooms", headers=good)).status_code == 200


async def test_given_two_headers_then_either_opens() -> None:
    async with World().client(key=KEY) as http:
        assert (await http.get("/v1/rooms", headers={"Authorization": "Bearer something-else"})).status_code == 200


async def test_given_a_rotation_then_both_secrets_are_good_until_the_older_one_is_dropped() -> None:
    world = World()
    old = world.key(Role.READ)
    key_id = old.split("_")[1]
    async with world.client() as http:
        made = (await http.post(f"/v1/keys/{key_id}/rotate", json={"grace": "1h"})).json()
        assert (made["id"], made["secrets"]) == (key_id, 2)
        assert made["old_secret_until"] == pytest.approx(time.time() + 3600, abs=5)
        again = await http.post(f"/v1/keys/{key_id}/rotate", json={})
        assert (again.status_code, again.json()["type"]) == (409, "urn:longwire:problem:two-secrets")
        for key in (old, made["key"]):
            assert (await http.get("/v1/rooms", headers={"X-API-Key": key})).status_code == 200
        dropped = (await http.post(f"/v1/keys/{key_id}/drop", json={})).json()
        assert dropped["secrets"] == 1
    async with world.client(key=old) as http:
        assert (await http.get("/v1/rooms")).status_code == 401
    async with world.client(key=made["key"]) as http:
        assert (await http.get("/v1/rooms")).status_code == 200


def test_given_a_rotation_with_a_grace_then_the_older_secret_ends_with_it() -> None:
    ring, world = KeyRing(), World()
    old = world.key(Role.READ)
    key_id, now = old.split("_")[1], time.time()
    shown, secret = new_secret(key_id, now)
    ring.put(key_id, msgspec.json.encode(rotated(world.ring.keys[key_id], secret, 60.0, now)))
    for credential in (old, shown):
        assert ring.find(credential.encode(), now + 59) == world.ring.keys[key_id].caller()
    assert ring.find(shown.encode(), now + 60)
    with pytest.raises(NotAdmitted, match="rotated"):
        ring.find(old.encode(), now + 60)


async def test_given_a_revoked_key_then_it_opens_nothing_and_can_not_come_back() -> None:
    world = World()
    key = world.key(Role.READ)
    key_id = key.split("_")[1]
    async with world.client() as http:
        assert (await http.post(f"/v1/keys/{key_id}/revoke", json={"by": "ann"})).json()["secrets"] == 0
    async with world.client(key=key) as http:
        answer = await http.get("/v1/rooms")
    assert (answer.status_code, "was revoked" in answer.json()["detail"]) == (401, True)


def test_given_a_key_that_leaves_then_it_is_counted_no_more() -> None:
    ring, world = KeyRing(), World()
    key_id = world.key(Role.READ).split("_")[1]
    ring.put(key_id, msgspec.json.encode(world.ring.keys[key_id]))
    assert held._value.get() == 1
    ring.put(key_id, None)
    assert held._value.get() == 0


async def test_given_a_key_with_an_end_then_it_opens_until_then() -> None:
    ring, world = KeyRing(), World()
    ends = time.time() + 60
    shown = world.key(Role.READ, expires_at=ends).encode()
    key_id = shown.split(b"_")[1].decode()
    ring.put(key_id, msgspec.json.encode(world.ring.keys[key_id]))
    assert ring.find(shown, ends - 1) == Caller(
        key=key_id, products=frozenset({"shop"}), roles=frozenset({Role.READ}), rate=100, confirm_over=None
    )
    with pytest.raises(NotAdmitted, match="has expired"):
        ring.find(shown, ends)


@pytest.mark.parametrize(
    "change",
    [
        {"roles": []},
        {"roles": ["root"]},
        {"products": []},
        {"products": ["A b"]},
        {"name": ""},
        {"name": "a\nb"},
        {"rate": 0},
        {"rate": True},
        {"expires_in": "soon"},
        {"expires_in": True},
        {"secret": "mine"},
    ],
)
async def test_given_a_bad_order_for_a_key_then_400_and_none_is_made(change: dict[str, Any]) -> None:
    world = World()
    async with world.client() as http:
        assert (await http.post("/v1/keys", json=ASKED | change)).status_code == 400
    assert world.ring.keys == {}


@pytest.mark.parametrize("grace", [-1, True, "soon", 31 * 24 * 3600])
async def test_given_a_bad_grace_then_400(grace: object) -> None:
    world = World()
    key_id = world.key(Role.READ).split("_")[1]
    async with world.client() as http:
        assert (await http.post(f"/v1/keys/{key_id}/rotate", json={"grace": grace})).status_code == 400


# --- an admin of some products -----------------------------------------------------------------------------------------


async def test_given_an_admin_of_a_product_then_its_keys_alone_are_seen_changed_and_made() -> None:
    world = World()
    world.documents.products["cafe"] = world.documents.products["shop"].model_copy(update={"name": "cafe"})
    admin = world.key(Role.ADMIN, products=("shop",))
    others = [world.key(Role.READ, products=products) for products in (("cafe",), ("cafe", "shop"), None)]
    async with world.client(key=admin) as http:
        listed = (await http.get("/v1/keys")).json()["keys"]
        assert [key["id"] for key in listed] == [admin.split("_")[1]]
        for key in others:
            for action in ("rotate", "drop", "revoke"):
                answer = await http.post(f"/v1/keys/{key.split('_')[1]}/{action}", json={})
                assert (answer.status_code, answer.json()["type"]) == (404, "urn:longwire:problem:unknown-key")
        foreign = await http.post("/v1/keys", json=ASKED | {"products": ["shop", "cafe"]})
        assert (foreign.status_code, foreign.json()["type"]) == (404, "urn:longwire:problem:unknown-product")
        assert (await http.post("/v1/keys", json=ASKED | {"products": None})).status_code == 403
        assert (await http.post("/v1/keys", json=ASKED)).status_code == 201


async def test_given_many_keys_then_they_come_in_pages() -> None:
    world = World()
    made = sorted(world.key(Role.READ).split("_")[1] for _ in range(5))
    found: list[str] = []
    async with world.client() as http:
        cursor = ""
        while cursor is not None:
            page = (await http.get("/v1/keys", params={"limit": 2, "cursor": cursor})).json()
            found += [key["id"] for key in page["keys"]]
            cursor = page["next"]
    assert found == made


# --- what is kept ------------------------------------------------------------------------------------------------------


def test_given_what_makes_no_sense_then_it_is_not_taken_and_what_was_there_stays() -> None:
    world = World()
    key_id = world.key(Role.READ).split("_")[1]
    good = world.ring.keys[key_id]
    for bad in (
        b"{}",
        b"nonsense",
        msgspec.json.encode(msgspec.structs.replace(good, id="another")),
        msgspec.json.encode(msgspec.structs.replace(good, secrets=())),
        msgspec.json.encode(msgspec.structs.replace(good, products=("A b",))),
    ):
        with capture_logs() as logs:
            assert not world.ring.put(key_id, bad)
        assert [entry["event"] for entry in logs] == ["API key not read"]
    assert world.ring.keys == {key_id: good}


@pytest.mark.parametrize(
    ("credential", "parts"),
    [
        (b"lw_" + b"0" * 12 + b"_" + b"a" * 64, ("0" * 12, b"a" * 64)),
        (b"lw_" + b"0" * 12 + b"_" + b"a" * 64 + b"\n", None),
        (b"lw_" + b"0" * 11 + b"_" + b"a" * 64, None),
        (b"lw_" + b"G" * 12 + b"_" + b"a" * 64, None),
        (b"lw_" + b"0" * 64, None),
        (b"\xff" * 100, None),
        (b"", None),
    ],
)
def test_given_a_text_then_it_is_a_key_by_its_form_or_none(credential: bytes, parts: tuple[str, bytes] | None) -> None:
    assert split(credential) == parts


def test_given_rotations_then_two_secrets_are_kept_at_most_and_no_ended_one() -> None:
    def secret(name: str, until: float | None = None) -> Secret:
        return Secret(hash_of(name.encode()), 0.0, until)

    key = ApiKey(
        id="0" * 12, name="n", products=None, roles=(Role.READ,), created_at=0.0, created_by="ann", secrets=(secret("a"),)
    )
    second = rotated(key, secret("b"), 60.0, 1000.0)
    assert second.secrets == (secret("a", 1060.0), secret("b"))
    with pytest.raises(Problem):
        rotated(second, secret("c"), 60.0, 1059.0)
    assert rotated(second, secret("c"), 60.0, 1060.0).secrets == (secret("b", 1120.0), secret("c"))
    assert rotated(second, secret("c"), 0.0, 1001.0).secrets == (secret("c"),)


async def test_secrets_in_logs_dumps_and_error_texts() -> None:
    """A row of the threat list: whatever is done with a key, its secret is only in the one answer that made it."""
    world = World()
    async with world.client() as http:
        with capture_logs() as logs:
            made = (await http.post("/v1/keys", json=ASKED)).json()
            key, key_id = made["key"], made["id"]
            texts = [
                (await http.get("/v1/keys")).text,
                (await http.post(f"/v1/keys/{key}/revoke", json={})).text,
                (await http.post(f"/v1/keys/{key}/rotate", json={"by": key, "grace": -1})).text,
                (await http.get("/v1/rooms", headers={"X-API-Key": f"{key}0", "Authorization": f"Bearer {key}1"})).text,
                (await http.get(f"/v1/keys?limit=0&cursor={key_id}")).text,
                (await http.post(f"/v1/keys/{key_id}/revoke", json={})).text,
                (await http.get("/v1/rooms", headers={"X-API-Key": key})).text,
            ]
            world.ring.put(key_id, b"{")
    metrics = generate_latest().decode()
    secret = secret_of(key)
    kept = world.ring.keys[key_id]
    seen = [*texts, metrics, repr(logs), repr(kept), str(kept.text), msgspec.json.encode(kept).decode(), repr(kept.caller())]
    assert [text for text in seen if secret in text] == []
    assert KEY not in "".join(seen)
