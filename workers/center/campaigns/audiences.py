"""`PUT /v1/audiences/{id}`, `GET /v1/audiences/{id}`: explicit lists of clients, which a broadcast may name."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, Query, Request
from prometheus_client import Counter
from pydantic import AfterValidator, BaseModel, Field
from starlette.requests import ClientDisconnect

from infra.audiences import unusable
from infra.journal import JournalDown
from schemas import names
from schemas.broadcasts import MAX_AUDIENCE, Broadcast
from workers.center.callers.auth import Role, Who, needs
from workers.center.campaigns.lines import FORMATS, MAX_LINE, Lines
from workers.center.campaigns.uploads import Slots, Upload
from workers.center.content import ProductName, RecordId, product_of
from workers.center.ports import Parts
from workers.center.web.bodies import Streamed
from workers.center.web.examples import example
from workers.center.web.problems import Problem, bad_input, journal_down, responses

PREFIX: Final = "/v1/audiences/"
MAX_UPLOAD: Final = 2 * 1024**3
"""Bytes of an upload: the largest audience with the longest ids, and some columns beside them."""
UPLOAD_TIMEOUT: Final = 3_600.0
STREAMED: Final = Streamed("PUT", PREFIX, MAX_UPLOAD, UPLOAD_TIMEOUT)
LOOK: Final = 2.0
"""Seconds in which a broadcast's audience is looked for; then its owner has the only word."""
TOLD: Final = 3
"""Bad lines that the detail of a problem names; its `bad` has more."""

_BODY: Final = {
    "requestBody": {
        "required": True,
        "description": f"One id a line, of at most {MAX_LINE} bytes; {MAX_AUDIENCE} ids, and {MAX_UPLOAD} bytes, at most.",
        "content": {
            "application/x-ndjson": {"schema": {"type": "string"}, "example": '"phone-1"\n{"client": "phone-2"}\n'},
            "text/csv": {"schema": {"type": "string"}, "example": "client,name\nphone-1,Ann\n"},
            "text/plain": {"schema": {"type": "string"}, "example": "phone-1\nphone-2\n"},
        },
    }
}

AudienceId = Annotated[RecordId, Path(alias="id")]
Realm = Annotated[str, AfterValidator(names.realm)]


unchecked = Counter("longwire_center_unchecked_audiences_total", "Broadcasts whose audience was not found in time to be checked")


class BadLineView(BaseModel):
    """A line that gives no id: its number, from 1, and why."""

    line: int
    reason: str


class Uploaded(BaseModel):
    """The answer to an upload: the audience is sealed in Kafka, for good."""

    model_config = example(audience="vips", clients=2, chunks=1, bad=[], bad_count=0)

    audience: str
    clients: int = Field(description="Ids; one that came twice within 1,000 ids is counted once.")
    chunks: int
    bad: list[BadLineView] = Field(description="With `keep_good`: the first 100 lines that were left out.")
    bad_count: int = 0


class AudienceView(BaseModel):
    """An audience as it lies in Kafka. Only a sealed one can be used."""

    model_config = example(audience="vips", product="demo", realm="main", sealed=True, clients=2, chunks=1)

    audience: str
    product: str
    realm: str
    sealed: bool
    clients: int
    chunks: int


