"""Reading Kafka's topics for a person: decoded, filtered, from a time on; nothing is committed, nobody is disturbed."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from infra.consumer import Consumer
from infra.journal import JournalDown, topic_specs
from infra.settings import KafkaSettings
from schemas import codec, names
from schemas.records import Record

_AGO: Final = re.compile(r"(\d+)(s|m|h|d)")
_UNIT_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class BadTime(ValueError):
    """A time that can't be read; the text says what can."""


class NoTopic(Exception):
    """A topic that is none of ours."""


@dataclass(frozen=True, slots=True)
class Found:
    """One record as it lies in Kafka. `record` None: a tombstone, or bytes that are no record (then `error` says why)."""

    topic: str
    partition: int
    offset: int
    at_ms: int
    key: bytes | None
    value: bytes | None
    record: Record | None
    error: str = ""

    def document(self) -> dict[str, Any]:
        """For `--json`: bytes as text where they are UTF-8, else as hexadecimal digits."""
        shown = _plain(self.record) if self.record is not None else None
        return {
            "topic": self.topic,
            "partition": self.partition,
            "offset": self.offset,
            "at_ms": self.at_ms,
            "key": _plain(self.key),
            "kind": type(self.record).__name__ if self.record is not None else "undecodable" if self.error else "tombstone",
            "record": shown,
            **({"error": self.error} if self.error else {}),
        }


def topic_name(text: str) -> str:
    """`messages`, `push.messages`, or `messages.<product>` for an own queue; raises NoTopic with the names there are."""
    known = [spec.name for spec in topic_specs(1)]
    name = text if text.startswith("push.") else f"push.{text}"
    if name not in known and not is_messages(name):
        raise NoTopic(f"there is no topic {text[:80]!a}; there are {', '.join(known)}, and own queues {names.MESSAGES}.<product>")
    return name


def is_messages(topic: str) -> bool:
    """Is it the shared topic of messages, or could it be a product's own queue?"""
    try:
        return topic == names.MESSAGES or bool(names.queue_product(topic))
    except names.BadName:
        return False


async def messages_topics(bootstrap: str, product: str = "") -> list[str]:
    """The shared topic of messages, then the own queues that there are (of one product, if it is named); raises JournalDown."""
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False)
    try:
        await consumer.start()
        own = sorted(topic for topic in await consumer.topics() if topic != names.MESSAGES and is_messages(topic))
    except (KafkaError, OSError) as error:
        raise JournalDown(f"Kafka at {bootstrap}: {type(error).__name__}: {error}") from error
    finally:
        await consumer.stop()
    return [names.MESSAGES, *(topic for topic in own if not product or topic == names.queue_topic(product))]


def since_ms(text: str, *, now: float | None = None) -> int:
    """`10m` ago, `beginning`, or an ISO time (UTC without a zone) → ms since the epoch; raises BadTime."""
    if text == "beginning":
        return 0
    if match := _AGO.fullmatch(text):
        return int(((time.time() if now is None else now) - int(match[1]) * _UNIT_S[match[2]]) * 1000)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise BadTime(f"{text[:40]!a} is no time: give 10m, 2h, 3d, beginning, or an ISO time such as 2026-11-24T10:00") from None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)


async def read(
    kafka: KafkaSettings, topic: str, *, since: int, until: int | None = None, follow: bool = False
) -> AsyncIterator[Found]:
    """The records of a topic from `since` (ms) to its present end, or before `until`, or for ever; raises JournalDown.

    In order within each partition.
    """
    consumer = Consumer(kafka, enable_auto_commit=False, auto_offset_reset="earliest")
    try:
        await consumer.start()
        places = [
            TopicPartition(topic, p) for p in sorted(consumer.partitions_for_topic(topic) or await _partitions(consumer, topic))
        ]
        consumer.assign(places)
        consumer.pause(*places)  # a fetch would hold up the questions
        ends = await consumer.end_offsets(places)
        starts = await consumer.offsets_for_times(dict.fromkeys(places, max(0, since)))
        for place in places:
            consumer.seek(place, starts[place].offset if starts[place] is not None else ends[place])
        left = {place for place in places if starts[place] is not None and starts[place].offset < ends[place]}
        consumer.resume(*places)
        while left or follow:
            for place, batch in (await consumer.getmany(timeout_ms=200, max_records=1000)).items():
                for source in batch:
                    if (follow or source.offset < ends[place]) and (until is None or source.timestamp < until):
                        yield _found(source)
            if not follow:
                left = {place for place in left if await consumer.position(place) < ends[place]}
    except (KafkaError, OSError) as error:
        raise JournalDown(f"Kafka at {kafka.bootstrap}: {type(error).__name__}: {error}") from error
    finally:
        await consumer.stop()


