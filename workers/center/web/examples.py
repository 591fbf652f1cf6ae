"""Examples for the OpenAPI document: each stands at the model that it is one of."""

from __future__ import annotations

from typing import Any, Final, cast

from pydantic import BaseModel, ConfigDict

NULL: Final = "(null)"
"""Stands for null until the document is made: FastAPI leaves nulls out of what it makes, and they would be missing."""


def example(**fields: Any) -> ConfigDict:
    """A model's `model_config` with an example."""
    return ConfigDict(json_schema_extra={"examples": [{name: NULL if each is None else each for name, each in fields.items()}]})


def example_of(model: type[BaseModel]) -> dict[str, Any]:
    """The example of a model, for the one of a model that has it inside."""
    extra = cast("dict[str, Any]", model.model_config["json_schema_extra"])
    return cast("dict[str, Any]", extra["examples"][0])


def with_nulls(value: Any) -> Any:
    """The document, or a part of it, with null where `NULL` stands for it."""
    if isinstance(value, dict):
        return {name: with_nulls(each) for name, each in value.items()}
    if isinstance(value, list):
        return [with_nulls(each) for each in value]
    return None if value == NULL else value
