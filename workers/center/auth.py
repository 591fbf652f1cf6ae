"""Who asks, and what they may: the caller of a request, the role that a route needs, the products that the caller sees.

Every path needs a key but the ones listed here, and is answered before its body is read where there is none.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Final

from fastapi import Depends, Request, Security
from fastapi.security import APIKeyHeader, HTTPBearer
from starlette.types import ASGIApp, Receive, Scope, Send

from workers.center.problems import Problem

OPEN: Final = frozenset({"/", "/openapi.json", "/asyncapi.json", "/healthz", "/readyz", "/metrics", "/v1/dispatch"})
"""Asked by devices, by supervisors, or to learn how to ask: none of them shows a client, a product or a payload."""

OF_DEVICES: Final = "/v1/pull/"
"""Paths of devices, which show their own token instead: their routes check it (workers/center/pull.py)."""

BEARER: Final = HTTPBearer(auto_error=False, scheme_name="bearer", description="`Authorization: Bearer <API key>`")
HEADER: Final = APIKeyHeader(name="X-API-Key", auto_error=False, scheme_name="key", description="`X-API-Key: <API key>`")
"""For the OpenAPI document only. `KeyCheck` decides."""


class NoKey(ValueError):
    """The API key is not configured."""


class Role(StrEnum):
    """What a key may do: send messages; broadcasts and audiences; read; change what runs; change keys, products and access."""

    SEND = "send"
    BROADCAST = "broadcast"
    READ = "read"
    OPERATE = "operate"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asks. `key`: the id of the key; `products` None: all of them."""

    key: str
    products: frozenset[str] | None
    roles: frozenset[Role]

    def sees(self, product: str) -> bool:
        """Is the product one of the caller's?"""
        return self.products is None or product in self.products

    def seen(self, products: Iterable[str]) -> list[str]:
        """Those of them that the caller sees, sorted."""
        return sorted(product for product in products if self.sees(product))


OPERATOR: Final = Caller(key="operator", products=None, roles=frozenset(Role))
"""Whoever shows `center.api_key`."""


def caller_of(request: Request) -> Caller:
    """Who asks, as `KeyCheck` found."""
    caller: Caller = request.state.caller
    return caller


Who = Annotated[Caller, Depends(caller_of)]


def needs(role: Role) -> list[Any]:
    """The `dependencies` of a route: a key with this role, else a Problem (403). The document says so, too."""

    def check(who: Who) -> None:
        if role not in who.roles:
            raise Problem("forbidden", f"the key {who.key} does not have the role {role}", missing=role)

    return [Security(BEARER, scopes=[role]), Security(HEADER, scopes=[role]), Depends(check)]


def is_open(path: str) -> bool:
    """Is no key asked for?"""
    return path in OPEN or path.startswith(OF_DEVICES)


class KeyCheck:
    """ASGI middleware: finds the caller by the key that the request shows, compared in constant time; else 401."""

    def __init__(self, app: ASGIApp, *, key: str) -> None:
        """Raises NoKey for an empty key: an API without one would be open to everyone who can reach it."""
        if not key:
            raise NoKey(
                "center.api_key is empty: set LONGWIRE_CENTER__API_KEY to a secret, for example of `openssl rand -hex 32`"
            )
        self._app = app
        self._key = key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 401, or pass on with the caller in the request's state."""
        if scope["type"] == "http" and not is_open(scope["path"]):
            caller = self._find(scope)
            if caller is None:
                detail = "give the API key as `Authorization: Bearer <key>` or `X-API-Key: <key>`"
                await Problem("unauthorized", detail).response()(scope, receive, send)
                return
            scope.setdefault("state", {})["caller"] = caller
        await self._app(scope, receive, send)

    def _find(self, scope: Scope) -> Caller | None:
        headers: dict[bytes, bytes] = dict(scope["headers"])
        scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
        bearer = token.strip() if scheme.lower() == b"bearer" else b""
        matches = [hmac.compare_digest(given, self._key) for given in (bearer, headers.get(b"x-api-key", b""))]
        return OPERATOR if any(matches) else None
