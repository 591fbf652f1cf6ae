"""`pushctl queue`: own queues of large products. Changes go through center, so that they are audited."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import Any

import click

from infra.ops.shell import NOT_FOUND, Ending, data_option, json_option, kafka_of, run_main, show, system_of

by_option = click.option("--by", default="", help="Who: kept in the audit (default: your login).")
reason_option = click.option("--reason", default="", help="Why: kept in the audit.")


@click.group()
def queue() -> None:
    """A large product's own queue: its unicast at its own rate, paused and resumed."""


@queue.command("list")
@data_option
@json_option
def queue_list(data: Path | None, as_json: bool) -> None:
    """All own queues, with what is not delivered yet."""
    from infra.ops.queues import queues_text

    show(run_main(_queues(data)), as_json, queues_text)


@queue.command("show")
@data_option
@json_option
@click.argument("product")
def queue_show(data: Path | None, as_json: bool, product: str) -> None:
    """One own queue, partition by partition."""
    from infra.ops.queues import queue_text

    rows = [row for row in run_main(_queues(data)) if row["product"] == product]
    if not rows:
        raise Ending(f"product {product} has no queue of its own; `pushctl queue rate {product} N` switches one on", NOT_FOUND)
    show(rows[0], as_json, queue_text)


@queue.command("rate")
@data_option
@json_option
@click.argument("product")
@click.argument("rate", type=click.IntRange(1))
@by_option
@reason_option
def queue_rate(data: Path | None, as_json: bool, product: str, **body: Any) -> None:
    """Set the RATE in messages per second; a product that has no queue of its own gets one."""
    _change(data, as_json, product, "rate", body)


def _plain(action: str, text: str) -> click.Command:
    """A command that only names a product."""

    @click.command(action, help=text)
    @data_option
    @json_option
    @click.argument("product")
    @by_option
    @reason_option
    def command(data: Path | None, as_json: bool, product: str, **body: Any) -> None:
        _change(data, as_json, product, action, body)

    return command


queue.add_command(_plain("pause", "Deliver nothing of it until it is resumed; what comes is kept, and expires by its TTL."))
queue.add_command(_plain("resume", "Deliver at its rate again."))
queue.add_command(_plain("off", "Switch it off: what is in it is delivered without a limit, the rest comes by the shared topic."))


def _change(data: Path | None, as_json: bool, product: str, action: str, body: dict[str, Any]) -> None:
    from infra.ops.queues import changed_text
    from schemas import names

    async def change() -> Any:
        from infra.ops.http import CenterClient

        given = {name: value for name, value in body.items() if value}
        async with CenterClient(system_of(data)) as center:
            path = f"/v1/products/{names.product(product)}/queue/{action}"
            return await center.post(path, {"by": getpass.getuser(), **given})

    show(run_main(change()), as_json, changed_text)


async def _queues(data: Path | None) -> list[dict[str, Any]]:
    from infra.ops.http import CenterClient
    from infra.ops.queues import with_lag

    async with CenterClient(system_of(data)) as center:
        documents = (await center.get("/v1/queues"))["queues"]
    return await with_lag(kafka_of(data).bootstrap, documents)
