"""What rooms and workers say to each other over NATS: versioned msgspec structs, array-like, in msgpack.

Every request is a numbered batch of a sender; a reply has one result an item, in the same order. Requests are idempotent: a
repeat may reach another worker of the queue group, so what makes it harmless is the Redis script, not a memory of numbers.
Bounds: `MAX_ITEMS` items and `MAX_BYTES` bytes a batch, `MAX_UNANSWERED` batches unanswered for each (sender, subject).
New fields are added at the end, with a default: msgspec reads old and new.
"""

from __future__ import annotations

from typing import Final, Generic, TypeVar

import msgspec

VERSION: Final = 1
MAX_ITEMS: Final = 1_000
MAX_BYTES: Final = 256 * 1024
MAX_UNANSWERED: Final = 4
ITEM_OVERHEAD: Final = 512
"""Bytes of a message in a batch beside payload, correlation and properties, at most."""

T = TypeVar("T")

Properties = list[tuple[str, str]]
JobNumber = tuple[int, int]
"""A job's cluster-wide number: (partition, offset) of its first record in `push.jobs`."""


class Request(msgspec.Struct, Generic[T], array_like=True, frozen=True):
    """A batch: `sender` is `room:epoch` or a worker's instance, `seq` counts the sender's batches on this subject from 1."""

    version: int
    sender: str
    seq: int
    items: list[T]


class Reply(msgspec.Struct, Generic[T], array_like=True, frozen=True):
    """The answer to batch `seq`. `error` is set (and `items` empty) where the whole batch could not be handled: retry it."""

    seq: int
    items: list[T]
    error: str = ""


# --- downlinks ---------------------------------------------------------------------------------------------------------


class Downlink(msgspec.Struct, array_like=True, frozen=True):
    """One message as a room writes it. `n` is the store number of its (client, product), 0 where it was never stored.

    `expires_in_s`: whole seconds that remain when the sender wrote this, −1 for none (the room counts on, monotonically).
    `size` ≥ 0: this is a notice, the body of so many bytes is to be pulled; −1: the payload is the body. `or_notice`: a client
    that can't take the body gets a notice instead.
    """

    id: str
    n: int
    payload: bytes
    expires_in_s: int = -1
    group: str = ""
    content_type: str = ""
    correlation: bytes | None = None
    properties: Properties = []
    size: int = -1
    or_notice: bool = False
    pull_after_ms: int = 0


def size_of(message: Downlink) -> int:
    """Bytes of a message in a batch, at most: a character has up to four."""
    properties = sum(4 * (len(name) + len(value)) for name, value in message.properties)
    return len(message.payload) + len(message.correlation or b"") + properties + ITEM_OVERHEAD


class Hint(msgspec.Struct, array_like=True, frozen=True):
    """`room.{room}.push`: a message for a client that the register locates in this room, in session `number`."""

    key: str
    number: int
    product: str
    message: Downlink


class HintResult(msgspec.Struct, array_like=True, frozen=True):
    """What became of a hint: `written`, `behind` (a sync will bring it), `gone` (no such session here), `dropped` (n = 0)."""

    outcome: str


class Page(msgspec.Struct, array_like=True, frozen=True):
    """The first pending messages of (client, product) that are not in the window, in order; `n` is the last store number.

    `more`: something is pending beyond this page and the window.
    """

    product: str
    n: int
    items: list[Downlink]
    more: bool


# --- saver -------------------------------------------------------------------------------------------------------------

OK: Final = "ok"
SUPERSEDED: Final = "superseded"
RETRY: Final = "retry"
GONE: Final = "gone"

NOTICED: Final = "noticed"
"""An Ack's state that settles nothing: the client has the notice, and may pull the body."""


class Bind(msgspec.Struct, array_like=True, frozen=True):
    """A bind as the room holds it: granted QoS, joined groups, and user and attributes by the token."""

    product: str
    qos: int
    groups: list[str]
    user: str = ""
    attrs: dict[str, str] = {}


class Ack(msgspec.Struct, array_like=True, frozen=True):
    """A message settled in the room: `state` is a schemas.codes.State value (acked, written, rejected, dead), or NOTICED."""

    product: str
    id: str
    state: str
    detail: str = ""


class ConnectItem(msgspec.Struct, array_like=True, frozen=True):
    """`saver.connect`: give this connection a session. `connection` counts the room's connections and only grows."""

    key: str
    room: str
    epoch: int
    connection: int


class ConnectResult(msgspec.Struct, array_like=True, frozen=True):
    """`status` ok, superseded (a later connection has the session) or retry; the session is (generation, number)."""

    status: str
    generation: int = 0
    number: int = 0