async def at(kafka: KafkaSettings, topic: str, partition: int, offset: int) -> Found | None:
    """One record by its place, None if it is not there; raises JournalDown."""
    consumer = Consumer(kafka, enable_auto_commit=False, auto_offset_reset="none")
    where = TopicPartition(topic, partition)
    try:
        await consumer.start()
        if partition not in await _partitions(consumer, topic):
            return None
        consumer.assign([where])
        begin, end = (await consumer.beginning_offsets([where]))[where], (await consumer.end_offsets([where]))[where]
        if not begin <= offset < end:
            return None
        consumer.seek(where, offset)
        found = (await consumer.getmany(where, timeout_ms=5000, max_records=1)).get(where)
        return _found(found[0]) if found and found[0].offset == offset else None
    except (KafkaError, OSError) as error:
        raise JournalDown(f"Kafka at {kafka.bootstrap}: {type(error).__name__}: {error}") from error
    finally:
        await consumer.stop()


def matching(*, client: str = "", product: str = "", message: str = "") -> Callable[[Found], bool]:
    """Does a record concern this client, product and id, as far as they are given?"""
    wanted = {"client": client, "product": product, "id": message}

    def fits(found: Found) -> bool:
        return all(not value or getattr(found.record, name, None) == value for name, value in wanted.items())

    return fits


def held(letter: Found) -> dict[str, Any] | None:
    """The record that a dead letter holds, decoded; None if it can't be."""
    try:
        return dict(_plain(codec.decode(getattr(letter.record, "value", None) or b"")))
    except codec.Undecodable:
        return None


def line(found: Found) -> str:
    """One line for a terminal; control characters of whoever sent it are made harmless."""
    at = datetime.fromtimestamp(found.at_ms / 1000, UTC).strftime("%m-%d %H:%M:%S.%f")[:-3]
    document = found.document()
    if found.record is None:
        text = f"{document['kind']} {found.error}"
    else:
        shown = {name: value for name, value in document["record"].items() if value not in (None, "", [], {}, ())}
        text = f"{document['kind']} " + " ".join(f"{name}={_short(value)}" for name, value in shown.items())
    return f"{at} {found.partition}:{found.offset} {safe(text)}"


def safe(text: str) -> str:
    """Printable: what a terminal would obey is escaped."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


async def _partitions(consumer: AIOKafkaConsumer, topic: str) -> set[int]:
    if topic not in await consumer.topics():  # asked for by its name, a broker may create it
        raise NoTopic(f"topic {topic} does not exist: run `pushctl topics apply`")
    await consumer._client.add_topic(topic)  # noqa: SLF001 - aiokafka has no other way to ask for a topic it is not subscribed to
    found = consumer.partitions_for_topic(topic)
    if not found:
        raise NoTopic(f"topic {topic} does not exist: run `pushctl topics apply`")
    return set(found)


def _found(source: Any) -> Found:
    record, error = None, ""
    if source.value is not None:
        try:
            record = codec.decode(source.value)
        except codec.Undecodable as problem:
            error = str(problem)
    return Found(source.topic, source.partition, source.offset, source.timestamp, source.key, source.value, record, error)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}…"


def _plain(value: Any) -> Any:
    if isinstance(value, msgspec.Struct):
        return {name: _plain(item) for name, item in msgspec.structs.asdict(value).items()}
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value.hex()
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return value
