"""Every answer that is not a success, as `application/problem+json` (RFC 9457).

`type` is `urn:longwire:problem:<kind>`: programs compare it, people read `title` and `detail`. A detail names the thing, the
value and the way out; a value that a sender gave is shown shortened and in ASCII, so that it can't break the document or a log.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPMethod, HTTPStatus
from typing import Any, Final

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field, ValidationError
from starlette.exceptions import HTTPException
from starlette.routing import Match

from infra.journal import JournalDown
from infra.register import RegisterDown
from schemas.names import BadName

RETRY_AFTER_S: Final = 2
SHOWN: Final = 80
"""Characters of a sender's value that a problem shows."""

MEDIA_TYPE: Final = "application/problem+json"

_TITLES: Final = {
    "bad-input": (400, "The request does not fit"),
    "unauthorized": (401, "The API key is missing or wrong"),
    "not-found": (404, "There is no such page"),
    "unknown-product": (404, "There is no such product"),
    "unknown-webhook": (404, "The product has no webhook of this name"),
    "unknown-queue": (404, "The product has no queue of its own"),
    "too-many-queues": (409, "As many products as may have a queue of their own"),
    "unknown-revocation": (404, "There is no such revocation"),
    "too-many-revocations": (409, "As many revocations as may hold at one time"),
    "unknown-key": (404, "There is no such API key"),
    "too-many-keys": (409, "As many API keys as there may be"),
    "two-secrets": (409, "The key has two secrets already"),
    "unknown-entry": (404, "The list does not have it"),
    "confirm-needed": (409, "It must be confirmed"),
    "unknown-client": (404, "Nothing is known of this client"),
    "unknown-user": (404, "Nothing is known of this user"),
    "not-bound": (404, "The client is not bound to the product"),
    "not-connected": (404, "The client has no session now"),
    "unknown-broadcast": (404, "There is no such broadcast"),
    "wrong-state": (409, "The broadcast is not in a state for this"),
    "too-many-broadcasts": (409, "The product has as many broadcasts as it may"),
    "unknown-audience": (404, "There is no such audience"),
    "bad-lines": (400, "Some lines of the list are no client ids"),
    "audience-sealed": (409, "The audience is there already, or is being uploaded"),
    "unknown-message": (404, "There is no such message"),
    "client-needed": (400, "The id alone does not say where it is"),
    "not-pending": (404, "Nothing is pending under this id"),
    "bad-token": (401, "The device's token is missing or wrong"),
    "forbidden": (403, "It is not allowed"),
    "body-timeout": (408, "The body did not arrive in time"),
    "too-large": (413, "The request is too large"),
    "too-many-streams": (429, "So many streams are open already"),
    "too-many-at-once": (429, "The key has as many of these in flight as it may"),
    "too-fast": (429, "The key asks faster than it may"),
    "too-often": (429, "This address asks too often"),
    "busy": (503, "Too many requests are in flight"),
    "precondition-failed": (412, "It is not as the request says that it has to be"),
    "unreadable": (409, "The document can't be read"),
    "changed-meanwhile": (409, "Somebody else changed it meanwhile"),
    "id-taken": (409, "The id stands for something else"),
    "key-reused": (409, "The Idempotency-Key stands for another request"),
    "journal-down": (503, "Kafka did not acknowledge"),
    "register-down": (503, "Redis did not answer"),
    "not-unbound": (503, "The client is not known to have left the product"),
    "not-confirmed": (503, "The confirmation was not stored"),
    "bus-down": (503, "NATS did not answer"),
    "unknown-room": (404, "There is no such room"),
    "room-ends": (409, "The room is ending"),
    "no-room": (503, "No room admits clients now"),
}

_OWN_WORDS: Final = {"extra_forbidden": "is none of the fields that are understood here"}
"""Instead of what pydantic says, by the type of its error."""

log = structlog.get_logger("center")


class FieldError(BaseModel):
    """One thing that does not fit: where, what was given (shortened), and the bound that it breaks."""

    field: str
    value: str | None
    bound: str


class ProblemDocument(BaseModel):
    """The form of every problem."""

    type: str = Field(examples=["urn:longwire:problem:unknown-product"])
    title: str = Field(examples=["There is no such product"])
    status: int = Field(examples=[404])
    detail: str = Field(examples=["product 'shop' is not configured; products are documents of the keeper"])
    errors: list[FieldError] | None = Field(default=None, description="For `bad-input`: each field that does not fit.")
    id: str | None = Field(
        default=None, description="For `journal-down`: repeat the request with this id; it is then stored once."
    )
    whole: bool | None = Field(
        default=None, description="For `unknown-message`: false where the search hit its bound; it may exist all the same."
    )
    state: str | None = Field(default=None, description="For `wrong-state`: where the broadcast is now.")
    possible: list[str] | None = Field(default=None, description="For `wrong-state`: what may be asked of it there.")
    bad: list[dict[str, Any]] | None = Field(default=None, description="For `bad-lines`: the first 100, `line` and `reason`.")
    bad_count: int | None = Field(default=None, description="For `bad-lines`: how many there are.")
    estimate: int | None = Field(
        default=None, description="For `confirm-needed` of a broadcast: persons that it is for; null: that can't be told now."
    )
    confirm: str | None = Field(default=None, description="For `confirm-needed` of a broadcast: give it with the same request.")
    missing: str | None = Field(default=None, description="For `forbidden`: the role that the key does not have.")