class BindItem(msgspec.Struct, array_like=True, frozen=True):
    """`saver.bind`: register a bind (again) and page it. `window`: ids of this product already in the room's hands."""

    key: str
    room: str
    epoch: int
    connection: int
    generation: int
    number: int
    bind: Bind
    window: list[str]
    limit: int


class BindResult(msgspec.Struct, array_like=True, frozen=True):
    """`first_bind_ms`: when the client first bound the product, by Redis TIME; `settled_jobs`: broadcasts it already has."""

    status: str
    first_bind_ms: int = 0
    page: Page | None = None
    settled_jobs: list[JobNumber] = []


class ProductWindow(msgspec.Struct, array_like=True, frozen=True):
    """A client's bind in a sync with the ids in the room's hands, and how many more the room can take."""

    bind: Bind
    window: list[str]
    limit: int


class SettledJob(msgspec.Struct, array_like=True, frozen=True):
    """A broadcast that this client has settled; it is remembered until the job can no longer be active."""

    product: str
    partition: int
    offset: int
    remember_s: int


class SyncItem(msgspec.Struct, array_like=True, frozen=True):
    """`saver.sync`: all unconfirmed acks, all binds with their windows. Heals whatever a hint lost.

    The session is registered again if it is missing (by number); an ack whose receipt fails is not removed, and its product's
    page still holds it. With `only_acks` (and no products) acks and jobs are settled, and nothing else is looked at.
    """

    key: str
    room: str
    epoch: int
    connection: int
    generation: int
    number: int
    products: list[ProductWindow]
    acks: list[Ack]
    jobs: list[SettledJob]
    only_acks: bool = False


class SyncResult(msgspec.Struct, array_like=True, frozen=True):
    """`status` ok: every ack in the request is settled and `pages` has one page a product, in the request's order.

    `retry`: nothing was settled, ask again; `superseded`: close the socket. `missing`: the answer to `only_acks` where the
    session is not registered: sync the whole of it.
    """

    status: str
    pages: list[Page] = []
    missing: bool = False


class PullItem(msgspec.Struct, array_like=True, frozen=True):
    """`saver.pull`: the body of a pending message, for this session."""

    key: str
    generation: int
    number: int
    product: str
    id: str


class PullResult(msgspec.Struct, array_like=True, frozen=True):
    """`status` ok (with the message, whole), gone (it is not pending: settled, expired, or never was), superseded or retry."""

    status: str
    message: Downlink | None = None


class ConfirmItem(msgspec.Struct, array_like=True, frozen=True):
    """`saver.confirm`: the client has a message by another way than its connection (HTTP)."""

    key: str
    ack: Ack


class UnbindItem(msgspec.Struct, array_like=True, frozen=True):
    """`saver.unbind`: forget the bind (never what is pending)."""

    key: str
    room: str
    epoch: int
    generation: int
    number: int
    product: str


class DisconnectItem(msgspec.Struct, array_like=True, frozen=True):
    """`saver.disconnect`: the session is over. Removes it only if it is still this one.

    `unacked`: (product, id) of what was written and has no PUBACK; `fruitless`: how many connections of this session ended so
    that something was written and nothing at all acknowledged; `acked`: whether anything was acknowledged in this session.
    """

    key: str
    room: str
    epoch: int
    generation: int
    number: int
    reason: str
    acks: list[Ack]
    jobs: list[SettledJob]
    unacked: list[tuple[str, str]] = []
    fruitless: int = 0
    acked: bool = False


class DoneResult(msgspec.Struct, array_like=True, frozen=True):
    """The answer to unbind and disconnect (ok, superseded or retry), and to confirm (ok, gone or retry)."""

    status: str


# --- uplinks -----------------------------------------------------------------------------------------------------------


class UplinkItem(msgspec.Struct, array_like=True, frozen=True):
    """`coordinator.uplink`: what a device published. Answered ok only when it is in Kafka."""

    id: str
    key: str
    user: str
    product: str
    type: str
    payload: bytes
    qos: int
    room: str
    wants_reply: bool = False
    group: str = ""
    correlation: bytes | None = None
    content_type: str = ""
    properties: Properties = []


class UplinkResult(msgspec.Struct, array_like=True, frozen=True):
    """`status`: ok (PUBACK 0x00), retry, or refused with the MQTT PUBACK reason code and its text."""

    status: str
    code: int = 0
    reason: str = ""


# --- broadcasts --------------------------------------------------------------------------------------------------------


class JobContent(msgspec.Struct, array_like=True, frozen=True):
    """What a room needs of a broadcast. `started_ms` is compared with a bind's `first_bind_ms` (docs/design.md)."""

    job: str
    number: JobNumber
    product: str
    groups: list[str]
    payload: bytes
    expires_in_ms: int
    started_ms: int
    include_new: bool = False
    content_type: str = ""
    properties: Properties = []


