"""The Kafka topics with what lies in them: the contract for who writes to them or reads them besides Longwire's own processes.

How long a topic keeps a record is part of how it is created (infra/journal.py); the document for both is infra/asyncapi.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from schemas import names
from schemas.broadcasts import AudienceChunk, Audit, Broadcast, JobRecord, Transition
from schemas.records import (
    ClientRecord,
    DeadLetter,
    Fallback,
    PushMessage,
    Receipt,
    Record,
    Retry,
    ShardRecord,
    StatusEvent,
    Uplink,
)


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic: its records, its key in words. `open`: any producer may write to it; the others are Longwire's own."""

    name: str
    records: tuple[type[Record], ...]
    key: str
    open: bool = False


TOPICS: Final = (
    Topic(names.MESSAGES, (PushMessage,), "the client, or the user of a message for a user", open=True),
    Topic(names.BROADCASTS, (Broadcast, Transition), "the product", open=True),
    Topic(names.JOBS, (JobRecord,), "`job/term`, or `job/new-claim`; partitioned by the product"),
    Topic(names.AUDIENCES, (AudienceChunk,), "`product/audience`"),
    Topic(names.RECEIPTS, (Receipt,), "the client"),
    Topic(names.UPLINK, (Uplink,), "the client"),
    Topic(names.STATUS, (StatusEvent,), "the client"),
    Topic(names.CLIENTS, (ClientRecord,), "`realm:client product`; partitioned by the client"),
    Topic(names.FALLBACK, (Fallback,), "the client"),
    Topic(names.RETRIES, (Retry,), "`product/endpoint/event`; partitioned by the event's key"),
    Topic(names.DEAD, (DeadLetter,), "the product, or the topic of a record that does not decode"),
    Topic(names.AUDIT, (Audit,), "the product"),
    Topic(names.REGISTER, (ShardRecord,), "the shard of the register"),
)

OWN_QUEUE: Final = Topic(f"{names.MESSAGES}.{{product}}", (PushMessage,), "the client", open=True)
"""A large product's own queue, as many topics as there are such products (names.queue_topic)."""


def records_of(topic: str) -> tuple[type[Record], ...]:
    """What lies in a topic, own queues too; raises KeyError for one that is none of Longwire's."""
    found = {each.name: each.records for each in TOPICS}
    return OWN_QUEUE.records if topic.startswith(f"{names.MESSAGES}.") else found[topic]
