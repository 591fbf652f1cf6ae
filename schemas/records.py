"""The records of the Kafka topics. One class a record, one `.avsc` file a class in `schemas/avro/`.

A record is immutable and checked where it enters (`check()` raises ValueError with the field, the value and the bound);
`schemas.codec` turns it into bytes and back. Times are milliseconds since the epoch, by the clock that the field names.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from schemas import names
from schemas.codes import MAX_PAYLOAD, MAX_PROPERTIES, MAX_PROPERTIES_BYTES, Mode, Priority, State, Status

MAX_TTL_S = 28 * 24 * 3600
"""The longest time to live that is accepted, four weeks: FCM's bound."""

MAX_PULL_AFTER_MS = 3_600_000
"""The longest that a notice may ask its client to wait, an hour."""


_PRIORITIES = frozenset(int(priority) for priority in Priority)
_MODES = frozenset(mode.value for mode in Mode)


def _check_content(payload: bytes, properties: dict[str, str]) -> None:
    if len(payload) > MAX_PAYLOAD:
        raise ValueError(f"payload has {len(payload)} bytes, more than {MAX_PAYLOAD}")
    if len(properties) > MAX_PROPERTIES:
        raise ValueError(f"{len(properties)} properties, more than {MAX_PROPERTIES}")
    if sum(len(k.encode()) + len(v.encode()) for k, v in properties.items()) > MAX_PROPERTIES_BYTES:
        raise ValueError(f"properties have more than {MAX_PROPERTIES_BYTES} bytes")
    if any("\0" in text for pair in properties.items() for text in pair):
        raise ValueError("a property contains NUL, which MQTT strings may not (MQTT 5 §1.5.4)")
    if any(name in RESERVED_PROPERTIES for name in properties):
        raise ValueError(f"property names {', '.join(sorted(RESERVED_PROPERTIES))} are Longwire's own")


RESERVED_PROPERTIES = frozenset({"id", "job", "pull", "size", "pull-after", "retry-after"})


def _check_ttl(ttl_s: int | None) -> None:
    if ttl_s is not None and not 0 < ttl_s <= MAX_TTL_S:
        raise ValueError(f"ttl_s {ttl_s} is not between 1 and {MAX_TTL_S}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PushMessage:
    """`push.messages`: one message for a client, or for every client of a user. Exactly one of both is named."""

    SCHEMA: ClassVar[str] = "PushMessage.v2"
    OLDER: ClassVar[tuple[str, ...]] = ("PushMessage.v1",)

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
    properties: dict[str, str] = field(default_factory=dict)
    mode: str = Mode.PUSH
    pull_after_ms: int = 0
    accepted_ms: int | None = None

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
        if self.content_type is not None and (len(self.content_type) > 128 or "\0" in self.content_type):
            raise ValueError("content_type has more than 128 characters, or a NUL")
        _check_ttl(self.ttl_s)
        _check_content(self.payload, self.properties)

    def _check_mode(self) -> None:
        if self.mode not in _MODES:
            raise ValueError(f"mode {self.mode[:16]!a} is not push, pull or both")
        if self.mode != Mode.PUSH and self.qos == 0:
            raise ValueError(f"mode {self.mode} at QoS 0: what is never stored can't be pulled")
        if not 0 <= self.pull_after_ms <= MAX_PULL_AFTER_MS:
            raise ValueError(f"pull_after_ms {self.pull_after_ms} is not between 0 and {MAX_PULL_AFTER_MS}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Broadcast:
    """`push.broadcasts`: one content for everyone bound to the product, or to any of the groups."""

    SCHEMA: ClassVar[str] = "Broadcast.v1"

    id: str
    product: str
    realm: str = names.DEFAULT_REALM
    groups: tuple[str, ...] = ()
    payload: bytes = b""
    content_type: str | None = None
    properties: dict[str, str] = field(default_factory=dict)
    rate: int = 0
    ttl_s: int | None = None
    include_new: bool = False

    def check(self) -> None:
        """Raise ValueError if a field is out of its bounds. `rate` is persons per second, 0 means the product's."""
        names.message_id(self.id)
        names.product(self.product)
        names.realm(self.realm)
        for name in self.groups:
            names.group(name)
        if len(self.groups) > 64:
            raise ValueError(f"{len(self.groups)} groups, more than 64")
        if self.rate < 0:
            raise ValueError(f"rate {self.rate} is negative")
        if self.content_type is not None and (len(self.content_type) > 128 or "\0" in self.content_type):
            raise ValueError("content_type has more than 128 characters, or a NUL")
        _check_ttl(self.ttl_s)
        _check_content(self.payload, self.properties)


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomCursor:
    """How far a job came in one room: every slot below `slot` was confirmed."""

    room: str
    epoch: int
    slot: int
    counts: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRecord:
    """`push.jobs`, key (job, term): the claim and each second's cursor of a job's owner.

    `number` is the (partition, offset) of the job's first record in this topic; it is (−1, −1) in that first record itself,
    which is its own number. `source` is the (partition, offset) of the Broadcast in `push.broadcasts`.
    """

    SCHEMA: ClassVar[str] = "JobRecord.v1"

    job: str
    product: str
    state: str
    number_partition: int
    number_offset: int
    source_partition: int
    source_offset: int
    rate: int
    started_ms: int
    expires_ms: int
    rooms: tuple[RoomCursor, ...] = ()
    completed_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """`push.receipts`, key client: how an accepted (id, client) was settled."""

    SCHEMA: ClassVar[str] = "Receipt.v1"

    id: str
    product: str
    realm: str
    client: str
    state: State
    at_ms: int
    count: int = 1
    detail: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Uplink:
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
    properties: dict[str, str] = field(default_factory=dict)
    room: str = ""
    received_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusEvent:
    """`push.status`, key client: online, offline, bind, unbind, in the order of (generation, session)."""

    SCHEMA: ClassVar[str] = "StatusEvent.v1"

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


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientProduct:
    """What the durable registry knows of a client in one product."""

    user: str | None
    groups: tuple[str, ...]
    attrs: dict[str, str]
    qos: int
    first_bind_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientRecord:
    """`push.clients`, key `realm:client product` (compacted, partitioned by client): one client's bind to one product."""

    SCHEMA: ClassVar[str] = "ClientRecord.v1"

    realm: str
    client: str
    product: str
    bind: ClientProduct


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
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


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardRecord:
    """`push.register`, key shard: Redis has a new incarnation. This record's offset + 1 is the generation (docs/adr/0007)."""

    SCHEMA: ClassVar[str] = "ShardRecord.v1"

    shard: str
    run_id: str
    by: str
    at_ms: int


Record = PushMessage | Broadcast | JobRecord | Receipt | Uplink | StatusEvent | ClientRecord | DeadLetter | ShardRecord
RECORDS: tuple[type[Record], ...] = (
    PushMessage,
    Broadcast,
    JobRecord,
    Receipt,
    Uplink,
    StatusEvent,
    ClientRecord,
    DeadLetter,
    ShardRecord,
)
