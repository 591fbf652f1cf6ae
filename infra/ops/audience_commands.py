"""`pushctl audience`: explicit lists of clients, uploaded from a file and looked at."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final
from uuid import uuid4

import click

from infra.ops.shell import data_option, json_option, note, run_main, show, system_of

if TYPE_CHECKING:
    from infra.system import System

PIECE: Final = 256 * 1024
FORMATS: Final = {"ndjson": "application/x-ndjson", "csv": "text/csv", "text": "text/plain"}
_SUFFIXES: Final = {".ndjson": "ndjson", ".jsonl": "ndjson", ".csv": "csv"}


@click.group()
def audience() -> None:
    """Explicit lists of clients, for `pushctl broadcast --audience`."""


@audience.command("upload")
@data_option
@json_option
@click.argument("file", type=click.File("rb"))
@click.option("--product", required=True)
@click.option("--id", "audience_id", default="", help="What broadcasts will call it (default: a random one).")
@click.option("--realm", default="", help="Of the clients (default: main).")
@click.option("--format", "form", type=click.Choice(list(FORMATS)), help="Default: by the file's suffix, else one id a line.")
@click.option("--keep-good", is_flag=True, help="Leave bad lines out, instead of refusing the whole.")
def audience_upload(
    data: Path | None,
    *,
    as_json: bool,
    file: BinaryIO,
    product: str,
    audience_id: str,
    realm: str,
    form: str | None,
    keep_good: bool,
) -> None:
    """Upload the client ids in FILE (- for stdin): NDJSON, CSV (first column) or one a line. It stays as it is."""
    content_type = FORMATS[form or _SUFFIXES.get(Path(file.name).suffix.lower(), "text")]
    params = {"product": product, **({"realm": realm} if realm else {}), **({"keep_good": "true"} if keep_good else {})}
    document = run_main(_upload(system_of(data), file, audience_id or uuid4().hex, content_type, params))
    for bad in document["bad"]:
        note(f"line {bad['line']} left out: {bad['reason']}")
    show(document, as_json, _uploaded_text)


def _uploaded_text(document: Any) -> str:
    left_out = f", {document['bad_count']} lines left out" if document["bad_count"] else ""
    return f"audience {document['audience']}: {document['clients']} clients{left_out}"


async def _upload(system: System, file: BinaryIO, audience_id: str, content_type: str, params: dict[str, str]) -> Any:
    from infra.ops.http import CenterClient

    async with CenterClient(system) as center:
        return await center.upload(f"/v1/audiences/{audience_id}", _pieces(file), content_type=content_type, **params)


async def _pieces(file: BinaryIO) -> AsyncIterator[bytes]:
    while piece := await asyncio.to_thread(file.read, PIECE):
        yield piece


@audience.command("show")
@data_option
@json_option
@click.argument("audience_id")
@click.option("--product", required=True)
def audience_show(data: Path | None, as_json: bool, audience_id: str, product: str) -> None:
    """Show an audience: how many clients it has, and whether it can be used."""
    document = run_main(_show(system_of(data), audience_id, product))
    show(document, as_json, _shown_text)


def _shown_text(document: Any) -> str:
    state = "sealed" if document["sealed"] else "not sealed: its upload has not ended, or broke off"
    return f"audience {document['audience']}: {document['clients']} clients of realm {document['realm']}, {state}"


async def _show(system: System, audience_id: str, product: str) -> Any:
    from infra.ops.http import CenterClient

    async with CenterClient(system) as center:
        return await center.get(f"/v1/audiences/{audience_id}", product=product)
