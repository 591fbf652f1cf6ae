"""Kafka as this system uses it: an idempotent producer with `acks=all`, and the topics themselves.

The consuming side is `workers/runner.py`, which owns the commit rule.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import msgspec
import structlog
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError, TopicAlreadyExistsError

from infra import topicconfig
from infra.producer import Placed, Producer, over
from infra.registry import Registry, RegistryDown, SchemaRefused
from infra.settings import KafkaSettings
from schemas import codec, names
from schemas.partition import partition_of
from schemas.records import Record

LINGER_MS: Final = 5
HOUR_MS: Final = 3600 * 1000
DAY_MS: Final = 24 * HOUR_MS

log = structlog.get_logger("journal")


class JournalDown(Exception):
    """Kafka did not acknowledge in time: the outcome is unknown. Produce again; ids make it harmless."""


class Position(msgspec.Struct, frozen=True):
    """Where a record lies: partition, offset, and the broker's append time (ms)."""

    partition: int
    offset: int
    timestamp_ms: int


class Entry(msgspec.Struct, frozen=True):
    """One record to produce. `key` decides the partition by murmur2, unless `by` names another text to hash."""

    topic: str
    key: str
    record: Record | None
    by: str | None = None


class Journal:
    """The producer of a process."""

    def __init__(self, settings: KafkaSettings, *, name: str) -> None:
        self._settings = settings
        self._name = name
        self._producer: Producer | None = None
        self._places: dict[str, list[TopicPartition]] = {}
        self._registry = Registry(settings) if settings.registry_url else None

    async def start(self) -> None:
        """Connect; raises JournalDown with the address if the broker can't be reached, or a registry that is configured can't or
        does not take our schemas."""
        self._producer = Producer(
            bootstrap_servers=self._settings.bootstrap,
            client_id=self._name,
            acks="all",
            enable_idempotence=True,
            linger_ms=LINGER_MS,
            max_batch_size=256 * 1024,
            request_timeout_ms=int(self._settings.request_timeout * 1000),
            metadata_max_age_ms=30_000,
        )
        try:
            async with asyncio.timeout(20):
                await self._producer.start()
        except (KafkaError, OSError, TimeoutError) as error:
            raise JournalDown(f"Kafka at {self._settings.bootstrap} can't be reached: {error}") from error
        if self._registry is not None:
            try:
                await self._registry.check()
            except (RegistryDown, SchemaRefused) as error:
                await self.stop()
                raise JournalDown(str(error)) from error

    async def stop(self) -> None:
        """Send what is buffered, within 5 s, and close."""
        if self._registry is not None:
            await self._registry.stop()
        if self._producer is not None:
            producer, self._producer = self._producer, None
            try:
                async with asyncio.timeout(5):
                    await producer.stop()
            except (TimeoutError, KafkaError):
                log.warning("producer not closed cleanly", producer=self._name)

    async def partitions(self, topic: str) -> int:
        """How many partitions a topic has; raises JournalDown."""
        return len(self._places.get(topic) or await self._look_up(topic))

    async def _look_up(self, topic: str) -> list[TopicPartition]:
        producer = self._started()
        try:
            async with asyncio.timeout(self._settings.request_timeout):
                count = await producer.follow(topic)
        except (KafkaError, TimeoutError) as error:
            raise JournalDown(f"{topic}: {type(error).__name__}") from error
        self._places[topic] = [TopicPartition(topic, number) for number in range(count)]
        return self._places[topic]

    async def topics(self, prefix: str) -> dict[str, int]:
        """The topics whose names begin so, with their numbers of partitions, as a broker says now; raises JournalDown.

        All are asked for: a broker may create the one that is asked for by name, with partitions of its own choice.
        """
        try:
            async with asyncio.timeout(self._settings.request_timeout):
                cluster = await self._started().client.fetch_all_metadata()
        except (KafkaError, TimeoutError) as error:
            raise JournalDown(f"{prefix}: {type(error).__name__}: {error}") from error
        return {topic: len(cluster.partitions_for_topic(topic) or ()) for topic in cluster.topics() if topic.startswith(prefix)}

    async def produce(self, entries: Sequence[Entry], *, timeout: float | None = None) -> list[Position]:
        """Produce all entries and return where each one lies, when Kafka has acknowledged every one of them.

        Raises JournalDown if it has not within `timeout` seconds (default: the settings' request timeout): then any of them may
        be in Kafka or not.
        """
        if not entries:
            return []
        producer = self._started()
        try:
            async with asyncio.timeout(timeout or self._settings.request_timeout):
                placed = [await self._place(producer, entry) for entry in entries]
                await over(placed)
            return [Position(*each.found()) for each in placed]
        except (KafkaError, TimeoutError, RegistryDown, SchemaRefused) as error:
            raise JournalDown(f"{type(error).__name__}: {error}") from error

    async def _place(self, producer: Producer, entry: Entry) -> Placed:
        partitions = self._places.get(entry.topic) or await self._look_up(entry.topic)
        where, record, value = partitions[partition_of(entry.by or entry.key, len(partitions))], entry.record, None
        if record is not None:
            value = codec.encode(record) if self._registry is None else await self._registry.frame(entry.topic, record)
        key = entry.key.encode()
        return producer.place_now(where, key, value) or await producer.place(where, key, value)

    async def ping(self) -> None:
        """Raise JournalDown unless a broker answers a metadata request; the caller bounds the time."""
        try:
            answered = await self._started().client.force_metadata_update()
        except KafkaError as error:
            raise JournalDown(f"{type(error).__name__}: {error}") from error
        if not answered:
            raise JournalDown(f"Kafka at {self._settings.bootstrap} does not answer")

    def _started(self) -> Producer:
        if self._producer is None:
            raise JournalDown("the producer is not started")
        return self._producer


