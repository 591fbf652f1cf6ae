"""The names that this side may send. The server checks them again; here a typing error is found where it was made."""

from __future__ import annotations

import re

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_REGION = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
_CLIENT = re.compile(r"[A-Za-z0-9._:@=+~-]{1,128}")
_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")


def push(product: str, group: str | None = None) -> str:
    """The topic of a bind: `push/{product}` or `push/{product}/{group}`. Raises ValueError on a wrong name."""
    topic = f"push/{_checked(_NAME, 'product', product)}"
    return topic if group is None else f"{topic}/{_checked(_NAME, 'group', group)}"


def uplink(product: str, kind: str) -> str:
    """The topic of an uplink: `up/{product}/{type}`. Raises ValueError on a wrong name."""
    return f"up/{_checked(_NAME, 'product', product)}/{_checked(_NAME, 'uplink type', kind)}"


def pull(product: str) -> str:
    """The topic on which bodies are asked for: `pull/{product}`. Raises ValueError on a wrong name."""
    return f"pull/{_checked(_NAME, 'product', product)}"


def product(value: str) -> str:
    """`value`, if it can be a product's name. Raises ValueError otherwise."""
    return _checked(_NAME, "product", value)


def region(value: str) -> str:
    """`value`, if it can be a region's name. Raises ValueError otherwise."""
    return _checked(_REGION, "region", value)


def client_id(value: str) -> str:
    """`value`, if it can be a client id. Raises ValueError otherwise."""
    return _checked(_CLIENT, "client id", value)


def message_id(value: str) -> str:
    """`value`, if it can be an uplink's id. Raises ValueError otherwise."""
    return _checked(_ID, "id", value)


def _checked(form: re.Pattern[str], kind: str, value: str) -> str:
    if form.fullmatch(value) is None:
        raise ValueError(f"{kind} {value[:80]!r} does not fit {form.pattern}")
    return value
