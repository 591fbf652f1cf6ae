"""`pushctl drain`: empty a room while it lives, and open it again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from infra.ops.shell import data_option, json_option, run_main, show, system_of

reason_option = click.option("--reason", default="", help="Why: kept in the audit.")
room_argument = click.argument("room")


@click.group()
def drain() -> None:
    """Send a room's clients to other rooms, at a rate, without ending it."""


@drain.command("start")
@data_option
@json_option
@room_argument
@click.option("--conn-evict-rate", type=click.IntRange(1), default=200, show_default=True, help="Clients per second.")
@click.option("--redirect-to", multiple=True, metavar="HOST:PORT", help="Where they are told to go (default: other rooms).")
@reason_option
@click.option("--yes", is_flag=True, help="Also where no other room is open.")
def drain_start(
    data: Path | None, as_json: bool, room: str, *, conn_evict_rate: int, redirect_to: tuple[str, ...], reason: str, yes: bool
) -> None:
    """Empty ROOM: it admits nobody, and its clients are sent away. Again with another rate: it goes on at that."""
    body: dict[str, Any] = {"conn_evict_rate": conn_evict_rate, "redirect_to": list(redirect_to), "confirm": yes}
    _show(data, as_json, room, "drain", body | ({"reason": reason} if reason else {}))


@drain.command("status")
@data_option
@json_option
@room_argument
def drain_status(data: Path | None, as_json: bool, room: str) -> None:
    """How many clients ROOM still has."""
    _show(data, as_json, room, "drain", None)


@drain.command("stop")
@data_option
@json_option
@room_argument
@reason_option
def drain_stop(data: Path | None, as_json: bool, room: str, reason: str) -> None:
    """Open ROOM again."""
    _show(data, as_json, room, "drain/stop", {"reason": reason} if reason else {})


def _show(data: Path | None, as_json: bool, room: str, what: str, body: dict[str, Any] | None) -> None:
    from infra.ops.http import CenterClient
    from schemas import names

    async def ask() -> Any:
        path = f"/v1/rooms/{names.room(room)}/{what}"
        async with CenterClient(system_of(data)) as center:
            return await (center.get(path) if body is None else center.post(path, body))

    show(run_main(ask()), as_json, drain_text)


def drain_text(found: dict[str, Any]) -> str:
    """A drain for a person."""
    return f"{found['room']}: {found['state']}, {found['connections']} connections"
