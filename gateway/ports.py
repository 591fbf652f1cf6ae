"""What the room's rules need of the world: a socket, the saver, the coordinator, the fan-out. Sans-IO code sees only these."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import mqtt5

from gateway.client import BindState, Client
from infra.wire import (
    Announce,
    BindItem,
    BindResult,
    ConnectItem,
    ConnectResult,
    ControlReply,
    DisconnectItem,
    DoneResult,
    EndJob,
    Estimate,
    JobNumber,
    PauseJob,
    PullItem,
    PullResult,
    RecentJob,
    SettledJob,
    Slice,
    SliceReply,
    SyncItem,
    SyncResult,
    UnbindItem,
    UplinkItem,
    UplinkResult,
)

R = TypeVar("R")
Done = Callable[[R | None], None]
"""Called once, later or at once, with the result; None where the request was given up or cancelled."""


class Shell(Protocol):
    """One socket. Nothing here blocks or raises; after `close` and `abort` nothing is written."""

    @property
    def peer(self) -> int:
        """The client's address, also after the end (`infra.peers`); behind the PROXY protocol what its header says."""

    @property
    def transport(self) -> str:
        """mqtt, mqtts, ws or wss: the client finds its way to another room by the same."""

    @property
    def names(self) -> frozenset[str] | None:
        """Whom the client's certificate names, where its port demands one; else None."""

    def write(self, data: bytes, /) -> bool:
        """Send; beyond the byte cap of a connection it is cut. True if the kernel has taken it, and all before it."""

    direct: int
    """A descriptor, while all that is written goes to the kernel as it is: whoever writes there says so to `wrote`. Else −1."""

    def wrote(self, data: bytes, sent: int) -> None:
        """Of `data` so many bytes were written to `direct`, and no more could be; −1: the socket is broken."""

    def buffered(self) -> int:
        """Bytes that the kernel has not taken yet."""

    def close(self, last: bytes = b"") -> None:
        """Send what is buffered and `last`, then close."""

    def abort(self) -> None:
        """Close now."""

    def left(self) -> bool:
        """Has the peer closed its side already, though what it sent before is still to be read?"""

    def subscribe_behind(self) -> mqtt5.SubscribePacket | None:
        """While a CONNECT is handled: the SUBSCRIBE that came with it, if it is whole, well-formed, and all that came. It is
        taken, and not handed out any more."""

    def pause_reading(self) -> None:
        """Hand out no packets until `resume_reading`."""

    def resume_reading(self) -> None:
        """Go on with what was read, and with reading."""


class Ask(Protocol):
    """A request under way."""

    def cancel(self) -> None:
        """Nobody waits for the result any more: not sent, or not repeated. `done` is called with None (at the latest when an
        answer or the timeout of a sent one has come: until then the receiver may still act on it)."""


class Saver(Protocol):
    """The saver as a room asks it. Requests are repeated until they are answered; no result has the status `retry`."""

    @property
    def unanswered(self) -> int:
        """Bytes of memory that all requests take that wait or are under way."""

    def connect(self, item: ConnectItem, done: Done[ConnectResult]) -> Ask:
        """Give a connection its session."""

    def bind(self, item: BindItem, done: Done[BindResult]) -> Ask:
        """Register a bind and page it."""

    def sync(self, item: SyncItem, done: Done[SyncResult]) -> Ask:
        """Settle acks, heal the session, page all binds."""

    def unbind(self, item: UnbindItem, done: Done[DoneResult]) -> Ask:
        """Forget a bind."""

    def pull(self, item: PullItem, done: Done[PullResult]) -> Ask:
        """The body of a pending message."""

    def disconnect(self, item: DisconnectItem) -> None:
        """The socket is gone; tried for a minute."""


class Uplinks(Protocol):
    """The coordinator as a room asks it."""

    @property
    def unanswered(self) -> int:
        """Bytes of memory that all uplinks take that wait or are under way."""

    @property
    def overloaded(self) -> bool:
        """Too much waits already: take what is read, and read no more."""

    def send(self, item: UplinkItem, done: Done[UplinkResult]) -> Ask:
        """Put an uplink into Kafka; `done` gets ok or refused."""

    def when_relieved(self, call: Callable[[], None]) -> None:
        """Call once, when `overloaded` has ended."""

    def gone(self, call: Callable[[], None]) -> None:
        """Do not call it any more: nobody is there."""

    def when_told(self, call: Callable[[], None]) -> None:
        """Asked in a `done`: call once, when all results that came with this one are told."""


class FanOut(Protocol):
    """Broadcasts in this room (`gateway/broadcast/fanout.py`)."""

    def bound(self, bind: BindState, settled: Sequence[JobNumber], recent: Sequence[RecentJob] = ()) -> None:
        """The saver has answered the bind; `settled`: broadcasts that the client already has; `recent`: what its cap counts."""

    def unbound(self, bind: BindState) -> None:
        """UNSUBSCRIBE, or the socket is gone; once for each ready bind."""

    def regrouped(self, bind: BindState) -> None:
        """The bind's groups changed."""

    def puback(self, client: Client, packet_id: int, reason: int) -> None:
        """A PUBACK with an id of broadcasts."""

    def drained(self, client: Client) -> None:
        """All that was written to the client has left for the kernel."""

    def place_free(self, client: Client) -> None:
        """A place of the window is free again."""

    def settled_jobs(self, bind: BindState, *, all: bool = False) -> list[SettledJob]:  # noqa: A002 - agreed name
        """Settled broadcasts that the saver does not know yet; with `all`, all that are active."""

    def saved(self, bind: BindState, jobs: list[SettledJob]) -> None:
        """The saver has these now."""

    def control(self, message: Announce | EndJob | PauseJob) -> ControlReply:
        """A job begins, pauses or ends."""

    async def estimate(self, message: Estimate) -> ControlReply:
        """How many clients here does a content mean?"""

    async def slice(self, order: Slice) -> SliceReply:
        """Write a slice of a job."""

    def fence(self, bind: BindState, *, away: bool = False) -> None:
        """Write nothing to it until `unfence`; `away`: it has no socket."""

    def unfence(self, bind: BindState) -> None:
        """Write to it again."""

    def again(self, bind: BindState, places: int) -> list[bytes]:
        """What was written to it at QoS 1 and not acknowledged, with DUP=1, `places` of them; the rest waits in the queues."""

    def bound_counts(self) -> dict[str, int]:
        """product → clients bound."""