def router(parts: Parts) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["audiences"])
    slots = Slots()
    refusals = responses(
        "bad-input",
        "bad-lines",
        "unauthorized",
        "unknown-product",
        "body-timeout",
        "audience-sealed",
        "too-large",
        "too-many-at-once",
        "journal-down",
        "busy",
    )

    @routes.put(
        PREFIX + "{id}",
        dependencies=needs(Role.BROADCAST),
        status_code=201,
        response_model=Uploaded,
        responses=refusals,
        openapi_extra=_BODY,
    )
    async def upload_audience(
        *,
        request: Request,
        who: Who,
        audience: AudienceId,
        product: Annotated[ProductName, Query()],
        realm: Annotated[Realm, Query(description="Of the clients.")] = names.DEFAULT_REALM,
        keep_good: Annotated[bool, Query(description="Leave bad lines out, instead of refusing the whole.")] = False,
    ) -> dict[str, Any]:
        """Upload an explicit list of clients, which can be used when this has answered. Its id can't be used again."""
        product_of(parts, who, product)
        if reason := parts.health.reasons().get("kafka"):
            raise Problem("journal-down", f"Kafka can't be used: {reason}")
        lines = Lines(_media_type(request))
        with slots.take(who, product, audience):
            await _check_free(parts, product, audience)
            upload = Upload(parts.journal, audience=audience, product=product, realm=realm)
            await _read(request, lines, upload, keep_good=keep_good)
            if lines.bad_count and not keep_good:
                raise _bad_lines(lines)
            if upload.empty:
                raise bad_input("body", "", "has no id")
            await upload.seal()
            await _check_won(parts, product, upload, audience)
        told = [{"line": line, "reason": reason} for line, reason in lines.bad]
        return {
            "audience": audience,
            "clients": upload.clients,
            "chunks": upload.chunks,
            "bad": told,
            "bad_count": lines.bad_count,
        }

    @routes.get(
        PREFIX + "{id}",
        dependencies=needs(Role.READ),
        response_model=AudienceView,
        responses=responses("bad-input", "unauthorized", "unknown-product", "unknown-audience", "journal-down"),
    )
    async def show_audience(who: Who, audience: AudienceId, product: Annotated[ProductName, Query()]) -> AudienceView:
        """Is an audience there, and sealed? It is looked for in Kafka."""
        product_of(parts, who, product)
        found = await parts.audiences.find(product, audience)
        if found is None:
            raise Problem("unknown-audience", f"product {product} has no audience {audience}")
        return AudienceView(
            audience=audience,
            product=product,
            realm=found.realm,
            sealed=found.sealed,
            clients=found.clients,
            chunks=found.chunks,
        )

    return routes


def _media_type(request: Request) -> str:
    """The body's format; raises a Problem."""
    if encoding := request.headers.get("content-encoding"):
        raise bad_input("Content-Encoding", encoding, "is not read: send the list as it is")
    given = request.headers.get("content-type", "")
    found = given.partition(";")[0].strip().lower()
    if found not in FORMATS:
        raise bad_input("Content-Type", given, f"is none of {', '.join(FORMATS)}")
    return found


async def _read(request: Request, lines: Lines, upload: Upload, *, keep_good: bool) -> None:
    """Read the whole body; once a line is bad, and that matters, only to tell the others."""
    try:
        async for piece in request.stream():
            await _take(lines.feed(piece), lines, upload, keep_good=keep_good)
    except ClientDisconnect:
        raise Problem("body-timeout", "the sender went before the body was here") from None
    await _take(lines.end(), lines, upload, keep_good=keep_good)


async def _take(clients: list[str], lines: Lines, upload: Upload, *, keep_good: bool) -> None:
    if clients and (keep_good or not lines.bad_count):
        await upload.add(clients)


def _bad_lines(lines: Lines) -> Problem:
    named = "; ".join(f"line {line}: {reason}" for line, reason in lines.bad[:TOLD])
    more = "" if lines.bad_count <= TOLD else f"; and {lines.bad_count - TOLD} more"
    detail = f"nothing is kept, as {lines.bad_count} lines give no id ({named}{more}); keep_good=true leaves them out"
    told = [{"line": line, "reason": reason} for line, reason in lines.bad]
    return Problem("bad-lines", detail, bad=told, bad_count=lines.bad_count)


async def _check_free(parts: Parts, product: str, audience: str) -> None:
    found = await parts.audiences.find(product, audience)
    if found is not None and found.sealed:
        detail = f"audience {audience} of product {product} has {found.clients} ids and stays as it is: take another id"
        raise Problem("audience-sealed", detail)


async def _check_won(parts: Parts, product: str, upload: Upload, audience: str) -> None:
    """Is it this upload that became the audience? Another process may have sealed another one meanwhile."""
    found = await parts.audiences.find(product, audience)
    if found is None or not found.sealed:
        raise journal_down()
    if found.upload != upload.id:
        raise Problem("audience-sealed", f"audience {audience} of product {product} was uploaded elsewhere at the same time")


async def check_audience(parts: Parts, record: Broadcast) -> None:
    """Raise a Problem (400) if a broadcast's audience can't be used, as far as that can be told in `LOOK` seconds.

    Where it can't, that is counted, and its owner cancels the broadcast.
    """
    if record.audience is None:
        return
    try:
        found = await parts.audiences.find(record.product, record.audience, deadline=LOOK)
    except JournalDown:
        unchecked.inc()
        return
    if reason := unusable(record, found):
        raise bad_input("audience", record.audience, reason)
