"""Back-pressure from the business: a product's health URL is asked while its broadcasts run, and its rate follows.

A push at full speed is an attack on the product's own servers; whoever opens the message goes there. Redirects are not followed
and no body is read: only the status and the time count.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Final

import httpx
import structlog
from prometheus_client import Counter

from infra.documents import Health
from infra.keeper import Keeper
from workers.pace import Pressure

IDLE: Final = 1.0
"""Seconds until a product without a health URL, or without a broadcast that moves, is looked at again."""

log = structlog.get_logger("health")
probes = Counter("longwire_broadcast_health_probes_total", "Looks at a product's health", ["outcome"])


class HealthProbes:
    """The HTTP client of the probes; a part of the process (infra.lifecycle.Part)."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self._stack = AsyncExitStack()
        self._client: httpx.AsyncClient | None = None

    async def start(self) -> None:
        """Open the client."""
        self._client = await self._stack.enter_async_context(httpx.AsyncClient(follow_redirects=False))

    async def stop(self) -> None:
        """Close it."""
        self._client = None
        await self._stack.aclose()

    async def watch(self, product: str, pressure: Pressure, moving: Callable[[], bool]) -> None:
        """Keep `pressure` true for a product while `moving()`; runs until it is cancelled."""
        while True:
            document = self._keeper.products.get(product)
            health = document.health if document is not None else None
            if health is None:
                pressure.factor = 1.0
            elif moving():
                before = pressure.factor
                pressure.probed(healthy=await self._healthy(health))
                if pressure.factor != before:
                    log.info("product's rate follows its health", product=product, factor=pressure.factor)
            await asyncio.sleep(health.interval if health is not None else IDLE)

    async def _healthy(self, health: Health) -> bool:
        """Does the URL answer 2xx or 3xx in time? Whatever goes wrong on the way is a no."""
        outcome = "healthy"
        try:
            async with asyncio.timeout(health.slow_after):
                outcome = "healthy" if await self._status(health.url) < 400 else "status"
        except TimeoutError:
            outcome = "slow"
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            outcome = "unreachable"
            log.debug("health URL not reached", url=health.url, error=type(error).__name__)
        probes.labels(outcome).inc()
        return outcome == "healthy"

    async def _status(self, url: str) -> int:
        if self._client is None:
            raise httpx.TransportError("the client is not open")
        async with self._client.stream("GET", url) as response:
            return response.status_code