class Problem(Exception):
    """Raised where a request can't be served; answered as its document. `kind` is a key of the table above."""

    def __init__(self, kind: str, detail: str, *, retry_after_s: int | None = None, **more: Any) -> None:
        super().__init__(detail)
        self.status, self.title = _TITLES[kind]
        self.document = {
            "type": f"urn:longwire:problem:{kind}",
            "title": self.title,
            "status": self.status,
            "detail": detail,
            **more,
        }
        self.headers: dict[str, str] = {} if retry_after_s is None else {"Retry-After": str(retry_after_s)}
        if self.status == HTTPStatus.UNAUTHORIZED:
            self.headers["WWW-Authenticate"] = 'Bearer realm="longwire"'

    def response(self) -> JSONResponse:
        """The answer."""
        return JSONResponse(self.document, self.status, self.headers, MEDIA_TYPE)


def shown(value: object) -> str:
    """A value as a problem shows it: ASCII, at most `SHOWN` characters."""
    text = ascii(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def bus_down() -> Problem:
    """A 503: NATS was asked, and did not answer."""
    return Problem("bus-down", "NATS did not answer; ask again", retry_after_s=RETRY_AFTER_S)


def bad_input(field: str, value: object, bound: str) -> Problem:
    """A 400 for one field."""
    return Problem(
        "bad-input", f"{field} {shown(value)}: {bound}", errors=[{"field": field, "value": shown(value), "bound": bound}]
    )


def responses(*kinds: str) -> dict[int | str, dict[str, Any]]:
    """The problem responses of an operation, for the OpenAPI document."""
    found: dict[int | str, dict[str, Any]] = {}
    for kind in kinds:
        status, title = _TITLES[kind]
        before = found.get(status)
        found[status] = {
            "model": ProblemDocument,
            "description": f"{before['description']}; {title[0].lower()}{title[1:]}" if before else title,
        }
    return found


def install(app: FastAPI) -> None:
    """Answer every error of `app` as a problem."""
    app.add_exception_handler(Problem, _on_problem)
    app.add_exception_handler(RequestValidationError, _on_validation)
    app.add_exception_handler(BadName, _on_bad_name)
    app.add_exception_handler(JournalDown, _on_journal_down)
    app.add_exception_handler(RegisterDown, _on_register_down)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(Exception, _on_bug)


async def _on_problem(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Problem)
    return error.response()


async def _on_validation(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    return misfit(error.errors()).response()


def misfit(found: Sequence[Mapping[str, Any]]) -> Problem:
    """A 400 with each field that does not fit, the first 20, as pydantic tells them."""
    errors = [_field_error(item) for item in found[:20]]
    detail = "; ".join(f"{item['field']}{' ' + item['value'] if item['value'] else ''}: {item['bound']}" for item in errors)
    return Problem("bad-input", detail, errors=errors)


def _field_error(item: Mapping[str, Any]) -> dict[str, Any]:
    location: Sequence[Any] = item["loc"]
    known = item["type"] not in ("missing", "json_invalid")
    return {
        "field": ".".join(ascii(str(part)[:64])[1:-1] for part in (location[1:] or location))
        if known or item["type"] == "missing"
        else "body",
        "value": shown(item["input"]) if known else None,
        "bound": ascii(_OWN_WORDS.get(item["type"]) or item["msg"].removeprefix("Value error, "))[1:-1][:300],
    }


def invalid(error: ValidationError) -> Problem:
    """A 400 for what does not parse as a document of the keeper. Shows no value: it may be a secret."""
    errors = [
        {**_field_error({**item, "loc": ("body", *item["loc"]), "input": None}), "value": None} for item in error.errors()[:20]
    ]
    return Problem("bad-input", "; ".join(f"{item['field']}: {item['bound']}" for item in errors), errors=errors)


async def _on_bad_name(_: Request, error: Exception) -> JSONResponse:
    return Problem("bad-input", str(error)).response()


async def _on_journal_down(_: Request, error: Exception) -> JSONResponse:
    return journal_down().response()


def journal_down(message_id: str | None = None) -> Problem:
    """The 503 for what Kafka did not acknowledge: the outcome is unknown, and repeating it with its id is harmless."""
    more = {} if message_id is None else {"id": message_id}
    again = "" if message_id is None else " with the same id"
    detail = f"Kafka did not acknowledge in time, so the outcome is unknown; repeat the request{again}"
    return Problem("journal-down", detail, retry_after_s=RETRY_AFTER_S, **more)


async def _on_register_down(_: Request, error: Exception) -> JSONResponse:
    return Problem("register-down", "Redis did not answer; ask again", retry_after_s=RETRY_AFTER_S).response()


async def _on_http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    title = HTTPStatus(error.status_code).phrase
    detail = f"{request.method} {shown(request.url.path)}: {shown(error.detail)[1:-1]}; GET / lists what there is"
    document = {"type": "about:blank", "title": title, "status": error.status_code, "detail": detail}
    headers = {"Allow": _allowed(request)} if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED else error.headers
    return JSONResponse(document, error.status_code, headers, MEDIA_TYPE)


def _allowed(request: Request) -> str:
    """All methods of the path (RFC 9110 §10.2.1): the route that refused knows only its own. Of `/v1/messages/batch` they are not
    those of `/v1/messages/{id}`, as the document has it."""
    found = request.app.openapi()["paths"].get(getattr(request.scope.get("route"), "path", None))
    if found is not None:
        return ", ".join(method.upper() for method in found)
    routes = request.app.router.routes
    return ", ".join(
        method
        for method in HTTPMethod
        if any(route.matches({**request.scope, "method": method.value})[0] is Match.FULL for route in routes)
    )


async def _on_bug(_: Request, error: Exception) -> JSONResponse:
    document = {"type": "about:blank", "title": "Internal Server Error", "status": 500, "detail": type(error).__name__}
    return JSONResponse(document, 500, media_type=MEDIA_TYPE)
