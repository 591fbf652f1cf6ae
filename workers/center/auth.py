"""The API key: asked for on every path except the ones listed here, before the body is read."""

from __future__ import annotations

import hmac
from typing import Final

from fastapi import Security
from fastapi.security import APIKeyHeader, HTTPBearer
from starlette.types import ASGIApp, Receive, Scope, Send

from workers.center.problems import Problem

OPEN: Final = frozenset({"/", "/openapi.json", "/healthz", "/readyz", "/metrics", "/v1/dispatch"})
"""Asked by devices, by supervisors, or to learn how to ask: none of them shows a client, a product or a payload."""

OF_DEVICES: Final = "/v1/pull/"
"""Paths of devices, which show their own token instead: their routes check it (workers/center/pull.py)."""

DOCUMENTED: Final = [
    Security(HTTPBearer(auto_error=False, scheme_name="bearer", description="`Authorization: Bearer <API key>`")),
    Security(APIKeyHeader(name="X-API-Key", auto_error=False, scheme_name="key", description="`X-API-Key: <API key>`")),
]
"""For the OpenAPI document only. `KeyCheck` decides."""


class NoKey(ValueError):
    """The API key is not configured."""


def _is_open(path: str) -> bool:
    return path in OPEN or path.startswith(OF_DEVICES)


class KeyCheck:
    """ASGI middleware: 401 unless the request shows the key, compared in constant time."""

    def __init__(self, app: ASGIApp, *, key: str) -> None:
        """Raises NoKey for an empty key: an API without one would be open to everyone who can reach it."""
        if not key:
            raise NoKey(
                "center.api_key is empty: set LONGWIRE_CENTER__API_KEY to a secret, for example of `openssl rand -hex 32`"
            )
        self._app = app
        self._key = key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 401, or pass on."""
        if scope["type"] == "http" and not _is_open(scope["path"]) and not self._shown(scope):
            detail = "give the API key as `Authorization: Bearer <key>` or `X-API-Key: <key>`"
            await Problem("unauthorized", detail).response()(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _shown(self, scope: Scope) -> bool:
        headers: dict[bytes, bytes] = dict(scope["headers"])
        scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
        bearer = token.strip() if scheme.lower() == b"bearer" else b""
        matches = [hmac.compare_digest(given, self._key) for given in (bearer, headers.get(b"x-api-key", b""))]
        return any(matches)
