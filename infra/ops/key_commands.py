"""`pushctl keys`: API keys. Center makes, rotates and revokes them, audited; a secret is printed once, and kept nowhere."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import Any, Final

import click

from infra.ops.queue_commands import by_option, reason_option
from infra.ops.shell import ask_center, data_option, json_option, note, show

ROLES: Final = ("send", "broadcast", "read", "operate", "admin")
ONCE: Final = "This is the only time that the key is shown."


@click.group()
def keys() -> None:
    """API keys: who may ask center for what."""


@keys.command("create")
@data_option
@json_option
@click.argument("name")
@click.option("--product", "products", multiple=True, help="For this product; give it again for more.")
@click.option("--all-products", is_flag=True, help="For every product, those to come, too.")
@click.option("--role", "roles", type=click.Choice(ROLES), multiple=True, required=True, help="Give it again for more.")
@click.option("--rate", type=click.IntRange(1), help="Requests per second (default: 100).")
@click.option("--confirm-over", type=click.IntRange(0), help="A broadcast to more persons has to be confirmed.")
@click.option("--expires-in", help="As 90d (default: never).")
@by_option
@reason_option
def keys_create(
    data: Path | None, *, as_json: bool, products: tuple[str, ...], all_products: bool, roles: tuple[str, ...], **fields: Any
) -> None:
    """Make a key for what NAME says. The key alone goes to stdout."""
    from infra.ops.key_text import key_text

    if bool(products) == all_products:
        raise click.UsageError("give --product, or --all-products")
    body = {"products": None if all_products else list(products), "roles": list(roles), **_given(fields)}
    _show_made(ask_center(data, "POST", "/v1/keys", body), as_json, key_text)


@keys.command("list")
@data_option
@json_option
def keys_list(data: Path | None, as_json: bool) -> None:
    """All keys, those that ended lately, too."""
    from infra.ops.key_text import keys_text

    found: list[dict[str, Any]] = []
    cursor: str | None = ""
    while cursor is not None:
        page = ask_center(data, "GET", "/v1/keys", {"limit": "1000", "cursor": cursor})
        found += page["keys"]
        cursor = page["next"]
    show(found, as_json, keys_text)


@keys.command("rotate")
@data_option
@json_option
@click.argument("key_id")
@click.option("--grace", default="24h", show_default=True, help="How long the secret so far stays good; 0: not at all.")
@click.option("--drop-old", is_flag=True, help="Make no secret: end the older of the two.")
@by_option
@reason_option
def keys_rotate(data: Path | None, *, as_json: bool, key_id: str, grace: str, drop_old: bool, **fields: Any) -> None:
    """Give a key a second secret. The key alone goes to stdout."""
    from infra.ops.key_text import key_text

    if drop_old:
        show(ask_center(data, "POST", f"/v1/keys/{key_id}/drop", _given(fields)), as_json, key_text)
        return
    body = {"grace": 0 if grace == "0" else grace, **_given(fields)}
    _show_made(ask_center(data, "POST", f"/v1/keys/{key_id}/rotate", body), as_json, key_text)


@keys.command("revoke")
@data_option
@json_option
@click.argument("key_id")
@by_option
@reason_option
def keys_revoke(data: Path | None, as_json: bool, key_id: str, **fields: Any) -> None:
    """End a key for good, within a moment."""
    from infra.ops.key_text import key_text

    show(ask_center(data, "POST", f"/v1/keys/{key_id}/revoke", _given(fields)), as_json, key_text)


def _given(fields: dict[str, Any]) -> dict[str, Any]:
    return {"by": getpass.getuser(), **{name: value for name, value in fields.items() if value not in (None, "")}}


def _show_made(made: dict[str, Any], as_json: bool, text: Any) -> None:
    if not as_json:
        note(f"{text(made)}\n{ONCE}")
    show(made, as_json, lambda shown: str(shown["key"]))
