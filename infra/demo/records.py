"""What the demo reads back from Kafka: uplinks and receipts."""

from __future__ import annotations

import asyncio

from aiokafka import AIOKafkaConsumer, TopicPartition

from schemas import codec, names
from schemas.records import Receipt, Uplink


class Reader:
    """Reads `push.uplink` and `push.receipts` from their beginnings, without a consumer group."""

    def __init__(self, bootstrap: str, partitions: int) -> None:
        self._bootstrap = bootstrap
        self._partitions = partitions
        self._task: asyncio.Task[None] | None = None
        self.uplinks: list[Uplink] = []
        self.receipts: list[Receipt] = []

    async def start(self) -> None:
        """Begin reading."""
        self._consumer = AIOKafkaConsumer(
            bootstrap_servers=self._bootstrap, enable_auto_commit=False, auto_offset_reset="earliest"
        )
        await self._consumer.start()
        topics = (names.UPLINK, names.RECEIPTS)
        self._consumer.assign([TopicPartition(topic, p) for topic in topics for p in range(self._partitions)])
        self._task = asyncio.create_task(self._read())

    async def stop(self) -> None:
        """End reading."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            await self._consumer.stop()

    async def _read(self) -> None:
        async for item in self._consumer:
            record = codec.decode(item.value)
            if isinstance(record, Uplink):
                self.uplinks.append(record)
            elif isinstance(record, Receipt):
                self.receipts.append(record)
