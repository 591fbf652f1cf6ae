"""One command for everything a person or a script does with Longwire.

Exit status: 0 done · 1 bad configuration or input, a process failed, or the job that was watched was halted or cancelled ·
2 wrong usage · 3 not reachable or not running · 4 not found · 5 refused by the server · 6 not in time · 130 interrupted.
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
from infra.ops.access_commands import access
from infra.ops.audience_commands import audience
from infra.ops.drain_commands import drain
from infra.ops.job_commands import broadcast, job
from infra.ops.key_commands import keys
from infra.ops.log_commands import dlq, register, replay, tail
from infra.ops.message_commands import message
from infra.ops.product_commands import audit, product
from infra.ops.queue_commands import queue
from infra.ops.shell import (
    FAILED,
    LATE,
    Ending,
    ask_center,
    data_option,
    json_option,
    kafka_of,
    nats_of,
    note,
    run_main,
    settings_of,
    show,
    system_of,
)
from infra.ops.token_commands import issuer, revocation
from infra.ops.webhook_commands import webhook

if TYPE_CHECKING:
    from infra.settings import Settings


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
@click.option("--rooms", type=click.IntRange(1, 256), help="Of gateways: so many, each with ports of its own, supervised.")
def run(role: str, rooms: int | None) -> None:
    """Start one process from the settings, or several rooms."""
    from importlib import import_module

    from infra import lifecycle

    settings = settings_of(None)
    needed = {"nats.url": settings.nats.url}
    if role != "gateway":
        needed |= {"kafka.bootstrap": settings.kafka.bootstrap, "redis.url": settings.redis.url}
    if missing := [name for name, value in needed.items() if not value]:
        variables = ", ".join(f"LONGWIRE_{name.replace('.', '__').upper()}" for name in missing)
        raise Ending(f"{role} needs {', '.join(missing)}: set {variables}, or name a file by LONGWIRE_CONFIG", FAILED)
    if rooms is not None:
        if role != "gateway":
            raise click.UsageError("--rooms is for gateways")
        from infra.prefork import run_rooms

        raise SystemExit(run_main(run_rooms(settings, rooms, note)))
    if role == "gateway":
        from gateway import compiled

        try:
            compiled.choose(settings.room.compiled)
        except compiled.NotCompiled as error:
            raise Ending(str(error), FAILED) from None
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
@click.option("--mode", type=click.Choice(["push", "pull", "both"]), help="pull: a notice. both: a notice if it is too large.")
@click.option(
    "--pull-after", type=click.FloatRange(0, 3600, min_open=True), help="Seconds that a notice asks to wait before the pull."
)
@click.option("--fallback-after", help="What is unsettled then goes to another channel: 30s, 10m, 2h; at most the time to live.")
def send(data: Path | None, as_json: bool, payload: str, **fields: Any) -> None:
    """Send one message to a client, or to all clients of a user."""
    body = {name: value for name, value in fields.items() if value is not None}
    if ("client" in body) == ("user" in body):
        raise click.UsageError("name either --client or --user, and not both")
    document = ask_center(data, "POST", "/v1/messages", {**body, "payload": payload})
    show(document, as_json, lambda shown: f"accepted {shown['id']}")


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


@cli.group()
def plan() -> None:
    """What something would take, before it is done."""


@plan.command("broadcast")
@json_option
@click.option("--clients", type=click.IntRange(1, 10**10), required=True, help="Bound and online, all of them meant.")
@click.option("--rooms", type=click.IntRange(1, 10_000), required=True, help="Over which they are spread evenly.")
@click.option("--rate", type=click.IntRange(1), required=True, help="Persons per second.")
@click.option("--payload", type=click.IntRange(0, 64 * 1024), default=256, show_default=True, help="Bytes.")
@click.option("--qos", type=click.IntRange(0, 1), default=1, show_default=True, help="Of the clients' binds.")
def plan_broadcast(as_json: bool, **fields: int) -> None:
    """Simulate a broadcast with the owner's own planner: duration, messages, cursor, CPU. Nothing is asked or sent."""
    from dataclasses import asdict

    from infra.ops.plan import forecast_text
    from workers.broadcast.plansim import Campaign, NoPlan, Simulation

    try:
        forecast = Simulation(Campaign(**fields)).run()
    except NoPlan as error:
        raise Ending(str(error), FAILED) from error
    show({**fields, **asdict(forecast)}, as_json, forecast_text)


