"""A consumer that takes at most so many records per second, over all members of its group (throttle.py)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from aiokafka import TopicPartition
from prometheus_client import Gauge

from infra.documents import Queue
from workers.delivery.throttle import Throttle, share_of
from workers.runner import Batches, Runner

TICK: Final = 0.1
"""Seconds within which a change of the rate, a pause or its end is seen."""
NOWHERE: Final = -1

allowed_rate = Gauge("longwire_queue_share", "Messages per second that this worker may take of an own queue", ["topic"])


class PacedRunner(Runner):
    """Consumes a product's own queue as `queue()` says at each poll; None: as fast as it can.

    Nothing is asked of the consumer beyond what may be taken, so what is not allowed stays in Kafka (and a few fetched records).
    """

    def __init__(self, *arguments: Any, queue: Callable[[], Queue | None], **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._queue = queue
        self._throttle = Throttle()
        self._turn = 0

    def partitions_gained(self, partitions: set[int]) -> None:
        """A new assignment begins with an empty bucket: another member may have used up what this one had saved."""
        self._throttle = Throttle(at=time.monotonic())
        super().partitions_gained(partitions)

    async def _fetch(self, idle: Sequence[TopicPartition]) -> Batches:
        queue = self._queue()
        if queue is None:
            return await super()._fetch(idle)
        share = 0.0 if queue.paused else share_of(queue.rate, len(self._partitions), self._total())
        allowed_rate.labels(self._topic).set(share)
        allowed = self._throttle.allowed(time.monotonic(), share)
        if not allowed:
            await self._rest()
            return {}
        found = await self._in_turn(idle, allowed) or await self._ask(idle, allowed, wait_ms=int(TICK * 1000))
        self._throttle.take(sum(len(records) for records in found.values()))
        return found

    async def _rest(self) -> None:
        """Poll for nothing: a member that does not poll for minutes is taken for dead, and `pause()` is lost in a rebalance."""
        await self._ask([TopicPartition(self._topic, NOWHERE)], 1, wait_ms=0)
        await asyncio.sleep(min(TICK, self._throttle.wait()))

    async def _in_turn(self, idle: Sequence[TopicPartition], allowed: int) -> Batches:
        """What was fetched already, of each partition its part: else one with a long backlog would take it all."""
        self._turn += 1
        first = self._turn % len(idle)
        part, left = -(-allowed // len(idle)), allowed
        found: Batches = {}
        for where in (*idle[first:], *idle[:first]):
            if left:
                batch = await self._ask([where], min(part, left), wait_ms=0)
                left -= sum(len(records) for records in batch.values())
                found |= batch
        return found

    def _total(self) -> int:
        assert self._consumer is not None
        return len(self._consumer.partitions_for_topic(self._topic) or ())
