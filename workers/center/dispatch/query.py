"""What is asked, read out of a query string: quickly where nothing is wrong with it, which is nearly always.

Where this reads nothing the route reads it again (workers/center/dispatch/route.py), which knows what to say of each mistake.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple, get_args
from urllib.parse import unquote_plus

from infra.labels import WORD
from infra.settings import Transport
from schemas import names

MAX_FAILED: Final = 16
MAX_ADDRESS: Final = 300
MAX_NETWORK: Final = 32
MAX_ATTEMPT: Final = 1_000_000
LONGEST: Final = 4_096
"""Bytes of a query that is read here."""

_WORD: Final = re.compile(WORD)
_TRANSPORTS: Final = frozenset(get_args(Transport))
_ONCE: Final = frozenset({"client", "network", "region", "product", "transport", "attempt", "last"})
"""Parameters that may be there once."""


class Ask(NamedTuple):
    """What a device asks. "" where it says nothing."""

    client: str
    network: str = ""
    region: str = ""
    product: str = ""
    transport: str = ""
    attempt: int = 0
    last: str = ""
    failed: tuple[str, ...] = ()


def read(query: bytes) -> Ask | None:
    """None: something is wrong with it, or unusual."""
    if len(query) > LONGEST or not query.isascii():
        return None
    given: dict[str, str] = {}
    failed: list[str] = []
    for pair in query.decode("ascii").split("&"):
        name, _, value = pair.partition("=")
        if "%" in value or "+" in value:
            value = unquote_plus(value)
        if name == "failed":
            failed.append(value)
        elif name in given or "%" in name or "+" in name:
            return None
        elif name in _ONCE:
            given[name] = value
    return _checked(given, tuple(failed))


def repeated(pairs: list[tuple[str, str]]) -> str | None:
    """The name of a parameter that is there twice, and may be once."""
    seen = [name for name, _ in pairs if name in _ONCE]
    return next((name for name in seen if seen.count(name) > 1), None)


def _checked(given: dict[str, str], failed: tuple[str, ...]) -> Ask | None:
    attempt, transport = given.get("attempt", "0"), given.get("transport")
    region, product, last = given.get("region"), given.get("product"), given.get("last")
    try:
        fits = (
            attempt.isascii()
            and attempt.isdecimal()
            and len(attempt) <= len(str(MAX_ATTEMPT)) - 1
            and (transport is None or transport in _TRANSPORTS)
            and (region is None or _WORD.fullmatch(region) is not None)
            and len(given.get("network", "")) <= MAX_NETWORK
            and len(failed) <= MAX_FAILED
            and all(len(address) <= MAX_ADDRESS for address in failed)
        )
        if not fits:
            return None
        return Ask(
            client=names.client(given["client"]),
            network=given.get("network", ""),
            region=region or "",
            product="" if product is None else names.product(product),
            transport=transport or "",
            attempt=int(attempt),
            last="" if last is None else names.room(last),
            failed=failed,
        )
    except (KeyError, names.BadName):
        return None
