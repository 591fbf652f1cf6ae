"""Problems in the shape of Google's APIs, for FCM's endpoint: whoever talks to it reads `error.status` and `error.details`.

Whatever answered (the gate, the key, the route, the framework), it has said a problem; here it is only put into other words.
"""

from __future__ import annotations

import json
from typing import Any, Final

from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.types import ASGIApp, Message, Receive, Scope, Send

PREFIX: Final = "/v1/projects/"

_FCM_ERROR: Final = "type.googleapis.com/google.firebase.fcm.v1.FcmError"
_BAD_REQUEST: Final = "type.googleapis.com/google.rpc.BadRequest"
_ERROR_INFO: Final = "type.googleapis.com/google.rpc.ErrorInfo"
_RETRY_INFO: Final = "type.googleapis.com/google.rpc.RetryInfo"

KEPT: Final = (b"allow", b"retry-after", b"www-authenticate")
"""Headers that an error has, whatever its shape."""

_OF_STATUS: Final[dict[int, tuple[int, str, str]]] = {
    400: (400, "INVALID_ARGUMENT", "INVALID_ARGUMENT"),
    401: (401, "UNAUTHENTICATED", ""),
    403: (403, "PERMISSION_DENIED", ""),
    404: (404, "NOT_FOUND", ""),
    405: (405, "UNIMPLEMENTED", ""),
    408: (408, "DEADLINE_EXCEEDED", ""),
    409: (409, "ABORTED", ""),
    413: (400, "INVALID_ARGUMENT", "INVALID_ARGUMENT"),
    429: (429, "RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED"),
    500: (500, "INTERNAL", "INTERNAL"),
    503: (503, "UNAVAILABLE", "UNAVAILABLE"),
}
_OF_KIND: Final[dict[str, tuple[int, str, str]]] = {
    "confirm-needed": (400, "FAILED_PRECONDITION", ""),
    "key-reused": (409, "ALREADY_EXISTS", ""),
    "too-many-broadcasts": (429, "RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED"),
}
"""Status of the problem, or its kind → HTTP status, canonical code, FCM's own code where it has one.

Never UNREGISTERED: a client that was never heard of is not told apart from one that is away, and senders forget a token by it.
"""


class GoogleError(BaseModel):
    """`code` is the HTTP status, `status` the canonical code; `details` are messages by their `@type`."""

    code: int = Field(examples=[400])
    message: str
    status: str = Field(examples=["INVALID_ARGUMENT"])
    details: list[dict[str, Any]]


class GoogleErrorDocument(BaseModel):
    """The form of every error of this endpoint."""

    error: GoogleError


class GoogleErrors:
    """ASGI middleware: the errors of paths below `PREFIX` in Google's shape; everything else as it is."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, and put an error into other words."""
        if scope["type"] != "http" or not scope["path"].startswith(PREFIX):
            await self._app(scope, receive, send)
            return
        begun: Message | None = None
        body = bytearray()

        async def translated(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start" and message["status"] >= 400:
                begun = message
            elif begun is None:
                await send(message)
            else:
                body.extend(message.get("body", b""))
                if not message.get("more_body", False):
                    await error_of(begun, bytes(body))(scope, receive, send)

        await self._app(scope, receive, translated)


def error_of(begun: Message, body: bytes) -> JSONResponse:
    """The error for a problem, given as the start of its response, and its body."""
    problem: dict[str, Any] = json.loads(body)
    kind = problem["type"].rpartition(":")[2]
    code, status, fcm = _OF_KIND.get(kind) or _OF_STATUS[begun["status"]]
    kept = {name.decode(): value.decode() for name, value in begun["headers"] if name in KEPT}
    details = _details(problem, kind, fcm, kept.get("retry-after"))
    error = GoogleError(code=code, message=problem["detail"], status=status, details=details)
    return JSONResponse({"error": error.model_dump()}, code, kept)


def _details(problem: dict[str, Any], kind: str, fcm: str, retry_after: str | None) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    if problem.get("errors"):
        violations = [{"field": each["field"], "description": each["bound"]} for each in problem["errors"]]
        found.append({"@type": _BAD_REQUEST, "fieldViolations": violations})
    if fcm:
        found.append({"@type": _FCM_ERROR, "errorCode": fcm})
    if retry_after is not None:
        found.append({"@type": _RETRY_INFO, "retryDelay": f"{retry_after}s"})
    reason = kind.upper().replace("-", "_")
    return [*found, {"@type": _ERROR_INFO, "reason": reason, "domain": "longwire", "metadata": {}}]


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The errors of an operation, for the OpenAPI document."""
    return {status: {"model": GoogleErrorDocument, "description": _OF_STATUS[status][1]} for status in statuses}
