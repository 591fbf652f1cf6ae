"""`pushctl product` and `pushctl audit`: products' documents, and what operators did. Center makes and audits the changes."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from infra.ops.shell import data_option, json_option, run_main, show, system_of

if TYPE_CHECKING:
    from infra.ops.http import CenterClient

PAGE: Final = "100"

reason_option = click.option("--reason", default="", help="Why: kept in the audit.")
fields_argument = click.argument("fields", nargs=-1, metavar="FIELD=VALUE...")


@click.group()
def product() -> None:
    """Products: their limits, pace and routes."""


@product.command("list")
@data_option
@json_option
def product_list(data: Path | None, as_json: bool) -> None:
    """All products."""

    async def ask(center: CenterClient) -> Any:
        found: list[Any] = []
        cursor = ""
        while cursor is not None:
            page = await center.get("/v1/products", limit=PAGE, cursor=cursor)
            found += page["products"]
            cursor = page["next"]
        return found

    show(_asked(data, ask), as_json, list_text)


@product.command("show")
@data_option
@json_option
@click.argument("name")
def product_show(data: Path | None, as_json: bool, name: str) -> None:
    """A product's document."""
    show(_asked(data, lambda center: center.get(_path(name))), as_json, document_text)


@product.command("create")
@data_option
@json_option
@click.argument("name")
@fields_argument
@reason_option
def product_create(data: Path | None, as_json: bool, name: str, fields: tuple[str, ...], reason: str) -> None:
    """Make a product, with other values than the default ones: `pushctl product create shop rate=500`."""
    given = _fields(fields)
    show(_asked(data, lambda center: center.create(_path(name), given, **_why(reason))), as_json, document_text)


@product.command("set")
@data_option
@json_option
@click.argument("name")
@fields_argument
@reason_option
def product_set(data: Path | None, as_json: bool, name: str, fields: tuple[str, ...], reason: str) -> None:
    """Change fields of a product; a VALUE is JSON, or a text. `null` is the default."""
    given = _fields(fields)
    show(_asked(data, lambda center: center.patch(_path(name), given, **_why(reason))), as_json, document_text)


@product.command("remove")
@data_option
@click.argument("name")
@reason_option
@click.option("--yes", is_flag=True, help="Do not ask.")
def product_remove(data: Path | None, name: str, reason: str, yes: bool) -> None:
    """Remove a product: nobody can send to it or bind it any more."""
    if not yes:
        click.confirm(f"Remove {name}? Nobody can send to it or bind it then.", abort=True)
    _asked(data, lambda center: center.delete(_path(name), **_why(reason)))
    click.echo(f"{name} is removed")


@click.command()
@data_option
@json_option
@click.option("--product", "name", default="", help="Of this product (default: of none, as policy, access lists, rooms).")
@click.option("--subject", default="", help="Only of this one, as queue, product, or a job's id.")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="The last so many.")
def audit(data: Path | None, as_json: bool, *, name: str, subject: str, limit: int) -> None:
    """What operators did, newest first."""

    async def ask(center: CenterClient) -> Any:
        found: list[Any] = []
        cursor = ""
        while cursor is not None and len(found) < limit:
            page = await center.get("/v1/audit", product=name, subject=subject, limit=PAGE, cursor=cursor)
            found += page["records"]
            cursor = page["next"]
        return found[:limit]

    show(_asked(data, ask), as_json, audit_text)


def _asked(data: Path | None, ask: Callable[[CenterClient], Coroutine[Any, Any, Any]]) -> Any:
    from infra.ops.http import CenterClient

    async def asked() -> Any:
        async with CenterClient(system_of(data)) as center:
            return await ask(center)

    return run_main(asked())


def _path(name: str) -> str:
    from schemas import names

    return f"/v1/products/{names.product(name)}"


def _why(reason: str) -> dict[str, str]:
    return {"reason": reason} if reason else {}


def _fields(texts: tuple[str, ...]) -> dict[str, Any]:
    """`rate=500` → {"rate": 500}; raises click.UsageError."""
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise click.UsageError(f"{text!r} is not FIELD=VALUE")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


def list_text(found: list[dict[str, Any]]) -> str:
    """Products for a person."""
    rows = [f"{each['name']}: {each['rate']}/s, {each['bound']} bound{', own queue' if each['queue'] else ''}" for each in found]
    return "\n".join(rows) or "no products"


def document_text(found: dict[str, Any]) -> str:
    """A document for a person."""
    return json.dumps(found, indent=2, ensure_ascii=False)


def audit_text(found: list[dict[str, Any]]) -> str:
    """An audit for a person."""
    return "\n".join(map(_line, found)) or "nothing was done"


def _line(record: dict[str, Any]) -> str:
    at = datetime.fromtimestamp(record["at_ms"] / 1000, UTC).isoformat(timespec="seconds")
    why = f" ({record['reason']})" if record["reason"] else ""
    return f"{at} {record['by']}: {record['subject']} {record['action']}: {record['before']} → {record['after']}{why}"
