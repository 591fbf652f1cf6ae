"""The OpenAPI document shows an example of each request and each success, and each is one: it validates by its own schema."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import pytest
from center_world import World
from jsonschema_rs import Draft202012Validator, ValidationError

from workers.center import app
from workers.center.dispatch.route import Dispatcher

EMPTY: Final = {"204"}
"""Successes without a body."""

Content = dict[str, Any]


def document() -> dict[str, Any]:
    parts = World().parts
    return app.api(parts, Dispatcher(parts), version="0.0.0").openapi()


DOCUMENT: Final = document()


def contents() -> Iterator[tuple[str, Content]]:
    """Each media type of a request or a success, under a name."""
    for path, item in DOCUMENT["paths"].items():
        for method, operation in item.items():
            name = f"{method.upper()} {path}"
            for kind, content in operation.get("requestBody", {}).get("content", {}).items():
                yield f"{name} {kind}", content
            for status, answer in operation["responses"].items():
                if status.startswith("2") and status not in EMPTY:
                    assert answer["content"], f"{name} {status} has no body, and is not one of {EMPTY}"
                    for kind, content in answer["content"].items():
                        yield f"{name} {status} {kind}", content


def examples(content: Content) -> list[Any]:
    """Those of a media type, else of its schema (not of parts of it: a reader wants to see the whole)."""
    if "example" in content:
        return [content["example"]]
    schema = content.get("schema", {})
    if "$ref" in schema:
        schema = DOCUMENT["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    found: list[Any] = schema.get("examples", [])
    return found


def validator(schema: dict[str, Any]) -> Draft202012Validator:
    return Draft202012Validator({**schema, "components": DOCUMENT["components"]})


CONTENTS: Final = dict(contents())


@pytest.mark.parametrize("name", CONTENTS)
def test_given_a_request_or_a_success_then_it_has_an_example_that_is_one(name: str) -> None:
    content = CONTENTS[name]
    found = examples(content)
    assert found, "no example"
    for each in found:
        validator(content.get("schema", {})).validate(each)


def test_given_an_example_that_is_none_then_it_is_told() -> None:
    with pytest.raises(ValidationError):
        validator(CONTENTS["POST /v1/messages 202 application/json"]["schema"]).validate({"id": 7})


def test_given_the_document_then_every_operation_is_looked_at() -> None:
    operations = {f"{method.upper()} {path} " for path, item in DOCUMENT["paths"].items() for method in item}
    silent = {operation for operation in operations if not any(name.startswith(operation) for name in CONTENTS)}
    assert silent == {
        "DELETE /v1/products/{product} ",
        "DELETE /v1/pull/{product}/{message} ",
    }, "answered 204, asked without a body"
