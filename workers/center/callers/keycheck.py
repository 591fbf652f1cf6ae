"""The key of a request: looked up before anything of its body is read. What needs none is listed in callers/auth.py."""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable
from typing import Final

from prometheus_client import Counter
from starlette.types import ASGIApp, Receive, Scope, Send

from infra.buckets import Buckets
from workers.center.callers.auth import OPERATOR, Caller, NotAdmitted, is_open
from workers.center.callers.keyring import KeyRing
from workers.center.callers.oidc import ApiTokens
from workers.center.ports import Parts
from workers.center.web.problems import Problem

JWT_DOTS: Final = 2
WRONG_RATE: Final = 1.0
WRONG_BURST: Final = 20.0
"""Wrong keys of an address that are told so, per second and at once; whoever has a good one is not concerned."""
FLOOD_S: Final = 10
HOW: Final = "give the API key as `Authorization: Bearer <key>` or `X-API-Key: <key>`"

refused = Counter("longwire_center_keys_refused_total", "Requests without a key that is good here", ["reason"])


class NoKey(ValueError):
    """The API key is not configured."""


class Keys:
    """Who shows what: the operator's key of the settings, one of the ring, or a token."""

    def __init__(self, ring: KeyRing, tokens: ApiTokens, *, operator: str, wall: Callable[[], float] = time.time) -> None:
        """Raises NoKey for an empty key of the operator: nobody could make the first of the others."""
        if not operator:
            raise NoKey(
                "center.api_key is empty: set LONGWIRE_CENTER__API_KEY to a secret, for example of `openssl rand -hex 32`"
            )
        self._operator = operator.encode()
        self._ring = ring
        self._tokens = tokens
        self._wall = wall

    def find(self, credential: bytes) -> Caller:
        """Who shows this; raises NotAdmitted."""
        if hmac.compare_digest(credential, self._operator):
            return OPERATOR
        if credential.count(b".") == JWT_DOTS:
            return self._tokens.find(credential, self._wall())
        caller = self._ring.find(credential, self._wall())
        if caller is None:
            raise NotAdmitted("unknown")
        return caller


class KeyCheck:
    """ASGI middleware: puts the caller into the request's state, or raises a Problem: 401; 429 where the key asks faster than it
    may, or an address shows wrong keys all the time; 503 where the key has too much in flight."""

    def __init__(self, app: ASGIApp, parts: Parts, keys: Keys, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._app = app
        self._parts = parts
        self._keys = keys
        self._clock = clock
        self._wrong = Buckets()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, or pass on."""
        if scope["type"] != "http" or is_open(scope["path"]):
            await self._app(scope, receive, send)
            return
        try:
            caller = self._find(scope)
        except NotAdmitted as error:
            raise self._refusal(scope, error) from None
        with self._parts.limits.place(caller):
            await self._parts.limits.admit(caller)
            if caller.key in self._parts.ring.keys:
                self._parts.used(caller.key)
            scope.setdefault("state", {})["caller"] = caller
            await self._app(scope, receive, send)

    def _refusal(self, scope: Scope, error: NotAdmitted) -> Problem:
        refused.labels(error.kind).inc()
        now = self._clock()
        if self._wrong.take(self._parts.askers.of(scope, now).customer, now, rate=WRONG_RATE, burst=WRONG_BURST):
            return Problem("unauthorized", f"{error}; {HOW}")
        refused.labels("flood").inc()
        return Problem("too-often", "no key that is good here comes from this address; look at yours", retry_after_s=FLOOD_S)

    def _find(self, scope: Scope) -> Caller:
        """By either header; raises NotAdmitted for the last of them."""
        shown = credentials(scope)
        for credential in shown[:-1]:
            try:
                return self._keys.find(credential)
            except NotAdmitted:
                continue
        if not shown:
            raise NotAdmitted("none", "no key is shown")
        return self._keys.find(shown[-1])


def credentials(scope: Scope) -> list[bytes]:
    """What the request shows, of `Authorization: Bearer` and `X-API-Key`."""
    headers: dict[bytes, bytes] = dict(scope["headers"])
    scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
    bearer = token.strip() if scheme.lower() == b"bearer" else b""
    return [credential for credential in (bearer, headers.get(b"x-api-key", b"")) if credential]
