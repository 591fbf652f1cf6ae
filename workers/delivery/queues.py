"""The own queues that a delivery worker consumes: each by a consumer group of its own, so that none holds up another.

A queue is consumed while its topic is there, whatever the product's document says; the document sets the pace. A topic that a
document asks for and that is missing is created here, so whoever switches a queue on by the document alone need do nothing more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import structlog
from prometheus_client import Gauge

from infra.journal import JournalDown, create_queues
from infra.keeper import Keeper
from infra.lifecycle import Loops
from infra.queues import OwnQueues
from infra.settings import KafkaSettings
from workers.runner import Runner

LOOK: Final = 10.0
"""Seconds between two looks at Kafka's topics; a document that asks for a queue that is not there is looked after at once."""
PAUSE: Final = 1.0
"""Seconds between two looks, at least."""

log = structlog.get_logger("queues")
consumed = Gauge("longwire_queues_consumed", "Own queues that this worker consumes")


class Queues:
    """Starts a consumer when an own queue comes, and stops it when it goes."""

    def __init__(
        self,
        settings: KafkaSettings,
        keeper: Keeper,
        own: OwnQueues,
        consumer: Callable[[str], Runner],
        *,
        fail: Callable[[str], None],
    ) -> None:
        """`consumer` makes the one of a product's queue, not started."""
        self._settings = settings
        self._keeper = keeper
        self._own = own
        self._consumer = consumer
        self._loops = Loops(fail)
        self._asked = asyncio.Event()
        self.runners: dict[str, Runner] = {}

    async def start(self) -> None:
        """Join the groups of all queues that there are; raises JournalDown if Kafka can't be reached."""
        await self._own.refresh()
        self._keeper.on_change.append(self._changed)
        self._loops.start("queues", self._run())

    async def stop(self) -> None:
        """Stop following, then leave all groups."""
        await self._loops.stop()
        runners = list(self.runners.values())
        self.runners.clear()
        await asyncio.gather(*(runner.stop() for runner in runners))

    def _changed(self) -> None:
        if self._missing():
            self._asked.set()

    def _missing(self) -> set[str]:
        return {name for name, product in self._keeper.products.items() if product.queue is not None and name not in self._own}

    async def _run(self) -> None:
        while True:
            self._asked.clear()
            try:
                await self._look()
            except JournalDown as error:
                log.warning("own queues not looked after, again soon", reason=str(error)[:200])
            await asyncio.sleep(PAUSE)
            try:
                async with asyncio.timeout(LOOK):
                    await self._asked.wait()
            except TimeoutError:
                continue

    async def _look(self) -> None:
        await self._follow(await self._own.refresh())
        if missing := self._missing():  # after that: where one can't be created, the others are consumed all the same
            for topic, outcome in await create_queues(self._settings, missing):
                log.info("own queue asked for", topic=topic, outcome=outcome)
            await self._follow(await self._own.refresh())

    async def _follow(self, there: frozenset[str]) -> None:
        for product in sorted(there - set(self.runners)):
            self.runners[product] = await self._started(product)
            log.info("own queue consumed", product=product)
        for product in sorted(set(self.runners) - there):
            await self.runners.pop(product).stop()
            log.info("own queue gone", product=product)
        consumed.set(len(self.runners))

    async def _started(self, product: str) -> Runner:
        runner = self._consumer(product)
        try:
            await runner.start()
        except BaseException:  # cancelled, too: a consumer is left open by nobody
            await runner.stop()
            raise
        return runner
