"""What bounds requests before they are understood: how many are in flight. And what counts them."""

from __future__ import annotations

import asyncio
import time
from functools import lru_cache
from typing import Final

from prometheus_client import Counter, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from workers.center.web.problems import RETRY_AFTER_S, Problem

MAX_IN_FLIGHT: Final = 1000
SEND_TIMEOUT: Final = 10.0
"""Seconds for which the asker takes nothing of its answer; then the request is over, and its place free."""

answered = Counter("longwire_center_requests_total", "Requests answered", ["route", "status"])
slow_readers = Counter("longwire_center_slow_readers_total", "Answers that were given up: the asker did not read")
seconds = Histogram("longwire_center_request_seconds", "Time from a request to its answer", ["route"])
_answered, _seconds = lru_cache(maxsize=1024)(answered.labels), lru_cache(maxsize=256)(seconds.labels)


class SlowReader(OSError):
    """The asker does not read its answer."""


class Gate:
    """ASGI middleware around everything else: a request beyond `MAX_IN_FLIGHT` is 503, and a Problem is answered as one."""

    def __init__(self, app: ASGIApp, *, max_in_flight: int = MAX_IN_FLIGHT, send_timeout: float = SEND_TIMEOUT) -> None:
        self._app = app
        self._send_timeout = send_timeout
        self._free = max_in_flight

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Bound one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.monotonic()
        status, slow = 0, False

        async def watched(message: Message) -> None:
            nonlocal status, slow
            if message["type"] == "http.response.start":
                status = message["status"]
            try:
                async with asyncio.timeout(self._send_timeout):
                    await send(message)
            except TimeoutError:
                slow = True
                raise SlowReader("the asker does not read") from None

        try:
            await self._pass(scope, receive, watched)
        except Exception:
            if not slow:
                raise
            slow_readers.inc()
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
            await self._app(scope, receive, send)
        except Problem as problem:
            await problem.response()(scope, receive, send)
        finally:
            self._free += 1
