"""Who asks, and what they may: the caller of a request, the role that a route needs, the products that the caller sees."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Final

from fastapi import Depends, Request, Security
from fastapi.security import APIKeyHeader, HTTPBearer

from workers.center.web.problems import Problem

OPEN: Final = frozenset({"/", "/openapi.json", "/asyncapi.json", "/healthz", "/readyz", "/v1/dispatch"})
"""Asked by devices, by supervisors, or to learn how to ask: none of them shows a client, a product or a payload."""

OF_DEVICES: Final = "/v1/pull/"
"""Paths of devices, which show their own token instead: their routes check it (workers/center/unicast/pull.py)."""

BEARER: Final = HTTPBearer(auto_error=False, scheme_name="bearer", description="`Authorization: Bearer <API key>`")
HEADER: Final = APIKeyHeader(name="X-API-Key", auto_error=False, scheme_name="key", description="`X-API-Key: <API key>`")
"""For the OpenAPI document only. `KeyCheck` decides (workers/center/callers/keycheck.py)."""


KEYED: Final = [Security(BEARER), Security(HEADER)]
"""The `dependencies` of a route whose role depends on the request: it calls `require` itself."""


class NotAdmitted(Exception):
    """A key that opens nothing. `kind`: why, for the counter; the text is for whoever has shown it."""

    def __init__(self, kind: str, text: str = "the key is not known here") -> None:
        super().__init__(text)
        self.kind = kind


class Role(StrEnum):
    """What a key may do: send messages; broadcasts and audiences; read; change what runs; change keys, products and access."""

    SEND = "send"
    BROADCAST = "broadcast"
    READ = "read"
    OPERATE = "operate"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asks. `key`: the id of the key; `products` None: all of them; `rate`: requests per second, 0 for any;
    `confirm_over`: persons of a broadcast above which it is confirmed, None for any number."""

    key: str
    products: frozenset[str] | None
    roles: frozenset[Role]
    rate: int = 0
    confirm_over: int | None = None

    def sees(self, product: str) -> bool:
        """Is the product one of the caller's?"""
        return self.products is None or product in self.products

    def signed(self, by: str) -> str:
        """Who did it, for the audit: what the request says, and the key that it came with."""
        return f"{by}{self._mark}"

    def has_signed(self, text: str) -> bool:
        """Is this the text of `signed`?"""
        return text.endswith(self._mark)

    @property
    def _mark(self) -> str:
        return f" (key {self.key})"

    def seen(self, products: Iterable[str]) -> list[str]:
        """Those of them that the caller sees, sorted."""
        return sorted(product for product in products if self.sees(product))


OPERATOR: Final = Caller(key="operator", products=None, roles=frozenset(Role))
"""Whoever shows `center.api_key`."""


async def caller_of(request: Request) -> Caller:
    """Who asks, as `KeyCheck` found. Not a plain function: those are run in threads."""
    caller: Caller = request.state.caller
    return caller


Who = Annotated[Caller, Depends(caller_of)]


def require(who: Caller, role: Role) -> None:
    """Raise a Problem (403) for a key without this role."""
    if role not in who.roles:
        raise Problem("forbidden", f"the key {who.key} does not have the role {role}", missing=role)


def needs(role: Role, *, everywhere: bool = False) -> list[Any]:
    """The `dependencies` of a route: a key with this role, else a Problem (403). The document says so, too.

    `everywhere`: what it does or shows concerns all products, so a key for some of them won't do.
    """

    async def check(who: Who) -> None:
        require(who, role)
        if everywhere and who.products is not None:
            raise Problem("forbidden", f"the key {who.key} is for some products, and this concerns all of them", missing=role)

    return [Security(BEARER, scopes=[role]), Security(HEADER, scopes=[role]), Depends(check)]


def is_open(path: str) -> bool:
    """Is no key asked for?"""
    return path in OPEN or path.startswith(OF_DEVICES)
