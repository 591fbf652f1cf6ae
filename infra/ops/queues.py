"""Own queues for a person: what the keeper's documents say, and how far delivery is behind, by Kafka's offsets."""

from __future__ import annotations

from typing import Any

from aiokafka import AIOKafkaConsumer, OffsetAndMetadata, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from infra import VERSION
from infra.bus import Bus, BusError
from infra.documents import Product
from infra.journal import JournalDown
from infra.mirror import Mirror
from infra.ops import logs
from infra.settings import NatsSettings
from schemas import names


async def switched_on(settings: NatsSettings) -> list[str] | None:
    """The products whose documents have a queue; None where NATS can't be reached."""
    bus = Bus(settings, name="pushctl", version=VERSION)
    documents = Mirror(bus, names.KV_KEEPER)
    try:
        await bus.start()
        await documents.start()
        found = [value for key, value in documents.entries.items() if key.startswith("products.")]
    except (BusError, TimeoutError):
        return None
    finally:
        await documents.stop()
        await bus.stop()
    return sorted(product.name for product in map(_product, found) if product is not None and product.queue is not None)


def _product(value: bytes) -> Product | None:
    try:
        return Product.model_validate_json(value)
    except ValueError:  # refused by every process, too
        return None


async def with_lag(bootstrap: str, documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Queues (`product`, `rate`, `paused`) with what is not handled yet, by partition; raises JournalDown.

    A queue that is switched off and still there is among them, with `rate` None.
    """
    lags = await _lags(bootstrap)
    found = {product: {"product": product, "rate": None, "paused": False} for product in lags}
    found |= {document["product"]: document for document in documents}
    return [{**found[product], **_with_sum(lags.get(product))} for product in sorted(found)]


def _with_sum(rows: list[dict[str, int]] | None) -> dict[str, Any]:
    return {"lag": None if rows is None else sum(row["lag"] for row in rows), "partitions": rows or []}


async def _lags(bootstrap: str) -> dict[str, list[dict[str, int]]]:
    """Product → how far each partition of its own queue is delivered."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap, client_id="pushctl")
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False)
    try:
        await admin.start()
        await consumer.start()
        places = await _places(admin)
        every = [place for found in places.values() for place in found]
        consumer.assign(every)
        consumer.pause(*every)  # a fetch would hold up the questions
        begins, ends = await consumer.beginning_offsets(every), await consumer.end_offsets(every)
        committed: dict[TopicPartition, OffsetAndMetadata] = {}
        for product in places:
            committed |= await admin.list_consumer_group_offsets(names.queue_group(product))
    except (KafkaError, OSError) as error:
        raise JournalDown(f"Kafka at {bootstrap}: {type(error).__name__}: {error}") from error
    finally:
        await consumer.stop()
        await admin.close()
    handled = {place: max(begins[place], committed[place].offset if place in committed else 0) for place in every}
    return {
        product: [
            {"partition": at.partition, "committed": handled[at], "end": ends[at], "lag": ends[at] - handled[at]} for at in found
        ]
        for product, found in places.items()
    }


async def _places(admin: AIOKafkaAdminClient) -> dict[str, list[TopicPartition]]:
    """Product → the partitions of its own queue."""
    found = {}
    for topic in await admin.describe_topics():
        name = topic["topic"]
        if name != names.MESSAGES and logs.is_messages(name):
            numbers = sorted(item["partition"] for item in topic["partitions"])
            found[names.queue_product(name)] = [TopicPartition(name, number) for number in numbers]
    return found


def queues_text(rows: list[dict[str, Any]]) -> str:
    """PRODUCT, RATE and LAG, one row a queue."""
    if not rows:
        return "no product has a queue of its own"
    lines = [f"{'PRODUCT':<24} {'RATE':>10} {'LAG':>12}  STATE"]
    lines += [f"{row['product']:<24} {_rate(row):>10} {_lag_text(row):>12}  {_state(row)}" for row in rows]
    return "\n".join(lines)


def queue_text(row: dict[str, Any]) -> str:
    """One queue: what its document says, then a line for each partition."""
    lines = [f"{row['product']}: {_state(row)}, {_rate(row)} messages/s, {_lag_text(row)} not delivered yet"]
    lines += [f"  partition {at['partition']}: {at['committed']} of {at['end']}, lag {at['lag']}" for at in row["partitions"]]
    return "\n".join(lines)


def changed_text(row: dict[str, Any]) -> str:
    """What a change led to."""
    return f"{row['product']}: {_state(row)}, {_rate(row)} messages/s"


def _rate(row: dict[str, Any]) -> str:
    return "unlimited" if row["rate"] is None else f"{row['rate']:,}"


def _lag_text(row: dict[str, Any]) -> str:
    return "no topic" if row["lag"] is None else f"{row['lag']:,}"


def _state(row: dict[str, Any]) -> str:
    return "off, drains" if row["rate"] is None else "paused" if row["paused"] else "on"
