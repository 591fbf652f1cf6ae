"""Changing a product's own queue: its topic is made, the change is in the audit, then the keeper's document says it."""

from __future__ import annotations

import time
from typing import Final

import structlog

from infra.documents import Product, Queue, product_key
from infra.journal import Entry, Journal, create_queues
from infra.keeper import Keeper, Unreadable
from infra.settings import KafkaSettings
from schemas import names
from schemas.broadcasts import Audit
from workers.center.operating.attempts import until_written
from workers.center.operating.shelf import unreadable
from workers.center.ports import QueueChange
from workers.center.web.problems import Problem

ATTEMPTS: Final = 3
SUBJECT: Final = "queue"
MAX_QUEUES: Final = 32
"""Products with a queue of their own: each has a consumer group in every delivery worker, and reads its receipts once more when
Redis is folded."""

log = structlog.get_logger("center")


def changed(product: str, queue: Queue | None, change: QueueChange, *, others: int) -> Queue | None:
    """The queue after a change, where `others` have one; raises a Problem (404) where there is none to pause, resume or switch
    off, and one (409) where there are enough."""
    if change.action == "rate":
        assert change.rate is not None
        if queue is None and others >= MAX_QUEUES:
            raise Problem("too-many-queues", f"{others} products have one, as many as there may be; switch another one off")
        return Queue(rate=change.rate, paused=queue is not None and queue.paused)
    if queue is None:
        raise Problem("unknown-queue", f"product {product} has no queue of its own; action rate switches one on")
    return None if change.action == "off" else queue.model_copy(update={"paused": change.action == "pause"})


def queue_text(queue: Queue | None) -> str:
    """As the audit shows it."""
    return "off" if queue is None else f"{queue.rate}/s{', paused' if queue.paused else ''}"


class Switch:
    """`workers.center.ports.QueueSwitch` on the keeper's bucket and Kafka."""

    def __init__(self, settings: KafkaSettings, keeper: Keeper, journal: Journal) -> None:
        self._settings = settings
        self._keeper = keeper
        self._journal = journal

    async def change(self, product: str, change: QueueChange) -> Product:
        """See the port. What changes nothing is not audited; an audited change that then fails is answered as failed."""
        try:
            return await until_written(lambda: self._attempt(product, change), f"product {product} was", attempts=ATTEMPTS)
        except Unreadable as error:
            raise unreadable(error) from None
        except KeyError:
            raise Problem("unknown-product", f"product {product} is not in the keeper") from None

    async def _attempt(self, product: str, change: QueueChange) -> Product | None:
        """The product after the change; None where somebody else was faster."""
        document, revision = await self._keeper.read(product_key(product))
        assert isinstance(document, Product)
        others = sum(item.queue is not None for name, item in self._keeper.products.items() if name != product)
        after = document.model_copy(update={"queue": changed(product, document.queue, change, others=others)})
        if after == document:
            return after
        if document.queue is None:
            await create_queues(self._settings, [product])
        await self._journal.produce([Entry(names.AUDIT, product, _audit(document, after, change))])
        return after if await self._keeper.replace(product_key(product), after, revision) else None


def _audit(before: Product, after: Product, change: QueueChange) -> Audit:
    return Audit(
        product=before.name,
        subject=SUBJECT,
        action=change.action,
        by=change.by,
        at_ms=int(time.time() * 1000),
        before=queue_text(before.queue),
        after=queue_text(after.queue),
        reason=change.reason,
    )
