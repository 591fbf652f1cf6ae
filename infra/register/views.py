"""What goes into the register and what comes out of it."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from infra.wire import Bind, JobNumber, RecentJob, SettledJob
from schemas.codes import Mode, State


class Stored(msgspec.Struct, array_like=True, frozen=True):
    """What is kept of a pending message besides its id, number and expiry.

    In mode `pull` the payload lies apart, so that pages stay small; `size` is how many bytes it has. `accepted_ms` is kept of
    what has a fallback.
    """

    payload: bytes
    group: str = ""
    content_type: str = ""
    correlation: bytes | None = None
    properties: list[tuple[str, str]] = []
    mode: str = Mode.PUSH.value
    size: int = 0
    pull_after_ms: int = 0
    accepted_ms: int = 0


class SessionView(msgspec.Struct, frozen=True):
    """Where a client is: session (generation, number) in (room, epoch)."""

    generation: int
    number: int
    room: str
    epoch: int
    connection: int


class Located(msgspec.Struct, frozen=True):
    """Where a client is, and its bind to a product; `now_ms`: Redis TIME."""

    now_ms: int
    session: SessionView | None
    bind: Bind | None


class ClientView(msgspec.Struct, frozen=True):
    """A client as the register knows it. `pending`: product → count, for the products bound or asked for. `left`: where there is
    no session, when the last one that was bound to a product ended, ms, for those asked for and known."""

    session: SessionView | None
    binds: dict[str, Bind]
    pending: dict[str, int]
    left: dict[str, int] = {}


class Owed(msgspec.Struct, frozen=True):
    """A receipt that a script owes to Kafka. `detail` is HANDED_OVER of what another channel had been given before."""

    key: str
    product: str
    id: str
    state: str
    detail: str = ""


class Settlement(NamedTuple):
    """An id that is settled, when (ms) and how."""

    id: str
    at_ms: int
    state: State


class Standing(msgspec.Struct, frozen=True):
    """How a message of a client stands, at `now_ms` by Redis TIME.

    Pending: `expires_ms` is set, and `handed` where another channel has it. Settled: `settled_ms` is, and `state` if it is known
    how. Neither: it was never stored, or the register has forgotten it (an hour after it was settled, at the earliest).
    """

    now_ms: int
    expires_ms: int | None = None
    handed: bool = False
    settled_ms: int | None = None
    state: State | None = None


class PendingItem(msgspec.Struct, frozen=True):
    """A pending message in a page. `expires_in_s` ≥ 1: whole seconds that remain, by Redis TIME."""

    n: int
    id: str
    body: Stored
    expires_in_s: int


class PendingPage(msgspec.Struct, frozen=True):
    """The first pending messages outside the window; `n` is the product's last store number. `last`: where a list goes on."""

    product: str
    n: int
    more: bool
    items: list[PendingItem]
    last: int = 0


class Connected(msgspec.Struct, frozen=True):
    """The answer to connect; `old` is the session that it took over, if that was in another (room, epoch).

    `elsewhere`: nothing was done; (generation, number) is the session that another room has. `now_ms`: Redis TIME. `bound`: of
    a session that was given, how the bind is that was asked for with it.
    """

    status: str
    generation: int = 0
    number: int = 0
    old: SessionView | None = None
    now_ms: int = 0
    bound: Bound | None = None


class Bound(msgspec.Struct, frozen=True):
    """The answer to bind. `document_changed`: the durable registry does not have this bind yet; `registered`: its session had
    been missing."""

    status: str
    first_bind_ms: int = 0
    document_changed: bool = False
    user_before: str = ""
    page: PendingPage | None = None
    settled_jobs: list[JobNumber] = []
    owed: list[Owed] = []
    recent_jobs: list[RecentJob] = []
    registered: bool = False


class Unbound(msgspec.Struct, frozen=True):
    """The answer to unbind: the user that the client had in the product, and which bind it was that is over."""

    status: str
    user: str = ""
    mark: str = ""


class Holding(msgspec.Struct, frozen=True):
    """Who has a client's bind to a product: the session (generation, number) in (room, epoch), where it is `here`; the registry,
    where it is `registered`. Without a session `room` is empty, and the number is behind that of the last one."""

    generation: int
    number: int
    room: str
    epoch: int
    here: bool
    registered: bool


class Rebound(msgspec.Struct, frozen=True):
    """A bind that came while an older one of the same product was being ended; `first_bind_ms`: since when."""

    key: str
    bind: Bind
    first_bind_ms: int


class Synced(msgspec.Struct, frozen=True):
    """The answer to sync. `registered`: the session was missing, and is there again; `missing`: it is (where only acks came)."""

    status: str
    pages: list[PendingPage] = []
    owed: list[Owed] = []
    registered: bool = False
    missing: bool = False


class Pulled(msgspec.Struct, frozen=True):
    """The answer to pull: `item` has its payload, whatever the mode."""

    status: str
    item: PendingItem | None = None


class Parking(msgspec.Struct, frozen=True):
    """The never-ack guard's bounds: so many connections in which nothing was acknowledged, over at least so many seconds."""

    connections: int = 10
    seconds: float = 1800.0


class Parked(msgspec.Struct, frozen=True):
    """A message that no connection ever acknowledged: the caller makes it a dead letter, then settles it."""

    key: str
    product: str
    id: str
    body: Stored


class Gone(msgspec.Struct, frozen=True):
    """The answer to disconnect."""

    status: str
    owed: list[Owed] = []
    parked: list[Parked] = []


class LastSession(msgspec.Struct, frozen=True):
    """A client's last session as `push.status` tells it, with the broadcasts that it settled."""

    key: str
    online: bool
    generation: int
    number: int
    room: str
    epoch: int
    jobs: list[SettledJob] = []


class StoreMessage(msgspec.Struct, frozen=True):
    """One message to store. `expires_ms` by Kafka's append time plus the TTL; `apart`: the payload, in mode `pull`; `due_ms`:
    when its fallback is due, 0 where it was handed over already, None for none."""

    id: str
    priority: int
    expires_ms: int
    collapse_key: str
    body: Stored
    apart: bytes = b""
    due_ms: int | None = None


class StoreItem(msgspec.Struct, frozen=True):
    """Messages of one (client, product), in order; `cap`: pending messages at most."""

    key: str
    product: str
    cap: int
    messages: list[StoreMessage]


class StoreOutcome(msgspec.Struct, frozen=True):
    """`numbers`: the store number of each message, 0 where it was known, expired or settled: nothing to hint."""

    session: SessionView | None
    bind: Bind | None
    now_ms: int
    numbers: list[int]
    owed: list[Owed]


class Unsettled(msgspec.Struct, frozen=True):
    """A message that is to be handed to another channel."""

    id: str
    body: Stored


class Claimed(msgspec.Struct, frozen=True):
    """What of one (client, product) is due and unsettled, claimed by the caller, at `now_ms` by Redis TIME; and what is owed.

    `user`: whose device it is, "" if the registry does not know.
    """

    key: str
    product: str
    now_ms: int
    user: str
    messages: list[Unsettled]
    owed: list[Owed]
