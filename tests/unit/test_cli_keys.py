"""`pushctl keys`: what is asked of center, and that the key alone goes to stdout."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_world import Center, forget_settings, pushctl, system_at

ROW: dict[str, Any] = {
    "id": "0f1e2d3c4b5a",
    "name": "backend",
    "products": ["shop"],
    "roles": ["send", "read"],
    "rate": 100,
    "confirm_over": None,
    "created_at": 1.0,
    "created_by": "ann",
    "expires_at": None,
    "revoked_at": None,
    "secrets": 1,
    "old_secret_until": None,
    "last_used_at": 1_700_000_000.0,
}
MADE = {**ROW, "key": "lw_0f1e2d3c4b5a_secret"}


@pytest.fixture
def center(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Center]:
    forget_settings(monkeypatch, tmp_path)
    monkeypatch.setattr("getpass.getuser", lambda: "ann")
    made = Center()
    system_at(tmp_path, center=made.url)
    yield made
    made.close()


def test_given_create_then_the_key_alone_is_on_stdout(center: Center, tmp_path: Path) -> None:
    center.will(201, MADE)
    result = pushctl("keys", "create", "--data", tmp_path, "backend", "--product", "shop", "--role", "send", "--role", "read")
    assert (result.exit_code, result.stdout) == (0, "lw_0f1e2d3c4b5a_secret\n")
    assert "only time" in result.stderr
    body = {"name": "backend", "products": ["shop"], "roles": ["send", "read"], "by": "ann"}
    assert center.asked == [("POST", "/v1/keys", body)]


@pytest.mark.parametrize("products", [[], ["--all-products", "--product", "shop"]])
def test_given_no_product_or_all_and_one_then_it_is_a_mistake(products: list[str], center: Center, tmp_path: Path) -> None:
    result = pushctl("keys", "create", "--data", tmp_path, "backend", "--role", "send", *products)
    assert (result.exit_code, center.asked) == (2, [])


def test_given_all_options_then_all_are_asked_for(center: Center, tmp_path: Path) -> None:
    center.will(201, MADE)
    more = ("--rate", "5", "--confirm-over", "0", "--expires-in", "90d", "--by", "bob", "--reason", "why")
    result = pushctl("keys", "create", "--data", tmp_path, "x", "--all-products", "--role", "broadcast", *more)
    assert result.exit_code == 0
    assert center.asked[0][2] == {
        "name": "x",
        "products": None,
        "roles": ["broadcast"],
        "rate": 5,
        "confirm_over": 0,
        "expires_in": "90d",
        "by": "bob",
        "reason": "why",
    }


def test_given_list_then_every_page_is_fetched(center: Center, tmp_path: Path) -> None:
    ended = {**ROW, "id": "1" * 12, "revoked_at": 1_700_000_000.0, "secrets": 0}
    center.will(200, {"keys": [ROW], "next": ROW["id"]})
    center.will(200, {"keys": [ended], "next": None})
    lines = pushctl("keys", "list", "--data", tmp_path).stdout.splitlines()
    assert lines[0] == "0f1e2d3c4b5a  backend: send, read of shop, 100/s; last used 2023-11-14 22:13:20Z"
    assert lines[1].endswith("revoked 2023-11-14 22:13:20Z")
    assert [path for _, path, _ in center.asked] == ["/v1/keys?limit=1000&cursor=", f"/v1/keys?limit=1000&cursor={ROW['id']}"]


@pytest.mark.parametrize(
    ("arguments", "path", "body"),
    [
        (["rotate", "k1"], "/v1/keys/k1/rotate", {"grace": "24h", "by": "ann"}),
        (["rotate", "k1", "--grace", "0"], "/v1/keys/k1/rotate", {"grace": 0, "by": "ann"}),
        (["rotate", "k1", "--drop-old"], "/v1/keys/k1/drop", {"by": "ann"}),
        (["revoke", "k1", "--reason", "it leaked"], "/v1/keys/k1/revoke", {"by": "ann", "reason": "it leaked"}),
    ],
)
def test_given_a_change_then_center_is_asked_for_it(
    arguments: list[str], path: str, body: dict[str, Any], center: Center, tmp_path: Path
) -> None:
    center.will(200, MADE)
    assert pushctl("keys", arguments[0], "--data", tmp_path, *arguments[1:]).exit_code == 0
    assert center.asked == [("POST", path, body)]
