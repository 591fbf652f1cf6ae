"""Center, as the commands ask it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final

import httpx

from infra.system import System

UPLOAD_TIMEOUT: Final = 120.0
"""How long center may be silent at the end of an upload: it looks its list up in Kafka."""


class Unreachable(Exception):
    """Center did not answer."""


class NotFound(Exception):
    """Center does not know what was asked for."""


class Answered(Exception):
    """Center refused; the text is its problem's title and detail (RFC 9457), `kind` the end of its type, `document` all of it."""

    def __init__(self, text: str, kind: str = "", document: dict[str, Any] | None = None) -> None:
        super().__init__(text)
        self.kind = kind
        self.document = document or {}


class CenterClient:
    """A client of center's HTTP API, to be used as an async context manager."""

    def __init__(self, system: System) -> None:
        self._address = system.center
        self._http = httpx.AsyncClient(
            base_url=system.center, headers={"Authorization": f"Bearer {system.api_key}"}, timeout=15, trust_env=False
        )

    async def __aenter__(self) -> CenterClient:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._http.aclose()

    async def get(self, path: str, **params: str | list[str]) -> Any:
        """GET a JSON document; raises Unreachable, NotFound, Answered."""
        return await self._ask("GET", path, params=params)

    async def post(self, path: str, body: dict[str, Any], *, idempotency_key: str = "") -> Any:
        """POST a JSON document; raises Unreachable, NotFound, Answered."""
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
        return await self._ask("POST", path, json=body, headers=headers)

    async def put(self, path: str, body: dict[str, Any]) -> Any:
        """PUT a JSON document; raises Unreachable, NotFound, Answered."""
        return await self._ask("PUT", path, json=body)

    async def create(self, path: str, body: dict[str, Any], **params: str) -> Any:
        """PUT a JSON document where there is none yet; raises Unreachable, NotFound, Answered."""
        return await self._ask("PUT", path, json=body, params=params, headers={"If-None-Match": "*"})

    async def patch(self, path: str, body: dict[str, Any], **params: str) -> Any:
        """PATCH a JSON document; raises Unreachable, NotFound, Answered."""
        return await self._ask("PATCH", path, json=body, params=params)

    async def delete(self, path: str, **params: str) -> Any:
        """DELETE; raises Unreachable, NotFound, Answered."""
        return await self._ask("DELETE", path, params=params)

    async def upload(self, path: str, body: AsyncIterator[bytes], *, content_type: str, **params: str) -> Any:
        """PUT a body piece by piece; raises Unreachable, NotFound, Answered."""
        headers = {"Content-Type": content_type}
        return await self._ask("PUT", path, content=body, headers=headers, params=params, timeout=UPLOAD_TIMEOUT)

    async def _ask(self, method: str, path: str, **more: Any) -> Any:
        try:
            answer = await self._http.request(method, path, **more)
        except httpx.HTTPError as error:
            raise Unreachable(f"center at {self._address} can't be reached: {type(error).__name__}") from error
        if answer.status_code == httpx.codes.NO_CONTENT:
            return None
        try:
            document = answer.json()
        except ValueError as error:
            raise Answered(f"center answered {answer.status_code} without JSON") from error
        if answer.is_success:
            return document
        text = ": ".join(str(document[name]) for name in ("title", "detail") if document.get(name)) or str(answer.status_code)
        if answer.status_code == httpx.codes.NOT_FOUND:
            raise NotFound(text)
        raise Answered(text, str(document.get("type", "")).rpartition(":")[2], document)