class Slice(msgspec.Struct, array_like=True, frozen=True):
    """`room.{room}.slice`: write the job to slots lo ≤ slot < hi, spread over `spread_ms` (≤ 1000), and to `late` late joiners.

    `lo` = `hi` where only a grant (or only the counts) is wanted. `seq` grows with every slice of (term, room): a repeat is
    answered from memory. `deadline_ms` is on the *room's* monotonic clock, as its lease shows it: no two clocks are compared.
    `most`: the walk stops after the slot in which that many persons were written to, before `hi` (0: no such bound); so the pace
    does not hang on how evenly the clients fall into slots.
    """

    job: str
    number: JobNumber
    term: int
    seq: int
    lo: int
    hi: int
    spread_ms: int
    late: int
    deadline_ms: int
    most: int = 0


class Counts(msgspec.Struct, array_like=True, frozen=True):
    """A job's cumulative counts in one (room, epoch): counting them twice is harmless.

    `sent`: persons it was written to; `written`: settled at QoS 0; `acked`, `rejected`: PUBACKs; `repeated`: written again after
    a reconnect; `waiting`: late joiners queued now (the only one that falls); `skipped`: not eligible or settled before.
    """

    sent: int = 0
    written: int = 0
    acked: int = 0
    rejected: int = 0
    repeated: int = 0
    skipped: int = 0
    waiting: int = 0


class SliceReply(msgspec.Struct, array_like=True, frozen=True):
    """`status`: ok, unknown (announce the job first), stale (past its deadline), old-term. `slot`: the room's cursor now.

    `persons`: to how many this slice wrote.
    """

    status: str
    seq: int
    slot: int = 0
    persons: int = 0
    counts: Counts = Counts()


# --- rooms -------------------------------------------------------------------------------------------------------------


class Announce(msgspec.Struct, array_like=True, frozen=True, tag="announce"):
    """`room.{room}.control`: here is a job; everything below `slot` was walked in this room (an unknown room: all of it)."""

    content: JobContent
    term: int
    slot: int


class EndJob(msgspec.Struct, array_like=True, frozen=True, tag="end"):
    """`room.{room}.control`: the job is over; forget it and free its place."""

    job: str
    term: int


class Kick(msgspec.Struct, array_like=True, frozen=True, tag="kick"):
    """`room.{room}.control`: close this session. `code` is the DISCONNECT reason code (0x8E takeover, 0x98 kick)."""

    key: str
    generation: int
    number: int
    code: int
    reason: str


Control = Announce | EndJob | Kick


class ControlReply(msgspec.Struct, array_like=True, frozen=True):
    """`status`: ok, gone (no such session or job, or the job has expired), old-term, full (no place for one more job)."""

    status: str
    counts: Counts = Counts()


class Lease(msgspec.Struct, array_like=True, frozen=True):
    """`rooms.lease`, every 3 s. `clock_ms` is the room's own monotonic clock; `bound`: product → clients bound here.

    A lease routes, it does not decide: the reader judges its age by the reader's own monotonic clock.
    """

    room: str
    epoch: int
    clock_ms: int
    state: str
    connections: int
    bound: dict[str, int]


class RoomEntry(msgspec.Struct, frozen=True):
    """KV bucket `rooms`, key = room id (JSON): where clients connect, and labels."""

    room: str
    epoch: int
    host: str
    port: int
    labels: dict[str, str] = {}
    internal: str = ""


class JobRoom(msgspec.Struct, frozen=True):
    """One room's part of a job: its cursor and its cumulative counts, by the names of `Counts`."""

    room: str
    epoch: int
    slot: int
    counts: dict[str, int]


class JobView(msgspec.Struct, frozen=True):
    """KV bucket `jobs`, key `names.kv_job_key(job)` (JSON): a broadcast as readers see it, a fold of `push.jobs`.

    `targeted`: clients bound to the product when it started; `progress`: 0…1 of the slots walked, weighted by those clients;
    `uncertain`: persons in rooms that died, whose acknowledgements may be lost; `rate`: persons per second. Times in ms.
    """

    job: str
    product: str
    state: str
    rate: int
    started_ms: int
    expires_ms: int
    completed_ms: int | None
    totals: dict[str, int]
    rooms: list[JobRoom]
    targeted: int
    progress: float
    term: int
    uncertain: int


def encoder() -> msgspec.msgpack.Encoder:
    """An encoder for these structs. Keep one for each component: it is not for several threads."""
    return msgspec.msgpack.Encoder()
