"""Back-pressure from the business: a product's health URL is asked while its broadcasts run, and its rate follows.

A push at full speed is an attack on the product's own servers; whoever opens the message goes there. Redirects are not followed
and no body is read: only the status and the time count.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import structlog
from prometheus_client import Counter

from infra.documents import Health
from infra.keeper import Keeper
from workers.broadcast.pace import Pressure
from workers.outside import NoAnswer, Outside

IDLE: Final = 1.0
"""Seconds until a product without a health URL, or without a broadcast that moves, is looked at again."""

log = structlog.get_logger("health")
probes = Counter("longwire_broadcast_health_probes_total", "Looks at a product's health", ["outcome"])


class HealthProbes:
    """Asks the health URLs of the products."""

    def __init__(self, keeper: Keeper, outside: Outside) -> None:
        self._keeper = keeper
        self._outside = outside

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
                answer = await self._outside.ask("GET", health.url, most=0)
            outcome = "healthy" if answer.status < 400 else "status"
        except TimeoutError:
            outcome = "slow"
        except NoAnswer as error:
            outcome = "unreachable"
            log.debug("health URL not reached", reason=str(error))
        probes.labels(outcome).inc()
        return outcome == "healthy"
