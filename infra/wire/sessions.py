"""`saver.*`: sessions, binds, acks, and the bodies that are pulled."""

from __future__ import annotations

from typing import Final

import msgspec

from infra.wire.batch import JobNumber
from infra.wire.messages import Downlink, Page

OK: Final = "ok"
SUPERSEDED: Final = "superseded"
RETRY: Final = "retry"
GONE: Final = "gone"
ELSEWHERE: Final = "elsewhere"

NOTICED: Final = "noticed"
"""An Ack's state that settles nothing: the client has the notice, and may pull the body."""


RecentJob = tuple[int, int, int]
"""A broadcast's number, and when it was written to the client, s since the epoch."""


class Bind(msgspec.Struct, array_like=True, frozen=True):
    """A bind as the room holds it: granted QoS, joined groups, and user and attributes by the token."""

    product: str
    qos: int
    groups: list[str]
    user: str = ""
    attrs: dict[str, str] = {}


class Ack(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A message settled in the room: `state` is a schemas.codes.State value (acked, written, rejected, dead), or NOTICED."""

    product: str
    id: str
    state: str
    detail: str = ""


class FirstBind(msgspec.Struct, array_like=True, frozen=True):
    """What a client asked for together with its CONNECT (docs/adr/0031). `limit`: as in `BindItem`; there is no window yet."""

    bind: Bind
    limit: int


class ConnectItem(msgspec.Struct, array_like=True, frozen=True):
    """`saver.connect`: give this connection a session. `connection` counts the room's connections and only grows.

    A session that another room has is taken over only if it is still the one that was `seen` (generation, number), and only
    before `until_ms`: by the clock of the client's own Redis, as an answer of `elsewhere` has told it. `first`: register this
    bind with it, and page it; a saver of before does not.
    """

    key: str
    room: str
    epoch: int
    connection: int
    seen: tuple[int, int] = (0, 0)
    until_ms: int = 0
    first: FirstBind | None = None


class ConnectResult(msgspec.Struct, array_like=True, frozen=True):
    """`status` ok, superseded (a later connection has the session), elsewhere or retry; the session is (generation, number).

    `elsewhere`: another room has this session, and still has it: ask again, having seen it. `now_ms`: Redis TIME. `bound`: of a
    session that was given, the answer to `first`; without it nothing was bound: ask `bind`.
    """

    status: str
    generation: int = 0
    number: int = 0
    now_ms: int = 0
    bound: BindResult | None = None


class BindItem(msgspec.Struct, array_like=True, frozen=True):
    """`saver.bind`: register a bind (again) and page it. `window`: ids of this product already in the room's hands; `whole`: the
    page has bodies where it would have notices."""

    key: str
    room: str
    epoch: int
    connection: int
    generation: int
    number: int
    bind: Bind
    window: list[str]
    limit: int
    whole: bool = False


class BindResult(msgspec.Struct, array_like=True, frozen=True):
    """`first_bind_ms`: when the client first bound the product, by Redis TIME; `settled_jobs`: broadcasts it already has;
    `recent_jobs`: those that its frequency cap counts."""

    status: str
    first_bind_ms: int = 0
    page: Page | None = None
    settled_jobs: list[JobNumber] = []
    recent_jobs: list[RecentJob] = []


class ProductWindow(msgspec.Struct, array_like=True, frozen=True):
    """A client's bind in a sync with the ids in the room's hands, and how many more the room can take."""

    bind: Bind
    window: list[str]
    limit: int


class SettledJob(msgspec.Struct, array_like=True, frozen=True):
    """A broadcast that this client has settled; it is remembered until the job can no longer be active.

    With `sent_s` (s since the epoch) it is one that was written then, and counts for `counts_s` seconds more for the product's
    frequency cap; it is not settled by that (`remember_s` is 0).
    """

    product: str
    partition: int
    offset: int
    remember_s: int
    sent_s: int = 0
    counts_s: int = 0


class SyncItem(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """`saver.sync`: all unconfirmed acks, all binds with their windows. Heals whatever a hint lost.

    The session is registered again if it is missing (by number); an ack whose receipt fails is not removed, and its product's
    page still holds it. With `only_acks` (and no products) acks and jobs are settled, and nothing else is looked at. `whole`: as
    in `BindItem`.
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
    whole: bool = False


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