# --- topics ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """A topic as `pushctl topics apply` creates it."""

    name: str
    partitions: int
    config: dict[str, str]


def topic_specs(partitions: int) -> tuple[TopicSpec, ...]:
    """All topics. Messages, receipts, status and clients share the number of partitions, so that a client's records align.

    Retention: messages outlive the longest TTL (28 days) by two days of outage; receipts outlive messages.
    """
    log_append = {"message.timestamp.type": "LogAppendTime", "compression.type": "producer"}

    def kept(days: int) -> dict[str, str]:
        return {**log_append, "retention.ms": str(days * DAY_MS)}

    compacted = {**log_append, "cleanup.policy": "compact"}
    soon_compacted = {"cleanup.policy": "compact,delete", "segment.bytes": str(64 << 20), "delete.retention.ms": str(HOUR_MS)}
    waiting = {**kept(7), **soon_compacted}
    return (
        TopicSpec(names.MESSAGES, partitions, kept(30)),
        TopicSpec(names.RECEIPTS, partitions, kept(30)),
        TopicSpec(names.STATUS, partitions, kept(30)),
        TopicSpec(names.CLIENTS, partitions, compacted),
        TopicSpec(names.UPLINK, partitions, kept(7)),
        TopicSpec(names.BROADCASTS, partitions, kept(30)),
        TopicSpec(names.JOBS, partitions, compacted),
        TopicSpec(names.AUDIENCES, partitions, kept(30)),
        TopicSpec(names.FALLBACK, partitions, kept(30)),
        TopicSpec(names.RETRIES, partitions, waiting),
        TopicSpec(names.AUDIT, partitions, kept(365)),
        TopicSpec(names.DEAD, partitions, kept(30)),
        TopicSpec(names.REGISTER, 1, compacted),
    )


def queue_spec(product: str, partitions: int) -> TopicSpec:
    """The topic of a product's own queue: as `push.messages`, and with as many partitions."""
    [shared] = [spec for spec in topic_specs(partitions) if spec.name == names.MESSAGES]
    return TopicSpec(names.queue_topic(product), partitions, shared.config)


async def apply_topics(settings: KafkaSettings, queues: Iterable[str] = ()) -> list[tuple[str, str]]:
    """Create what is missing, own queues of these products too, and make the settings of what is there ours (`topicconfig`);
    returns (topic, "created" | "altered" | "exists"). Idempotent; raises JournalDown."""
    async with _admin(settings) as admin:
        outcome = await _apply(admin, topic_specs(settings.partitions), settings.replication)
        return outcome + await _apply_queues(admin, queues, settings.replication)


async def create_queues(settings: KafkaSettings, products: Iterable[str]) -> list[tuple[str, str]]:
    """Create the own queues of these products that are missing; returns as `apply_topics`. Raises JournalDown."""
    async with _admin(settings) as admin:
        return await _apply_queues(admin, products, settings.replication)


@asynccontextmanager
async def _admin(settings: KafkaSettings) -> AsyncIterator[AIOKafkaAdminClient]:
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.bootstrap, client_id="longwire-topics")
    try:
        async with asyncio.timeout(60):
            await admin.start()
            yield admin
    except (KafkaError, OSError, TimeoutError) as error:
        raise JournalDown(f"Kafka at {settings.bootstrap}: {type(error).__name__}: {error}") from error
    finally:
        await admin.close()


async def _apply_queues(admin: AIOKafkaAdminClient, products: Iterable[str], replication: int) -> list[tuple[str, str]]:
    wanted = sorted(products)
    if not wanted:
        return []
    [shared] = await admin.describe_topics([names.MESSAGES])
    if not (partitions := len(shared["partitions"])):
        raise JournalDown(f"topic {names.MESSAGES} does not exist: run `pushctl topics apply`")
    return await _apply(admin, [queue_spec(product, partitions) for product in wanted], replication)


async def _apply(admin: AIOKafkaAdminClient, specs: Sequence[TopicSpec], replication: int) -> list[tuple[str, str]]:
    existing, outcome = set(await admin.list_topics()), {}
    for spec in specs:
        created = spec.name not in existing and await _create(admin, spec, replication)
        outcome[spec.name] = "created" if created else "exists"
    wanted = {spec.name: spec.config for spec in specs if outcome[spec.name] == "exists"}
    outcome |= dict.fromkeys(await topicconfig.correct(admin, wanted), "altered")
    return list(outcome.items())


async def _create(admin: AIOKafkaAdminClient, spec: TopicSpec, replication: int) -> bool:
    topic = NewTopic(spec.name, spec.partitions, replication, topic_configs=spec.config)
    try:
        response = await admin.create_topics([topic])
    except TopicAlreadyExistsError:
        return False
    _raise_for(response.topic_errors)
    return True


def _raise_for(topic_errors: Iterable[tuple[str, int, str]]) -> None:
    for topic, code, *text in topic_errors:
        if code not in (0, TopicAlreadyExistsError.errno):
            raise JournalDown(f"topic {topic} was not created: {code} {text}")
