"""One command for everything a person or a script does with Longwire.

Exit status: 0 done · 1 bad configuration or input, or a process failed · 2 wrong usage · 3 not reachable or not running ·
4 not found · 5 refused by the server · 6 not in time · 130 interrupted.
"""
# Commands import what they run only when they are run, and define no defaults of their own: those are in `infra.settings`.

from __future__ import annotations

import asyncio
import json
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from infra import VERSION
from infra.ops.shell import (
    FAILED,
    LATE,
    NOT_FOUND,
    Ending,
    data_option,
    json_option,
    kafka_of,
    note,
    redis_of,
    run_main,
    settings_of,
    show,
    system_of,
)

if TYPE_CHECKING:
    from infra.settings import Settings
    from infra.system import System


@click.group(help=__doc__, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(VERSION, prog_name="pushctl")
def cli() -> None:
    """The group."""


# --- a whole system ----------------------------------------------------------------------------------------------------


@cli.command()
@data_option
@json_option
@click.option("--rooms", type=click.IntRange(1, 16), default=1, show_default=True, help="How many rooms to start.")
@click.option("--detach", is_flag=True, help="Return when all is ready; stop it with `pushctl down`.")
def up(data: Path | None, as_json: bool, rooms: int, detach: bool) -> None:
    """Start brokers (if none are configured) and every process."""
    from infra.ops.detached import start_detached

    settings = settings_of(data)
    if detach:
        system = run_main(start_detached(settings, rooms, note))
        show(system.shown(), as_json, lambda shown: f"ready: center {shown['center']}, {len(system.rooms)} rooms")
        return
    run_main(_stay_up(settings, rooms, as_json))


async def _stay_up(settings: Settings, rooms: int, as_json: bool) -> None:
    from infra.ops.up import RunningSystem

    running = RunningSystem(settings, rooms=rooms, progress=note)
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    try:
        start = asyncio.create_task(running.start())
        await asyncio.wait({start, asyncio.create_task(ended.wait())}, return_when=asyncio.FIRST_COMPLETED)
        if not start.done():
            start.cancel()
            await asyncio.gather(start, return_exceptions=True)
            return
        system = start.result()
        show(system.shown(), as_json, lambda shown: f"ready: center {shown['center']}; Ctrl-C stops everything")
        await ended.wait()
        click.echo("stopping…", err=True)
    finally:
        await running.stop()


@cli.command()
@data_option
def down(data: Path | None) -> None:
    """Stop the system of the data folder."""
    from infra.ops.detached import stop_detached

    run_main(stop_detached(system_of(data)))
    click.echo("stopped")


@cli.command()
@click.option("--devices", type=click.IntRange(20, 10_000), default=1000, show_default=True)
@click.option(
    "--data", type=click.Path(path_type=Path, file_okay=False), help="Keep the data here (default: a temporary folder)."
)
@json_option
def demo(devices: int, data: Path | None, as_json: bool) -> None:
    """See it work: real brokers, two rooms, devices, pushes, a room killed; ends with the ledger."""
    from infra.demo.scenario import run_demo

    with tempfile.TemporaryDirectory(prefix="longwire-demo-") as temporary:
        folder = data.absolute() if data else Path(temporary)
        if not run_main(run_demo(devices=devices, folder=folder, as_json=as_json)):
            raise Ending("the demo did not add up", FAILED)


@cli.command()
@data_option
def play(data: Path | None) -> None:
    """Leave a system running and print what to try."""
    from infra.ops.detached import start_detached
    from infra.ops.play import show_play
    from infra.system import read

    settings = settings_of(data)
    click.echo(show_play(read(settings.data) or run_main(start_detached(settings, 2, note))))


@cli.command()
@click.argument("role", type=click.Choice(["gateway", "saver", "delivery", "broadcast", "coordinator", "center"]))
def run(role: str) -> None:
    """Start one process from the settings."""
    from importlib import import_module

    from infra import lifecycle

    settings = settings_of(None)
    needed = {"nats.url": settings.nats.url}
    if role != "gateway":
        needed |= {"kafka.bootstrap": settings.kafka.bootstrap, "redis.url": settings.redis.url}
    if missing := [name for name, value in needed.items() if not value]:
        variables = ", ".join(f"LONGWIRE_{name.replace('.', '__').upper()}" for name in missing)
        raise Ending(f"{role} needs {', '.join(missing)}: set {variables}, or name a file by LONGWIRE_CONFIG", FAILED)
    module = {"gateway": "gateway.main", "center": "workers.center.main"}.get(role, "workers.main")
    main = getattr(import_module(module), "main" if role in ("gateway", "center") else role)
    raise SystemExit(lifecycle.run(lambda: main(settings)))


# --- pushing -----------------------------------------------------------------------------------------------------------


@cli.command()
@data_option
@click.option("--client", required=True)
@click.option("--product", required=True)
@click.option("--user", default="", help="The user whose device this is.")
@click.option("--group", "groups", multiple=True, help="A group that it may join (repeat; * for any).")
@click.option("--ttl", type=click.IntRange(1), default=86400, show_default=True, help="Seconds until it expires.")
def token(data: Path | None, ttl: int, **fields: Any) -> None:
    """Print a token for a device."""
    from infra.ops.tokens import make_token

    async def make() -> str:
        return make_token(settings_of(data).data, ttl_s=ttl, **fields)

    click.echo(run_main(make()))


@cli.command()
@data_option
@json_option
@click.argument("payload")
@click.option("--product", required=True)
@click.option("--client")
@click.option("--user", help="Every client of this user, instead of one client.")
@click.option("--qos", type=click.IntRange(0, 1), default=1, show_default=True, help="0: fire-and-forget, never stored.")
@click.option("--ttl", type=click.IntRange(1), help="Seconds (default: the product's).")
def send(data: Path | None, as_json: bool, payload: str, **fields: Any) -> None:
    """Send one message to a client, or to all clients of a user."""
    body = {name: value for name, value in fields.items() if value is not None}
    if ("client" in body) == ("user" in body):
        raise click.UsageError("name either --client or --user, and not both")
    document = run_main(_post(system_of(data), "/v1/messages", {**body, "payload": payload}))
    show(document, as_json, lambda shown: f"accepted {shown['id']}")


async def _post(system: System, path: str, body: dict[str, Any]) -> Any:
    from infra.ops.http import CenterClient

    async with CenterClient(system) as center:
        return await center.post(path, body)


async def _get(system: System, path: str, **params: str) -> Any:
    from infra.ops.http import CenterClient

    async with CenterClient(system) as center:
        return await center.get(path, **params)


@cli.command()
@data_option
@json_option
@click.option("--client", required=True)
@click.option("--product", required=True)
@click.option("--group", "groups", multiple=True)
@click.option("--user", default="")
@click.option("--qos", type=click.IntRange(0, 1), default=1, show_default=True)
@click.option("--token", default="", help="A token from `pushctl token` (default: a fresh one).")
@click.option("--count", type=click.IntRange(0), default=0, help="End after this many messages.")
@click.option("--timeout", type=float, default=0, help="End after this many seconds.")
def listen(data: Path | None, as_json: bool, count: int, **fields: Any) -> None:
    """Be a device in the terminal: print what is pushed to it."""
    from infra.ops import device

    seen = run_main(device.listen(system_of(data), as_json=as_json, count=count, say=click.echo, note=note, **fields))
    if count and seen < count:
        raise Ending(f"{seen} of {count} messages came in time", LATE)


@cli.command()
@data_option
@json_option
@click.argument("payload")
@click.option("--product", required=True)
@click.option("--group", "groups", multiple=True, help="Only to members of this group (repeat: any of them).")
@click.option("--rate", type=click.IntRange(1), help="Persons per second (default: the product's).")
@click.option("--ttl", type=click.IntRange(1), help="Seconds that late joiners still get it.")
@click.option("--watch", is_flag=True, help="Show the progress until every room has sent it.")
def broadcast(data: Path | None, as_json: bool, watch: bool, **fields: Any) -> None:
    """Push one content to everyone bound to a product, or to groups, at a controlled rate."""
    body = {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items() if value}
    document = run_main(_broadcast(system_of(data), body, watch))
    from infra.ops.show import watched_text

    show(document, as_json, lambda shown: f"job {shown['id']} " + (watched_text(shown) if watch else shown["state"]))


async def _broadcast(system: System, body: dict[str, Any], watch: bool) -> Any:
    from rich.console import Console

    from infra.ops.http import CenterClient
    from infra.ops.jobs import watch as watch_job

    async with CenterClient(system) as center:
        accepted = await center.post("/v1/broadcasts", body)
        if not watch:
            return accepted
        return {"id": accepted["id"], **await watch_job(center, accepted["id"], Console(stderr=True))}


# --- looking -----------------------------------------------------------------------------------------------------------


@cli.group()
def job() -> None:
    """Broadcasts, as they run."""


@job.command("show")
@data_option
@json_option
@click.argument("job_id")
def job_show(data: Path | None, as_json: bool, job_id: str) -> None:
    """Show a job: state, progress, counts by room."""
    from infra.ops.show import job_text

    show(run_main(_get(system_of(data), f"/v1/broadcasts/{job_id}")), as_json, job_text)


@cli.group()
def client() -> None:
    """What is known of a client."""


@client.command("show")
@data_option
@json_option
@click.argument("client_id")
def client_show(data: Path | None, as_json: bool, client_id: str) -> None:
    """Show a client: its session, binds and what is pending."""
    from infra.ops.show import client_text

    show(run_main(_get(system_of(data), f"/v1/clients/{client_id}")), as_json, client_text)


@cli.group()
def room() -> None:
    """Gateways that live now."""


@room.command("list")
@data_option
@json_option
def room_list(data: Path | None, as_json: bool) -> None:
    """List the live rooms."""
    from infra.ops.show import rooms_text

    show(run_main(_get(system_of(data), "/v1/rooms")), as_json, rooms_text)


@cli.group()
def topics() -> None:
    """Kafka topics."""


@topics.command("apply")
@data_option
@json_option
def topics_apply(data: Path | None, as_json: bool) -> None:
    """Create the topics that are missing; what is there is left as it is."""
    from infra.journal import apply_topics

    settings = settings_of(data)
    if not settings.kafka.bootstrap:
        settings = settings.model_copy(update={"kafka": settings.kafka.model_copy(update={"bootstrap": system_of(data).kafka})})
    outcome = [{"topic": topic, "outcome": word} for topic, word in run_main(apply_topics(settings.kafka))]
    show(outcome, as_json, lambda rows: "\n".join(f"{row['topic']:<18} {row['outcome']}" for row in rows))


# --- what Kafka and Redis hold ----------------------------------------------------------------------------------------

since_option = click.option(
    "--since", default="1h", show_default=True, help="10m, 2h, 3d ago, `beginning`, or an ISO time (UTC)."
)
dry_option = click.option("--dry-run", is_flag=True, help="Only say what would be done.")
rate_option = click.option("--rate", type=click.IntRange(1), default=1000, show_default=True, help="Messages a second.")
yes_option = click.option("--yes", is_flag=True, help="Do not ask.")


@cli.command()
@data_option
@json_option
@click.argument("topic")
@since_option
@click.option("--follow", "-f", is_flag=True, help="Go on with what comes; Ctrl-C ends it.")
@click.option("--client", default="")
@click.option("--product", default="")
@click.option("--id", "message", default="")
@click.option("--limit", type=click.IntRange(1), help="End after this many records.")
def tail(data: Path | None, *, as_json: bool, topic: str, since: str, follow: bool, limit: int | None, **filters: str) -> None:
    """Show a Kafka topic's records, decoded (`push.` may be left out)."""
    from infra.ops import logs

    async def run() -> None:
        fits, count = logs.matching(**filters), 0
        async for found in logs.read(kafka_of(data).bootstrap, logs.topic_name(topic), since=logs.since_ms(since), follow=follow):
            if fits(found):
                click.echo(json.dumps(found.document()) if as_json else logs.line(found))
                count += 1
                if count == limit:
                    return

    run_main(run())


@cli.group()
def dlq() -> None:
    """Dead letters: what could not be handled, with the reason."""


@dlq.command("list")
@data_option
@json_option
@since_option
@click.option("--product", default="")
@click.option("--reason", default="", help="A text in the reason.")
def dlq_list(data: Path | None, as_json: bool, since: str, product: str, reason: str) -> None:
    """One line a dead letter: its place, and why."""
    from infra.ops import again, logs

    async def run() -> int:
        count = 0
        async for found in again.letters(kafka_of(data).bootstrap, since=logs.since_ms(since), product=product, reason=reason):
            click.echo(json.dumps(found.document()) if as_json else logs.line(found))
            count += 1
        return count

    count = run_main(run())
    note(f"{count} dead letters")


@dlq.command("show")
@data_option
@click.argument("place")
def dlq_show(data: Path | None, place: str) -> None:
    """One dead letter whole, by its PLACE (partition:offset), with the record that it holds."""
    from infra.ops import logs

    found = run_main(logs.at(kafka_of(data).bootstrap, "push.dead", *_place(place)))
    if found is None:
        raise Ending(f"there is no dead letter at {place}", NOT_FOUND)
    click.echo(json.dumps({**found.document(), "holds": logs.held(found)}, indent=2))


@dlq.command("redrive")
@data_option
@json_option
@since_option
@click.option("--product", default="")
@click.option("--reason", default="", help="A text in the reason.")
@click.option("--place", default="", help="Only the dead letter at partition:offset.")
@dry_option
@rate_option
@yes_option
def dlq_redrive(
    data: Path | None, *, as_json: bool, since: str, place: str, dry_run: bool, rate: int, yes: bool, **by: str
) -> None:
    """Send the messages of dead letters again, each under a new id made from its old one.

    The old id is settled: under it nothing would be delivered. Repeating a redrive adds nothing.
    """
    from infra.ops import again, logs

    kafka = kafka_of(data)

    async def choose() -> list[logs.Found]:
        found = [item async for item in again.letters(kafka.bootstrap, since=logs.since_ms(since), **by)]
        return [item for item in found if not place or (item.partition, item.offset) == _place(place)]

    chosen = run_main(choose())
    if chosen and not (dry_run or yes):
        click.confirm(f"Send {len(chosen)} messages again?", abort=True, err=True)
    outcome = run_main(again.redrive(kafka, chosen, dry_run=dry_run, rate=rate))
    show(outcome.document(dry_run=dry_run), as_json, again.text)


@cli.command()
@data_option
@json_option
@click.option("--client", default="", help="Of this client.")
@click.option("--product", default="", help="Of this product.")
@since_option
@click.option("--until", help="Only what was sent before.")
@click.option("--all", "everything", is_flag=True, help="Also what was delivered, replaced, or is pending.")
@dry_option
@rate_option
@yes_option
def replay(
    data: Path | None,
    *,
    as_json: bool,
    client: str,
    product: str,
    since: str,
    until: str | None,
    everything: bool,
    dry_run: bool,
    rate: int,
    yes: bool,
) -> None:
    """Send again what was sent since a time and ended undelivered (expired, evicted, dead), from Kafka.

    Each message has its whole time to live again, no collapse key, and a new id: the same for the same --since, so that a repeat
    adds nothing (give an ISO time).
    """
    from infra.ops import again, logs

    if not client and not product:
        raise click.UsageError("give --client or --product")
    before = logs.since_ms(until) if until else None
    begin, kafka = logs.since_ms(since), kafka_of(data)

    wanted = again.Wanted(since=begin, until=before, client=client, product=product, everything=everything)

    def run(*, dry: bool) -> again.Outcome:
        found: again.Outcome = run_main(again.replay(kafka, wanted, dry_run=dry, rate=rate))
        return found

    outcome = run(dry=True)
    if not dry_run and outcome.produced:
        if not yes:
            click.confirm(f"Send {outcome.produced} messages again?", abort=True, err=True)
        outcome = run(dry=False)
    show(outcome.document(dry_run=dry_run), as_json, again.text)


@cli.group()
def register() -> None:
    """Redis, the index of sessions and pending messages."""


@register.command("status")
@data_option
@json_option
def register_status(data: Path | None, as_json: bool) -> None:
    """Which servers are open, in which generation, and how far a rebuild has come."""
    from infra.ops.register import status, status_text

    show(run_main(status(redis_of(data))), as_json, status_text)


def _place(text: str) -> tuple[int, int]:
    partition, _, offset = text.partition(":")
    if not (partition.isdigit() and offset.isdigit()):
        raise click.UsageError(f"{text[:40]!a} is no place: give partition:offset, as `pushctl dlq list` shows it")
    return int(partition), int(offset)


@cli.command()
def checkconfig() -> None:
    """Read the configuration; exit status 1 and a line for each error if it does not hold together."""
    settings = settings_of(None)
    click.echo(f"ok, data in {settings.data}")


def main() -> None:
    """The entry point."""
    cli.main(prog_name="pushctl")


if __name__ == "__main__":
    main()
