"""Center's routes, made once for all tests: FastAPI takes 0.15 s to read their signatures. What they are made with is found anew
at each request, so each test has its own parts behind them."""

from __future__ import annotations

from contextvars import ContextVar
from functools import cache
from typing import Any, Final, cast

from starlette.types import ASGIApp, Receive, Scope, Send

from workers.center import app
from workers.center.dispatch.route import Dispatcher
from workers.center.ports import Parts

PARTS: Final[ContextVar[Parts]] = ContextVar("parts")
DISPATCHER: Final[ContextVar[Dispatcher]] = ContextVar("dispatcher")


class Asked:
    """Stands for the parts, or the dispatcher, of the request that runs."""

    def __init__(self, held: ContextVar[Any]) -> None:
        self._held = held

    def __getattr__(self, name: str) -> Any:
        return getattr(self._held.get(), name)


@cache
def routes() -> ASGIApp:
    return app.api(cast("Parts", Asked(PARTS)), cast("Dispatcher", Asked(DISPATCHER)), version="0.0.0")


def application(parts: Parts) -> ASGIApp:
    """What app.build makes, but for its routes, which all have in common."""
    dispatcher = Dispatcher(parts)

    async def asked(scope: Scope, receive: Receive, send: Send) -> None:
        given, found = PARTS.set(parts), DISPATCHER.set(dispatcher)
        try:
            await routes()(scope, receive, send)
        finally:
            PARTS.reset(given)
            DISPATCHER.reset(found)

    return app.guarded(asked, parts, dispatcher)
