"""What a webhook is told, and the bytes of a request.

A request's body is one JSON object (UTF-8), whatever it holds::

    {"product", "events": [{"id", "type", "timestamp", "data": {…}}]}

`timestamp` is when it happened (RFC 3339, UTC). A repeat of an event, and of a request, has the same id.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import Any, Final

import msgspec

from schemas import names

MAX_BODY: Final = 1024 * 1024
"""Bytes of one request, about: an event that is larger goes alone."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened. `id`: the same for every repeat, no two events share one; `key`: events of one key come in
    order (usually the client, as `realm:client`); `at_ms`: when it happened, since the epoch; `data`: a JSON object."""

    id: str
    type: str
    product: str
    key: str
    at_ms: int
    data: Mapping[str, Any]

    def __post_init__(self) -> None:
        """Raises BadName for an id that can't be a header, nor part of a key in Kafka."""
        names.message_id(self.id)

    def encoded(self) -> bytes:
        """Its JSON object within a request."""
        happened = (_EPOCH + timedelta(milliseconds=self.at_ms)).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return msgspec.json.encode({"id": self.id, "type": self.type, "timestamp": happened, "data": self.data})


@dataclass(frozen=True, slots=True)
class Batch:
    """One request: its `id` (the header `webhook-id`), the events in it, and its bytes."""

    id: str
    events: tuple[Event, ...]
    body: bytes


def batches(events: Sequence[Event], most: int) -> Iterator[Batch]:
    """Events of one product as requests, in order, each with at most `most` events and about `MAX_BODY` bytes."""
    taken: list[tuple[Event, bytes]] = []
    size = 0
    for event in events:
        data = event.encoded()
        if taken and (len(taken) >= most or size + len(data) > MAX_BODY):
            yield _batch(taken)
            taken, size = [], 0
        taken.append((event, data))
        size += len(data)
    if taken:
        yield _batch(taken)


def _batch(taken: Sequence[tuple[Event, bytes]]) -> Batch:
    events = tuple(event for event, _ in taken)
    ids = "\0".join(event.id for event in events).encode()
    name = events[0].id if len(events) == 1 else f"batch-{blake2b(ids, digest_size=16).hexdigest()}"
    head = b'{"product":' + msgspec.json.encode(events[0].product) + b',"events":['
    return Batch(name, events, head + b",".join(data for _, data in taken) + b"]}")
