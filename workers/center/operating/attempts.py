"""Changes in the KV (documents of the keeper, revocations) that are made from what is there now: tried again while somebody else
is faster."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import structlog

from infra.bus import KvErrors
from workers.center.web.problems import Problem, bus_down

ATTEMPTS: Final = 5

T = TypeVar("T")

log = structlog.get_logger("center")


async def until_written(attempt: Callable[[], Awaitable[T | None]], what: str, *, attempts: int = ATTEMPTS) -> T:
    """What the first attempt returns that is not overtaken (None); raises a Problem where all are, or NATS is away.

    `what`: the document, in words.
    """
    try:
        for _ in range(attempts):
            if (found := await attempt()) is not None:
                return found
    except KvErrors as error:
        log.warning("not changed", what=what, error=type(error).__name__)
        raise bus_down() from None
    raise Problem("changed-meanwhile", f"{what} changed meanwhile, {attempts} times; look, and ask again")
