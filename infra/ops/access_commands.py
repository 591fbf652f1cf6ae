"""`pushctl access`: who may connect. Center makes changes, audited; every room obeys within a moment."""

from __future__ import annotations

import getpass
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import click

from infra.ops.log_commands import yes_option
from infra.ops.queue_commands import by_option, reason_option
from infra.ops.shell import FAILED, REFUSED, Ending, ask_center, data_option, json_option, run_main, show, system_of

KINDS: Final = ("network", "client", "pattern")
CONFIRM: Final = "confirm-needed"
_ADDRESS_LIKE: Final = re.compile(r"[0-9*?]+(\.[0-9*?]*){1,3}")
"""A part of an IPv4 address, or one with a mistake: taken for a client id, it would deny nobody."""


@click.group()
def access() -> None:
    """Who may connect: lists of networks, client ids and patterns of them."""


@access.command("show")
@data_option
@json_option
def access_show(data: Path | None, as_json: bool) -> None:
    """The lists that are in force."""
    from infra.ops.access_text import access_text

    show(ask_center(data, "GET", "/v1/access"), as_json, access_text)


def _changing(target: str, text: str) -> click.Command:
    """A command that changes one list."""

    @click.command(target, help=f"{text}\n\n{ENTRY_HELP if target != 'uncounted' else NETWORK_HELP}")
    @data_option
    @json_option
    @click.argument("entries", metavar="ENTRY…", nargs=-1, required=True)
    @click.option("--lift", is_flag=True, help="Take them out of the list again.")
    @click.option("--as", "kind", type=click.Choice(KINDS), help="What they are, whatever they look like.")
    @by_option
    @reason_option
    @yes_option
    def command(
        data: Path | None, *, as_json: bool, entries: tuple[str, ...], lift: bool, kind: str | None, yes: bool, **who: str
    ) -> None:
        from infra.ops.access_text import changed_text

        named = sort_out(entries, kind)
        body = {"list": target, "remove" if lift else "add": named, "by": getpass.getuser()}
        body |= {name: value for name, value in who.items() if value}
        document = _change(data, body, confirmed=yes)
        show(document, as_json, lambda shown: changed_text(shown, target, named, lift=lift))

    return command


ENTRY_HELP: Final = (
    "ENTRY is a CIDR network or an address, a pattern of client ids (* any characters, ? one), or a client id; --as says which "
    "where it looks like another."
)
NETWORK_HELP: Final = "ENTRY is a CIDR network or an address."

access.add_command(_changing("deny", "Shut them out: who is connected is closed (0x98), and nobody of them is let in."))
access.add_command(
    _changing("allow", "Let in nobody but them: from the networks, if there are any, and the clients, if there are any.")
)
access.add_command(_changing("uncounted", "Have no caps and rates for addresses of these networks: of balancers, mostly."))


def sort_out(entries: Sequence[str], kind: str | None) -> dict[str, list[str]]:
    """Entries by what they are, as the API takes them; an Ending for one that does not fit or may be two things."""
    from infra.access import network, pattern
    from schemas import names

    check = {"network": network, "client": names.client, "pattern": pattern}
    found: dict[str, list[str]] = {}
    for entry in entries:
        what = kind or _recognised(entry)
        try:
            found.setdefault(f"{what}s", []).append(check[what](entry))
        except ValueError as error:
            raise Ending(f"{what} {entry[:80]!a}: {str(error)[:200]}; nothing was changed", FAILED) from None
    return {name: list(dict.fromkeys(values)) for name, values in found.items()}


def _recognised(entry: str) -> str:
    from infra.access import network

    try:
        network(entry)
    except ValueError:
        if "/" in entry:
            return "network"
        if _ADDRESS_LIKE.fullmatch(entry):
            way_out = "write a network as 203.0.113.0/24, or say --as client or --as pattern"
            raise Ending(f"{entry!a} is no address, but looks like one: {way_out}", FAILED) from None
        return "pattern" if "*" in entry or "?" in entry else "client"
    return "network"


def _change(data: Path | None, body: dict[str, Any], *, confirmed: bool) -> Any:
    """Center's answer; asks whoever calls where center wants it confirmed."""
    question, document = run_main(_post(data, body, confirmed=confirmed))
    if question:
        click.echo(question, err=True)
        try:
            click.confirm("Do it all the same?", abort=True, err=True)
        except click.Abort:
            raise Ending("nothing was changed; --yes does it without asking", REFUSED) from None
        _, document = run_main(_post(data, body, confirmed=True))
    return document


async def _post(data: Path | None, body: dict[str, Any], *, confirmed: bool) -> tuple[str, Any]:
    from infra.ops.http import Answered, CenterClient

    async with CenterClient(system_of(data)) as center:
        try:
            return "", await center.post("/v1/access", {**body, "confirm": True} if confirmed else body)
        except Answered as error:
            if error.kind != CONFIRM:
                raise
            return str(error), None
