"""`pushctl message`: what became of a message."""

from __future__ import annotations

from pathlib import Path

import click

from infra.ops.shell import FAILED, Ending, ask_center, data_option, json_option, show


@click.group()
def message() -> None:
    """Messages to one client, or to the clients of a user."""


@message.command("show")
@data_option
@json_option
@click.argument("message_id")
@click.option("--client", default="", help="Whose it is: found sooner, and needed where the id is the sender's own.")
@click.option("--user", default="", help="The user that it is for.")
@click.option("--realm", default="", help="The realm of client or user.")
@click.option("--product", default="", help="Only a message of this product.")
@click.option("--trace", is_flag=True, help="Also every receipt.")
def message_show(data: Path | None, *, as_json: bool, message_id: str, trace: bool, **where: str) -> None:
    """Show what became of a message, for each of its clients."""
    from infra.ops.message_text import state_text
    from schemas import names

    try:
        path = f"/v1/messages/{names.message_id(message_id)}"
    except names.BadName as error:
        raise Ending(str(error), FAILED) from None
    params = {name: value for name, value in {**where, "trace": "true" if trace else ""}.items() if value}
    show(ask_center(data, "GET", path, params), as_json, state_text)
