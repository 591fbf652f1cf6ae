"""`pushctl webhook`: a secret for one, and a signed event to see whether it works."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from infra.ops.shell import FAILED, Ending, ask_center, data_option, json_option, show


@click.group()
def webhook() -> None:
    """A product's webhooks: who is told of its events."""


@webhook.command("secret")
def webhook_secret() -> None:
    """Print a fresh secret, for a product's document and for the receiver."""
    from infra.documents.webhooks import new_secret

    click.echo(new_secret())


@webhook.command("test")
@data_option
@json_option
@click.argument("product")
@click.argument("endpoint")
def webhook_test(data: Path | None, as_json: bool, product: str, endpoint: str) -> None:
    """Post a signed event of type `webhook.test` to ENDPOINT, and show what it said; exit status 1 if it was not taken."""
    from schemas import names

    try:
        path = f"/v1/products/{names.product(product)}/webhooks/{names.endpoint(endpoint)}/test"
    except names.BadName as error:
        raise Ending(str(error), FAILED) from None
    found = ask_center(data, "POST", path)
    show(found, as_json, outcome_text)
    if not found["taken"]:
        raise Ending("the webhook did not take it", FAILED)


def outcome_text(found: dict[str, Any]) -> str:
    """Status, time and what was said, in up to two lines."""
    outcome = "taken" if found["taken"] else f"not taken: {found['reason']}"
    head = f"{outcome} (status {found['status'] or 'none'}, {found['milliseconds']} ms)"
    return f"{head}\n  it said: {found['said']}" if found["said"] else head