# --- looking -----------------------------------------------------------------------------------------------------------


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

    show(ask_center(data, "GET", f"/v1/clients/{client_id}"), as_json, client_text)


@client.command("kick")
@data_option
@click.argument("client_id")
@click.option("--reason", default="", help="Told to the client.")
def client_kick(data: Path | None, client_id: str, reason: str) -> None:
    """End a client's session: it is told not to come back by itself. What is pending stays."""
    ask_center(data, "POST", f"/v1/clients/{client_id}/kick", {"reason": reason})
    note(f"{client_id} was told to leave")


@client.command("unbind")
@data_option
@click.argument("client_id")
@click.option("--product", required=True)
def client_unbind(data: Path | None, client_id: str, product: str) -> None:
    """Take a client out of a product and its groups, connected or not; its token may let it bind again. What is pending stays."""
    ask_center(data, "POST", f"/v1/clients/{client_id}/unbind", {"product": product})
    note(f"{client_id} is no longer bound to {product}")


@cli.command()
@data_option
@json_option
@click.argument("client_id")
@click.option("--network", help="wifi, 4g, 3g, 2g, ….")
@click.option("--product", help="Whose client it is.")
@click.option("--region", help="Where it is (default: by this machine's address).")
@click.option("--transport", type=click.Choice(["mqtt", "mqtts", "ws", "wss"]))
@click.option("--last", help="The room of its last good connection.")
@click.option("--attempt", type=click.IntRange(0, 999_999), help="Failures since then.")
@click.option("--failed", multiple=True, help="An address that did not work, host:port (repeat). It counts as a complaint.")
def dispatch(data: Path | None, as_json: bool, client_id: str, failed: tuple[str, ...], **fields: Any) -> None:
    """Show where a device would be told to connect."""
    from infra.ops.show import dispatch_text

    asked = {name: str(value) for name, value in fields.items() if value is not None}
    document = ask_center(data, "GET", "/v1/dispatch", {"client": client_id, **asked, "failed": list(failed)})
    show(document, as_json, dispatch_text)


@cli.group()
def room() -> None:
    """Gateways that live now."""


@room.command("list")
@data_option
@json_option
def room_list(data: Path | None, as_json: bool) -> None:
    """List the live rooms."""
    from infra.ops.show import rooms_text

    show(ask_center(data, "GET", "/v1/rooms"), as_json, rooms_text)


@cli.group()
def topics() -> None:
    """Kafka topics."""


@topics.command("apply")
@data_option
@json_option
def topics_apply(data: Path | None, as_json: bool) -> None:
    """Create the topics that are missing, those of own queues too, and correct the settings of those that are there."""
    from infra.journal import apply_topics
    from infra.ops.queues import switched_on

    kafka, nats = kafka_of(data), nats_of(data)
    queues = run_main(switched_on(nats)) if nats else None
    if queues is None:
        note("NATS is not there to ask which products have own queues: delivery workers create those topics")
    outcome = [{"topic": topic, "outcome": word} for topic, word in run_main(apply_topics(kafka, queues or ()))]
    show(outcome, as_json, lambda rows: "\n".join(f"{row['topic']:<18} {row['outcome']}" for row in rows))


@cli.command("asyncapi")
def print_asyncapi() -> None:
    """Print the AsyncAPI document: the Kafka topics with their records, and the MQTT profile."""
    from infra.asyncapi import document

    click.echo(json.dumps(document(VERSION), indent=2))


for command in (
    broadcast,
    job,
    audience,
    message,
    tail,
    dlq,
    replay,
    register,
    product,
    queue,
    drain,
    access,
    audit,
    revocation,
    issuer,
    keys,
    webhook,
):
    cli.add_command(command)


@cli.command()
def checkconfig() -> None:
    """Read the configuration; exit status 1 and a line for each error if it does not hold together."""
    from gateway.edge.certificates import BadCertificate, Contexts

    settings = settings_of(None)
    try:
        if settings.room.tls.certificates:
            Contexts(settings.room.tls)
    except BadCertificate as error:
        raise Ending(f"the configuration does not hold together:\nroom.tls: {error}", FAILED) from error
    click.echo(f"ok, data in {settings.data}")


def main() -> None:
    """The entry point."""
    cli.main(prog_name="pushctl")


if __name__ == "__main__":
    main()
