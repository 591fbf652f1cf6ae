"""Which products' own queues there are: topics `push.messages.<product>`, as Kafka has them.

The topic decides, not the document: it is there before anything is produced to it, and what is in it is delivered also where the
product has no queue any more.
"""

from __future__ import annotations

import time
from typing import Final

import structlog
from prometheus_client import Counter

from infra.documents import Product
from infra.journal import Journal, JournalDown
from schemas import names

AGAIN: Final = 1.0
"""Seconds between two looks for the topic of a product that has none yet."""
LOOKED: Final = 30.0
"""Seconds for which a reader takes what was seen."""

log = structlog.get_logger("queues")
unusable = Counter("longwire_queue_unusable_total", "Looks at an own queue that has another number of partitions", ["product"])


class OwnQueues:
    """The own queues that can be used, as this process last saw them."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._looked_at: float | None = None
        self.products: frozenset[str] = frozenset()

    def __contains__(self, product: object) -> bool:
        """Has this product a topic of its own?"""
        return product in self.products

    async def refresh(self) -> frozenset[str]:
        """Ask Kafka; raises JournalDown. A topic with another number of partitions than `push.messages` is left alone, and said:
        the receipts of its clients would lie in other partitions, so it could not be folded."""
        self._looked_at = time.monotonic()
        found = await self._journal.topics(names.MESSAGES)
        shared = found.pop(names.MESSAGES, 0)
        usable = set()
        for topic, partitions in found.items():
            try:
                product = names.queue_product(topic)
            except names.BadName:
                continue
            if partitions == shared:
                usable.add(product)
            else:
                unusable.labels(product).inc()
                log.error("own queue has other partitions than the shared topic", topic=topic, has=partitions, needs=shared)
        self.products = frozenset(usable)
        return self.products

    async def topic_of(self, product: Product) -> str:
        """Where a message for a product is produced: its own queue, as soon as it is there; until then delivery moves it."""
        if product.queue is None:
            return names.MESSAGES
        if product.name not in self and self._due():
            try:
                await self.refresh()
            except JournalDown as error:
                log.warning("own queues not looked up", error=str(error)[:200])
        return names.queue_topic(product.name) if product.name in self else names.MESSAGES

    async def topics(self) -> tuple[str, ...]:
        """Where messages may lie: the shared topic, and every own queue as seen a while ago at most. Never raises."""
        if self._looked_at is None or time.monotonic() - self._looked_at >= LOOKED:
            try:
                await self.refresh()
            except JournalDown as error:
                log.warning("own queues not looked up", error=str(error)[:200])
        return (names.MESSAGES, *(names.queue_topic(product) for product in sorted(self.products)))

    def _due(self) -> bool:
        return self._looked_at is None or time.monotonic() - self._looked_at >= AGAIN
