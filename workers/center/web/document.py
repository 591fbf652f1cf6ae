"""What the OpenAPI document says beyond what the routes do: the media type of problems, and what gate and key may answer."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI

from workers.center.web.bodies import MAX_BODY
from workers.center.web.examples import with_nulls
from workers.center.web.problems import MEDIA_TYPE, ProblemDocument, responses

_PROBLEM: Final = {"schema": {"$ref": f"#/components/schemas/{ProblemDocument.__name__}"}}


def describe(app: FastAPI) -> None:
    """Make the OpenAPI document say what is true here: problems are problem+json, and what does not fit is a 400, no 422."""
    generated = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = generated()
            for item in document["paths"].values():
                for operation in item.values():
                    _tell_problems(operation)
                    _tell_before(operation)
            for name in ("HTTPValidationError", "ValidationError"):
                document["components"]["schemas"].pop(name, None)
            document["info"]["x-max-body-bytes"] = MAX_BODY
            schemas = document["components"]["schemas"]
            document["components"]["schemas"] = {name: with_nulls(schema) for name, schema in schemas.items()}
        assert app.openapi_schema is not None
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _tell_problems(operation: dict[str, Any]) -> None:
    operation["responses"].pop("422", None)
    for status, answer in operation["responses"].items():
        content = answer.get("content", {})
        if int(status) >= HTTPStatus.BAD_REQUEST and content.get("application/json") == _PROBLEM:
            answer["content"] = {MEDIA_TYPE: _PROBLEM}


def _tell_before(operation: dict[str, Any]) -> None:
    """What is answered before the route is asked."""
    found = dict(operation["responses"])
    if "requestBody" in operation:
        found = _GATE_OF_BODIES | found
    if any("bearer" in scheme for scheme in operation.get("security", ())):
        found = _KEY | found
    operation["responses"] = dict(sorted((_GATE | found).items()))


def _answers(*kinds: str) -> dict[str, Any]:
    content = {MEDIA_TYPE: _PROBLEM}
    return {str(status): {"description": each["description"], "content": content} for status, each in responses(*kinds).items()}


_GATE: Final = _answers("busy")
_GATE_OF_BODIES: Final = _answers("body-timeout", "too-large")
"""Of workers/center/web/gate.py, to any operation, and of bodies.py, to one with a body."""
_KEY: Final = _answers("unauthorized", "forbidden", "too-fast")
"""Of workers/center/callers/keycheck.py and auth.py: to an operation that needs a key."""
