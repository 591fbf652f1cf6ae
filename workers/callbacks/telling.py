"""Events from what happened: ids that a repeat shares, what their data says, and sending them until they are taken."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from hashlib import blake2b
from typing import Any, Final, TypeVar

import structlog
from prometheus_client import Counter

from workers.callbacks.asked import Asked, Sender
from workers.runner import BACKOFF, RETRYABLE
from workers.webhooks import Event

log = structlog.get_logger("callbacks")
told = Counter("longwire_callbacks_events_total", "Events that webhooks were told, or will be", ["type"])
repeated = Counter("longwire_callbacks_retries_total", "Steps that were tried again", ["reason"])

T = TypeVar("T")
_SIZE: Final = 16


class Abandoned(Exception):
    """The partition is another's now: it goes on from what is committed."""


def event_id(*parts: str | int) -> str:
    """One id for everything that is the same event."""
    return blake2b("\0".join(str(part) for part in parts).encode(), digest_size=_SIZE).hexdigest()


async def persist(step: Callable[[], Awaitable[T]], gone: Callable[[], bool]) -> T:
    """Do it until it succeeds: what was decided must not be decided again. Raises Abandoned once `gone()`."""
    delay = BACKOFF[0]
    while not gone():
        try:
            return await step()
        except RETRYABLE as error:
            repeated.labels(type(error).__name__).inc()
            log.warning("callbacks wait", reason=str(error)[:200])
        await asyncio.sleep(delay)
        delay = min(delay * 2, BACKOFF[1])
    raise Abandoned


async def tell(outbox: Sender, asked: Asked, events: Sequence[Event], gone: Callable[[], bool] = lambda: False) -> None:
    """Send events to who asks for them, the endpoints side by side."""
    parts = asked.by_endpoint(events)
    await asyncio.gather(*(persist(_sending(outbox, endpoint, each), gone) for endpoint, each in parts))
    for _, each in parts:
        for event in each:
            told.labels(event.type).inc()


def _sending(outbox: Sender, endpoint: Any, events: Sequence[Event]) -> Callable[[], Awaitable[None]]:
    return lambda: outbox.send(endpoint, events)
