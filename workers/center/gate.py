"""What bounds a request before it is understood: requests in flight, the body's size and time. And what counts it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

from prometheus_client import Counter, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from workers.center.problems import RETRY_AFTER_S, Problem

MAX_BODY: Final = 256 * 1024
MAX_IN_FLIGHT: Final = 1000
BODY_TIMEOUT: Final = 10.0

answered = Counter("longwire_center_requests_total", "Requests answered", ["route", "status"])
seconds = Histogram("longwire_center_request_seconds", "Time from a request to its answer", ["route"])


class Gate:
    """ASGI middleware around everything else.

    A body over `MAX_BODY` is 413, one that takes over `BODY_TIMEOUT` seconds 408, and a request beyond `MAX_IN_FLIGHT` 503. The
    body is read here, whole, so that what follows never waits for a slow sender.
    """

    def __init__(self, app: ASGIApp, *, max_in_flight: int = MAX_IN_FLIGHT, body_timeout: float = BODY_TIMEOUT) -> None:
        self._app = app
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
            answered.labels(route, str(status)).inc()
            seconds.labels(route).observe(time.monotonic() - began)

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._free <= 0:
            problem = Problem("busy", "too many requests are in flight; ask again", retry_after_s=RETRY_AFTER_S)
            await problem.response()(scope, receive, send)
            return
        self._free -= 1
        try:
            body = await self._read(scope, receive)
            await self._app(scope, _replay(body, receive), send)
        except Problem as problem:
            await problem.response()(scope, receive, send)
        finally:
            self._free += 1

    async def _read(self, scope: Scope, receive: Receive) -> bytes:
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if not declared.isdigit() or int(declared[:20]) > MAX_BODY:
            raise Problem("too-large", f"the body may have {MAX_BODY} bytes")
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
