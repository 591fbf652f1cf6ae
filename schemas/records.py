"""The records of the Kafka topics. One class a record, one `.avsc` file a class in `schemas/avro/`.

A record is immutable and checked where it enters (`check()` raises ValueError with the field, the value and the bound);
`schemas.codec` turns it into bytes and back. Times are milliseconds since the epoch, by the clock that the field names.
"""

from __future__ import annotations

from typing import ClassVar

import msgspec

from schemas import names
from schemas.broadcasts import AudienceChunk, Audit, Broadcast, JobRecord, Transition
from schemas.checks import MAX_TTL_S, check_content, check_range, check_ttl
from schemas.codes import Mode, Priority, State, Status

MAX_PULL_AFTER_MS = 3_600_000
"""The longest that a notice may ask its client to wait, an hour."""


_PRIORITIES = frozenset(int(priority) for priority in Priority)
_MODES = frozenset(mode.value for mode in Mode)


class PushMessage(msgspec.Struct, frozen=True, kw_only=True):
    """`push.messages`: one message for a client, or for every client of a user. Exactly one of both is named.

    `fallback_after_s`: what is unsettled so long after it was accepted is handed to another channel (docs/adr/0011).
    """

    SCHEMA: ClassVar[str] = "PushMessage.v3"
    OLDER: ClassVar[tuple[str, ...]] = ("PushMessage.v2", "PushMessage.v1")

    id: str
    product: str
    client: str | None = None
    user: str | None = None
    realm: str = names.DEFAULT_REALM
    payload: bytes = b""
    qos: int = 1
    priority: int = Priority.NORMAL
    ttl_s: int | None = None
    collapse_key: str | None = None
    group: str | None = None
    content_type: str | None = None
    correlation: bytes | None = None
    properties: dict[str, str] = {}
    mode: str = Mode.PUSH
    pull_after_ms: int = 0
    accepted_ms: int | None = None
    fallback_after_s: int | None = None

    def check(self) -> None:
        """Raise ValueError if a field is out of its bounds."""
        names.message_id(self.id)
        names.product(self.product)
        names.realm(self.realm)
        if (self.client is None) == (self.user is None):
            raise ValueError("exactly one of client and user must be named")
        if self.client is not None:
            names.client(self.client)
        if self.user is not None:
            names.user(self.user)
        if self.group is not None:
            names.group(self.group)
        if self.collapse_key is not None:
            names.collapse_key(self.collapse_key)
        if self.qos not in (0, 1):
            raise ValueError(f"qos {self.qos} is not 0 or 1")
        if self.priority not in _PRIORITIES:
            raise ValueError(f"priority {self.priority} is not 0, 1 or 2")
        self._check_mode()
        if self.correlation is not None and len(self.correlation) > 1024:
            raise ValueError("correlation has more than 1024 bytes")
        check_ttl(self.ttl_s)
        self.check_fallback(MAX_TTL_S)
        check_content(self.payload, self.properties, self.content_type)

    def check_fallback(self, default_ttl_s: int) -> None:
        """Raise ValueError if the hand-over would never come; `default_ttl_s`: the product's time to live."""
        if self.fallback_after_s is None:
            return
        if self.qos == 0:
            raise ValueError("fallback_after_s at QoS 0: what is never stored can't be handed over")
        check_range("fallback_after_s", self.fallback_after_s, 1, MAX_TTL_S)
        ttl_s = self.ttl_s or default_ttl_s
        if self.fallback_after_s > ttl_s:
            raise ValueError(f"fallback_after_s {self.fallback_after_s} is longer than the time to live, {ttl_s} s")

    def _check_mode(self) -> None:
        if self.mode not in _MODES:
            raise ValueError(f"mode {self.mode[:16]!a} is not push, pull or both")
        if self.mode != Mode.PUSH and self.qos == 0:
            raise ValueError(f"mode {self.mode} at QoS 0: what is never stored can't be pulled")
        if not 0 <= self.pull_after_ms <= MAX_PULL_AFTER_MS:
            raise ValueError(f"pull_after_ms {self.pull_after_ms} is not between 0 and {MAX_PULL_AFTER_MS}")


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """`push.receipts`, key client: how an accepted (id, client) was settled; or, in the states that settle nothing, what else
    became of it."""

    SCHEMA: ClassVar[str] = "Receipt.v1"

    id: str
    product: str
    realm: str
    client: str
    state: State
    at_ms: int
    count: int = 1
    detail: str | None = None


