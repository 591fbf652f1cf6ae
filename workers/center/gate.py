"""What bounds requests before they are understood: how many are in flight. And what counts them."""

from __future__ import annotations

import time
from functools import lru_cache
from typing import Final

from prometheus_client import Counter, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from workers.center.problems import RETRY_AFTER_S, Problem

MAX_IN_FLIGHT: Final = 1000

answered = Counter("longwire_center_requests_total", "Requests answered", ["route", "status"])
seconds = Histogram("longwire_center_request_seconds", "Time from a request to its answer", ["route"])
_answered, _seconds = lru_cache(maxsize=1024)(answered.labels), lru_cache(maxsize=256)(seconds.labels)


class Gate:
    """ASGI middleware around everything else: a request beyond `MAX_IN_FLIGHT` is 503, and a Problem is answered as one."""

    def __init__(self, app: ASGIApp, *, max_in_flight: int = MAX_IN_FLIGHT) -> None:
        self._app = app
        self._free = max_in_flight

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
            await self._app(scope, receive, send)
        except Problem as problem:
            await problem.response()(scope, receive, send)
        finally:
            self._free += 1
