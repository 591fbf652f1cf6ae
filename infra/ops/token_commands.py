"""`pushctl revocation` and `pushctl issuer`: whose tokens hold no more, and who signs them. Center makes changes, audited."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import Any

import click

from infra.ops.queue_commands import by_option, reason_option
from infra.ops.shell import NOT_FOUND, Ending, ask_center, data_option, json_option, show


@click.group()
def revocation() -> None:
    """Tokens that hold no more: of a client, of a user, or a single one."""


@revocation.command("add")
@data_option
@json_option
@click.option("--client", help="All tokens of this client that were issued until now.")
@click.option("--user", help="All tokens of this user of --product that were issued until now.")
@click.option("--product", help="Of the user.")
@click.option("--jti", help="The one token with this jti of --issuer.")
@click.option("--issuer", help="The iss of the jti.")
@click.option("--realm", help="Of the client or user (default: main).")
@click.option(
    "--expires-in", "expires_in_s", type=click.IntRange(1), help="Seconds until the longest token that it covers has expired."
)
@by_option
@reason_option
def revocation_add(data: Path | None, as_json: bool, **fields: Any) -> None:
    """Revoke tokens: their connections end within a moment (0x87), and none is let in by them. Later tokens are good."""
    from infra.ops.token_text import revocation_text

    if sum(fields[name] is not None for name in ("client", "user", "jti")) != 1:
        raise click.UsageError("name one of --client, --user (with --product) and --jti (with --issuer)")
    body = {name: value for name, value in fields.items() if value}
    show(ask_center(data, "POST", "/v1/revocations", {"by": getpass.getuser(), **body}), as_json, revocation_text)


@revocation.command("list")
@data_option
@json_option
@click.option("--limit", type=click.IntRange(1, 1000), default=100, show_default=True, help="The newest so many.")
def revocation_list(data: Path | None, as_json: bool, limit: int) -> None:
    """What is revoked."""
    from infra.ops.token_text import revocations_text

    show(ask_center(data, "GET", "/v1/revocations", {"limit": str(limit)}), as_json, revocations_text)


@revocation.command("lift")
@data_option
@json_option
@click.argument("revocation_id")
@by_option
@reason_option
def revocation_lift(data: Path | None, as_json: bool, revocation_id: str, **fields: Any) -> None:
    """Let tokens hold again that a revocation covers."""
    from infra.ops.token_text import revocation_text

    body = {name: value for name, value in fields.items() if value}
    row = ask_center(data, "POST", f"/v1/revocations/{revocation_id}/lift", {"by": getpass.getuser(), **body})
    show(row, as_json, lambda shown: f"lifted: {revocation_text(shown)}")


@click.group()
def issuer() -> None:
    """Who signs tokens."""


@issuer.command("list")
@data_option
@json_option
def issuer_list(data: Path | None, as_json: bool) -> None:
    """All issuers, with the number of their keys and the age of those that were fetched."""
    from infra.ops.token_text import issuers_text

    show(ask_center(data, "GET", "/v1/issuers")["issuers"], as_json, issuers_text)


@issuer.command("show")
@data_option
@json_option
@click.argument("iss")
def issuer_show(data: Path | None, as_json: bool, iss: str) -> None:
    """One issuer with its keys."""
    from infra.ops.token_text import issuer_text

    found = [row for row in ask_center(data, "GET", "/v1/issuers")["issuers"] if row["iss"] == iss]
    if not found:
        raise Ending(f"issuer {iss[:64]!a} is not in the keeper", NOT_FOUND)
    show(found[0], as_json, issuer_text)