class Uplink(msgspec.Struct, frozen=True, kw_only=True):
    """`push.uplink`, key client: what a device sent. `id` is the SDK's, or `room.epoch.session.counter`."""

    SCHEMA: ClassVar[str] = "Uplink.v1"

    id: str
    product: str
    realm: str
    client: str
    user: str | None
    type: str
    payload: bytes
    qos: int
    group: str | None = None
    correlation: bytes | None = None
    wants_reply: bool = False
    content_type: str | None = None
    properties: dict[str, str] = {}
    room: str = ""
    received_ms: int = 0


class StatusEvent(msgspec.Struct, frozen=True, kw_only=True):
    """`push.status`, key client: online, offline, bind, unbind, in the order of (generation, session).

    Of a bind: `user`, whose client it is in the product; `changed`, the registry did not have it so before. `again`: this session
    was missing in the register, and its room has registered it once more, perhaps after its end was told.
    """

    SCHEMA: ClassVar[str] = "StatusEvent.v2"
    OLDER: ClassVar[tuple[str, ...]] = ("StatusEvent.v1",)

    realm: str
    client: str
    event: Status
    generation: int
    session: int
    room: str
    epoch: int
    at_ms: int
    product: str | None = None
    reason: str | None = None
    settled_jobs: tuple[str, ...] = ()
    user: str | None = None
    changed: bool = False
    again: bool = False


class ClientProduct(msgspec.Struct, frozen=True, kw_only=True):
    """What the durable registry knows of a client in one product."""

    user: str | None
    groups: tuple[str, ...]
    attrs: dict[str, str]
    qos: int
    first_bind_ms: int


class ClientRecord(msgspec.Struct, frozen=True, kw_only=True):
    """`push.clients`, key `realm:client product` (compacted, partitioned by client): one client's bind to one product."""

    SCHEMA: ClassVar[str] = "ClientRecord.v1"

    realm: str
    client: str
    product: str
    bind: ClientProduct


class Fallback(msgspec.Struct, frozen=True, kw_only=True):
    """`push.fallback`, key client: what was unsettled when its time had come, for another channel (APNs, FCM, SMS).

    `id` is the message's, or the job's. Once per (id, client); a repeat, after a crash, has the same id. `user`: whose device it
    is by the registry, if that is known.
    """

    SCHEMA: ClassVar[str] = "Fallback.v1"

    id: str
    product: str
    realm: str
    client: str
    user: str | None
    payload: bytes
    content_type: str | None
    properties: dict[str, str]
    accepted_ms: int
    reason: str


class Retry(msgspec.Struct, frozen=True, kw_only=True):
    """`push.retries`, key `product/endpoint/id` (compacted, partitioned by `key`): an event that its webhook has not taken yet.

    `data`: the event's JSON object. It is settled when there is nothing under its key any more.
    """

    SCHEMA: ClassVar[str] = "Retry.v1"

    id: str
    product: str
    endpoint: str
    type: str
    key: str
    at_ms: int
    data: bytes
    since_ms: int
    reason: str


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """`push.dead`: a record that could not be handled, with the reason and where it came from."""

    SCHEMA: ClassVar[str] = "DeadLetter.v1"

    topic: str
    partition: int
    offset: int
    reason: str
    at_ms: int
    key: bytes | None
    value: bytes | None
    id: str | None = None
    client: str | None = None
    product: str | None = None


class ShardRecord(msgspec.Struct, frozen=True, kw_only=True):
    """`push.register`, key shard: Redis has a new incarnation. This record's offset + 1 is the generation (docs/adr/0007)."""

    SCHEMA: ClassVar[str] = "ShardRecord.v1"

    shard: str
    run_id: str
    by: str
    at_ms: int


Record = (
    PushMessage
    | Broadcast
    | Transition
    | JobRecord
    | AudienceChunk
    | Audit
    | Receipt
    | Uplink
    | StatusEvent
    | ClientRecord
    | Fallback
    | Retry
    | DeadLetter
    | ShardRecord
)
RECORDS: tuple[type[Record], ...] = (
    PushMessage,
    Broadcast,
    Transition,
    JobRecord,
    AudienceChunk,
    Audit,
    Receipt,
    Uplink,
    StatusEvent,
    ClientRecord,
    Fallback,
    Retry,
    DeadLetter,
    ShardRecord,
)
