"""What `pushctl` does with Kafka's logs: tail, dead letters, replay; and the state of the register that is folded from them."""

from __future__ import annotations

import json
from pathlib import Path

import click

from infra.ops.shell import NOT_FOUND, Ending, data_option, json_option, kafka_of, note, redis_of, run_main, show

since_option = click.option(
    "--since", default="1h", show_default=True, help="10m, 2h, 3d ago, `beginning`, or an ISO time (UTC)."
)
dry_option = click.option("--dry-run", is_flag=True, help="Only say what would be done.")
rate_option = click.option("--rate", type=click.IntRange(1), default=1000, show_default=True, help="Messages a second.")
yes_option = click.option("--yes", is_flag=True, help="Do not ask.")


@click.command()
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
        async for found in logs.read(kafka_of(data), logs.topic_name(topic), since=logs.since_ms(since), follow=follow):
            if fits(found):
                click.echo(json.dumps(found.document()) if as_json else logs.line(found))
                count += 1
                if count == limit:
                    return

    run_main(run())


@click.group()
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
        async for found in again.letters(kafka_of(data), since=logs.since_ms(since), product=product, reason=reason):
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

    found = run_main(logs.at(kafka_of(data), "push.dead", *_place(place)))
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
        found = [item async for item in again.letters(kafka, since=logs.since_ms(since), **by)]
        return [item for item in found if not place or (item.partition, item.offset) == _place(place)]

    chosen = run_main(choose())
    if chosen and not (dry_run or yes):
        click.confirm(f"Send {len(chosen)} messages again?", abort=True, err=True)
    outcome = run_main(again.redrive(kafka, chosen, dry_run=dry_run, rate=rate))
    show(outcome.document(dry_run=dry_run), as_json, again.text)


@click.command()
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


@click.group()
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
