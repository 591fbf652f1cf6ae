"""What bounds a request before it is understood: requests in flight, the body's size and time. And what counts it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import lru_cache
from typing import Final, NamedTuple

from prometheus_client import Counter, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from workers.center.problems import RETRY_AFTER_S, Problem

MAX_BODY: Final = 256 * 1024
MAX_IN_FLIGHT: Final = 1000
BODY_TIMEOUT: Final = 10.0
"""Seconds for a whole body; for one that is streamed, between two pieces of it."""


class Streamed(NamedTuple):
    """Requests whose body is not read here: what handles them reads it piece by piece, `most` bytes of it."""

    method: str
    prefix: str
    most: int
    seconds: float

    def fits(self, scope: Scope) -> bool:
        """Is it one of these?"""
        return bool(scope["method"] == self.method and scope["path"].startswith(self.prefix))


answered = Counter("longwire_center_requests_total", "Requests answered", ["route", "status"])
seconds = Histogram("longwire_center_request_seconds", "Time from a request to its answer", ["route"])
_answered, _seconds = lru_cache(maxsize=1024)(answered.labels), lru_cache(maxsize=256)(seconds.labels)


class Gate:
    """ASGI middleware around everything else.

    A body over `MAX_BODY` is 413, one that takes over `BODY_TIMEOUT` seconds 408, and a request beyond `MAX_IN_FLIGHT` 503. The
    body is read here, whole, so that what follows never waits for a slow sender; but for what is `streamed`.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        streamed: Streamed | None = None,
        max_in_flight: int = MAX_IN_FLIGHT,
        body_timeout: float = BODY_TIMEOUT,
    ) -> None:
        self._app = app
        self._streamed = streamed
        self._free = max_in_flight
        self._body_timeout = body_timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Bound one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.monotonic()
        status = 0

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._pass(scope, receive, watched)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            _answered(route, str(status)).inc()
            _seconds(route).observe(time.monotonic() - began)

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._free <= 0:
            problem = Problem("busy", "too many requests are in flight; ask again", retry_after_s=RETRY_AFTER_S)
            await problem.response()(scope, receive, send)
            return
        self._free -= 1
        try:
            if self._streamed is not None and self._streamed.fits(scope):
                await self._app(scope, self._bounded(self._streamed, scope, receive), send)
            else:
                body = await self._read(scope, receive)
                await self._app(scope, _replay(body, receive), send)
        except Problem as problem:
            await problem.response()(scope, receive, send)
        finally:
            self._free += 1

    def _bounded(self, bounds: Streamed, scope: Scope, receive: Receive) -> Receive:
        """A `receive` that raises a Problem beyond the bounds of a streamed body."""
        _check_declared(scope, bounds.most)
        ends_at, size, more = time.monotonic() + bounds.seconds, 0, True

        async def bounded() -> Message:
            nonlocal size, more
            if not more:
                return await receive()
            try:
                async with asyncio.timeout(min(self._body_timeout, ends_at - time.monotonic())):
                    message = await receive()
            except TimeoutError:
                detail = f"no piece of the body within {self._body_timeout:g} s, or not the whole within {bounds.seconds:g} s"
                raise Problem("body-timeout", detail) from None
            size, more = size + len(message.get("body", b"")), message.get("more_body", False)
            if size > bounds.most:
                raise Problem("too-large", f"the body may have {bounds.most} bytes")
            return message

        return bounded

    async def _read(self, scope: Scope, receive: Receive) -> bytes:
        if not _check_declared(scope, MAX_BODY):
            return b""
        body = bytearray()
        try:
            async with asyncio.timeout(self._body_timeout):
                while True:
                    message = await receive()
                    body += message.get("body", b"")
                    if len(body) > MAX_BODY:
                        raise Problem("too-large", f"the body may have {MAX_BODY} bytes")
                    if not message.get("more_body", False):
                        return bytes(body)
        except TimeoutError:
            raise Problem("body-timeout", f"the body did not arrive within {self._body_timeout:g} s") from None


def _check_declared(scope: Scope, most: int) -> bool:
    """Is there a body at all (RFC 9112 §6.3)? Raise a Problem if its length is said to be too large, or is no number."""
    headers = dict(scope["headers"])
    declared = headers.get(b"content-length", b"0")
    if not declared.isdigit() or int(declared[:20]) > most:
        raise Problem("too-large", f"the body may have {most} bytes")
    return declared != b"0" or b"transfer-encoding" in headers


def _replay(body: bytes, receive: Receive) -> Callable[[], Awaitable[Message]]:
    """A `receive` that gives the body that was read, then what really comes (the disconnect)."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
