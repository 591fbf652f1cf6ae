"""A Kafka consumer whose records are in single-object encoding, also where they were written in Confluent's wire format.

Without a registry it is aiokafka's. With one, a record whose schema id can't be found out now is not given, nor any after it in
its partition: it is read again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import IllegalStateError, KafkaError

from infra.registry import Registry, RegistryDown
from infra.settings import KafkaSettings


class RegistryAway(KafkaError):  # type: ignore[misc]
    """Records are there, and none can be told without the registry, which does not answer: for readers Kafka is away."""


class Consumer(AIOKafkaConsumer):  # type: ignore[misc]
    """aiokafka's, by our settings; `options` are its own."""

    def __init__(self, settings: KafkaSettings, **options: Any) -> None:
        super().__init__(bootstrap_servers=settings.bootstrap, **options)
        self._registry = Registry(settings) if settings.registry_url else None

    async def stop(self) -> None:
        """Leave, and close the connections."""
        if self._registry is not None:
            await self._registry.stop()
        await super().stop()

    async def getmany(
        self, *partitions: TopicPartition, timeout_ms: int = 0, max_records: int | None = None
    ) -> dict[TopicPartition, list[ConsumerRecord]]:
        """The next records by partition; raises RegistryAway, and as aiokafka's."""
        found: dict[TopicPartition, list[ConsumerRecord]] = await super().getmany(
            *partitions, timeout_ms=timeout_ms, max_records=max_records
        )
        if self._registry is None:
            return found
        told = {where: await self._tell(where, records) for where, records in found.items()}
        if found and not any(told.values()):
            raise RegistryAway
        return {where: records for where, records in told.items() if records}

    async def getone(self, *partitions: TopicPartition) -> ConsumerRecord:
        """The next record; raises RegistryAway, and as aiokafka's."""
        record = await super().getone(*partitions)
        if self._registry is None:
            return record
        told = await self._tell(TopicPartition(record.topic, record.partition), [record])
        if not told:
            raise RegistryAway
        return told[0]

    async def _tell(self, where: TopicPartition, records: Sequence[ConsumerRecord]) -> list[ConsumerRecord]:
        """The records in single-object encoding, as many as can be told; the others are read again."""
        assert self._registry is not None
        told = []
        for record in records:
            try:
                value = record.value and await self._registry.plain(record.value)
            except RegistryDown:
                with contextlib.suppress(IllegalStateError):  # the partition is somebody else's by now
                    self.seek(where, record.offset)
                break
            told.append(record if value is record.value else replace(record, value=value))
        return told
