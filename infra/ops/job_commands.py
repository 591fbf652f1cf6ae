"""`pushctl broadcast` and `pushctl job`: start a broadcast, look at it, steer it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import click

from infra.ops.log_commands import yes_option
from infra.ops.shell import FAILED, REFUSED, Ending, ask_center, data_option, json_option, run_main, show, system_of

by_option = click.option("--by", default="", help="Who does it, for the audit (default: the user of this shell).")
why_option = click.option("--reason", default="", help="Why, for the audit.")
timeout_option = click.option("--timeout", type=click.FloatRange(0), default=0, help="Give up after this many seconds.")


@click.command()
@data_option
@json_option
@click.argument("payload")
@click.option("--product", required=True)
@click.option("--group", "groups", multiple=True, help="Only members of this group (repeat: of any of them).")
@click.option("--match", type=click.Choice(["any", "all"]), help="In any of the groups, or in all of them.")
@click.option("--segment", help="""Only who meets this, as 'platform == "ios" && app >= version("3.2")'.""")
@click.option("--sample", help="Only a stable share of the clients, as 5%.")
@click.option("--sample-seed", help="The same seed takes the same clients (default: the broadcast's id).")
@click.option("--audience", help="Only the clients of an uploaded list, by its id.")
@click.option("--include-new", is_flag=True, help="Also who binds the product only after the start.")
@click.option("--rate", type=click.IntRange(1), help="Persons per second (default: the product's, which is the most).")
@click.option("--ramp", help="How long it takes to get to the rate, as 30s.")
@click.option("--priority", type=click.Choice(["high", "normal", "low"]), help="high overtakes, low is bulk.")
@click.option("--ttl", help="How long late joiners still get it, in seconds or as 1h (default: the product's).")
@click.option("--start-at", help="When it starts, as 2026-12-24T08:00:00Z.")
@click.option("--draft", is_flag=True, help="Only keep it: `pushctl job start` starts it.")
@click.option("--canary", "share", help="First only this share, as 1%; then --canary-wait, then on if the thresholds hold.")
@click.option("--canary-wait", "wait", help="How long to wait after the canary, as 60s.")
@click.option("--min-acked", help="Of the canary at least so much is acknowledged, as 90%; else the job is halted.")
@click.option("--max-failed", help="Of all at most so much is refused, as 1%; else the job is halted.")
@click.option("--quiet", help="Hours in which nothing is written, by the client's clock, as 22:00-08:00.")
@click.option("--zone", help="The time zone of clients that name none, as Europe/Berlin (default: UTC).")
@click.option("--fallback-after", help="Hand what is unsettled then to another channel, as 10m.")
@by_option
@click.option("--dry-run", is_flag=True, help="Only say whom it would reach.")
@click.option("--watch", is_flag=True, help="Show it until every room has sent it.")
@yes_option
def broadcast(
    data: Path | None, *, as_json: bool, payload: str, dry_run: bool, watch: bool, by: str, yes: bool, **fields: Any
) -> None:
    """Push one content to everyone bound to a product, or to who meets every condition, at a controlled rate."""
    canary = {name: fields.pop(name) for name in ("share", "wait", "min_acked", "max_failed")}
    fields |= {"by": who(by), "canary": _canary(canary), "quiet": _quiet(fields.pop("quiet"), fields.pop("zone"))}
    body = {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items() if value}
    body["payload"] = payload
    if watch and (body.get("draft") or dry_run):
        raise click.UsageError("--watch is for a broadcast that starts: leave out --draft and --dry-run")
    if dry_run:
        from infra.ops.job_text import estimate_text

        show(ask_center(data, "POST", "/v1/broadcasts/estimate", body), as_json, estimate_text)
        return
    accepted = _confirmed(data, "/v1/broadcasts", body, yes=yes)
    if watch:
        _watch(data, accepted["id"], as_json=as_json, every=False, timeout=0)
    else:
        hint = f"; start it: pushctl job start {accepted['id']}" if body.get("draft") else ""
        show(accepted, as_json, lambda shown: f"job {shown['id']} {shown['state']}{hint}")


def _confirmed(data: Path | None, path: str, body: dict[str, Any], *, yes: bool) -> Any:
    """Post it; where it is for so many persons that it has to be confirmed, ask, unless that was answered before."""

    async def ask(confirm: str | None) -> Any:
        from infra.ops.http import Answered, CenterClient

        async with CenterClient(system_of(data)) as center:
            try:
                return await center.post(path, {**body, "confirm": confirm} if confirm else body)
            except Answered as error:
                if confirm or not error.document.get("confirm"):
                    raise
                return error

    found = run_main(ask(None))
    if not isinstance(found, Exception):
        return found
    question: dict[str, Any] = found.document  # type: ignore[attr-defined]
    if not yes:
        try:
            click.confirm(f"{question['detail'].partition(': ask again')[0]}. Send it?", abort=True, err=True)
        except click.Abort:
            raise Ending("nothing was sent; --yes answers the question", REFUSED) from None
    return run_main(ask(question["confirm"]))


def _canary(given: dict[str, str | None]) -> dict[str, str] | None:
    found = {name: value for name, value in given.items() if value is not None}
    if found and not {"share", "wait"} <= found.keys():
        raise click.UsageError("a canary has --canary and --canary-wait; --min-acked and --max-failed belong to it")
    return found or None


def _quiet(hours: str | None, zone: str | None) -> dict[str, str] | None:
    if hours is None:
        if zone is not None:
            raise click.UsageError("--zone belongs to --quiet")
        return None
    match = re.fullmatch(r"(\d\d:\d\d)-(\d\d:\d\d)", hours)
    if match is None:
        raise click.UsageError(f"--quiet {hours[:40]!a} is no range of hours: give it as 22:00-08:00")
    return {"from": match[1], "to": match[2], **({"zone": zone} if zone else {})}


def who(by: str) -> str:
    """The name for the audit: the one given, or the user whose process this is."""
    import getpass
    import os

    try:
        return by or getpass.getuser()
    except (KeyError, OSError):  # a user without a name, as in some containers
        return f"uid {os.getuid()}"


# --- jobs --------------------------------------------------------------------------------------------------------------


@click.group()
def job() -> None:
    """Broadcasts, as they run."""


@job.command("list")
@data_option
@json_option
@click.option("--product", default="")
@click.option("--state", default="", help="Only those that are running, paused, …")
@click.option("--limit", type=click.IntRange(1, 100), default=20, show_default=True)
def job_list(data: Path | None, *, as_json: bool, product: str, state: str, limit: int) -> None:
    """List broadcasts, newest first."""
    from infra.ops.job_text import list_text

    params = {name: value for name, value in (("product", product), ("state", state), ("limit", str(limit))) if value}
    show(ask_center(data, "GET", "/v1/broadcasts", params), as_json, list_text)


@job.command("show")
@data_option
@json_option
@click.argument("job_id")
def job_show(data: Path | None, as_json: bool, job_id: str) -> None:
    """Show a job: state, progress, the funnel, counts by room."""
    from infra.ops.job_text import job_text

    show(ask_center(data, "GET", f"/v1/broadcasts/{job_id}"), as_json, job_text)


@job.command("watch")
@data_option
@click.option("--json", "as_json", is_flag=True, help="Print a JSON document a line, one for each change.")
@timeout_option
@click.argument("job_id")
def job_watch(data: Path | None, as_json: bool, timeout: float, job_id: str) -> None:
    """Watch a job until it is through; a line for each change where stdout is no terminal.

    Exit status 1 if it was halted or cancelled, 6 if it was not through in time.
    """
    _watch(data, job_id, as_json=as_json, every=True, timeout=timeout)


def _watch(data: Path | None, job_id: str, *, as_json: bool, every: bool, timeout: float) -> None:
    """`every`: the changes are the result, on stdout; else only the last document is, and the changes go to stderr."""
    from rich.console import Console

    from infra.ops.http import CenterClient
    from infra.ops.job_text import watched_text
    from infra.ops.jobs import BADLY, tell, watch

    async def run() -> Any:
        async with CenterClient(system_of(data)) as center:
            if every and as_json:
                return await tell(center, job_id, lambda document, rate: click.echo(json.dumps(document)), timeout=timeout)
            return await watch(center, job_id, Console(stderr=not every, highlight=False, markup=False), timeout=timeout)

    document = run_main(run())
    if not every or not as_json:
        show(document, as_json, lambda shown: f"job {shown['id']} {watched_text(shown)}")
    if document["state"] in BADLY:
        raise Ending(f"job {job_id} was {document['state']}: {document.get('reason') or 'no reason was given'}", FAILED)


def _steering(action: str, help_text: str) -> None:
    """One command that asks for one action."""

    @job.command(action, help=help_text)
    @data_option
    @json_option
    @by_option
    @why_option
    @click.argument("job_id")
    def command(data: Path | None, as_json: bool, by: str, reason: str, job_id: str) -> None:
        _steer(data, "POST", f"/v1/broadcasts/{job_id}/{action}", _words(by, reason), as_json)


for _action, _help in (
    ("pause", "Write to nobody until it is resumed."),
    ("resume", "Go on with a paused or halted job where it stopped."),
    ("cancel", "End a job for good. What was written stays written."),
):
    _steering(_action, _help)


@job.command("start")
@data_option
@json_option
@by_option
@why_option
@yes_option
@click.argument("job_id")
def job_start(data: Path | None, *, as_json: bool, by: str, reason: str, yes: bool, job_id: str) -> None:
    """Start a draft, or at its time."""
    _show_steered(_confirmed(data, f"/v1/broadcasts/{job_id}/start", _words(by, reason), yes=yes), as_json)


@job.command("rate")
@data_option
@json_option
@by_option
@why_option
@click.argument("job_id")
@click.argument("rate", type=click.IntRange(1))
def job_rate(data: Path | None, *, as_json: bool, by: str, reason: str, job_id: str, rate: int) -> None:
    """Go on at another rate, in persons per second."""
    _steer(data, "PUT", f"/v1/broadcasts/{job_id}/rate", {**_words(by, reason), "rate": rate}, as_json)


def _words(by: str, reason: str) -> dict[str, Any]:
    return {"by": who(by), **({"reason": reason} if reason else {})}


def _steer(data: Path | None, method: str, path: str, body: dict[str, Any], as_json: bool) -> None:
    _show_steered(ask_center(data, method, path, body), as_json)


def _show_steered(document: Any, as_json: bool) -> None:
    show(document, as_json, lambda shown: f"job {shown['id']} will be {shown['state']} at {shown['rate']:,}/s")


@job.command("audit")
@data_option
@json_option
@click.argument("job_id")
def job_audit(data: Path | None, as_json: bool, job_id: str) -> None:
    """Who did what to a job, when and why."""
    from infra.ops.job_text import audit_text

    show(ask_center(data, "GET", f"/v1/broadcasts/{job_id}/audit"), as_json, audit_text)
