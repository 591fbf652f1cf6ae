"""`room.{room}.control`, `rooms.lease`, and where rooms are."""

from __future__ import annotations

import msgspec

from infra.wire.broadcasts import Counts, JobContent


class Announce(msgspec.Struct, array_like=True, frozen=True, tag="announce"):
    """`room.{room}.control`: here is a job; everything below `slot` was walked in this room (an unknown room: all of it)."""

    content: JobContent
    term: int
    slot: int


class EndJob(msgspec.Struct, array_like=True, frozen=True, tag="end"):
    """`room.{room}.control`: the job is over; forget it and free its place."""

    job: str
    term: int


class PauseJob(msgspec.Struct, array_like=True, frozen=True, tag="pause"):
    """`room.{room}.control`: stop the slice that is being written, now. The next slice of a term that is not lower goes on.

    Only a hint that makes a pause effective at once: without it the slice ends by itself within a second.
    """

    job: str
    term: int


class Estimate(msgspec.Struct, array_like=True, frozen=True, tag="estimate"):
    """`room.{room}.control`: how many clients here does this content mean? Nothing is written or kept. Answered in `persons`."""

    content: JobContent


class Kick(msgspec.Struct, array_like=True, frozen=True, tag="kick"):
    """`room.{room}.control`: close this session. `code` is the DISCONNECT reason code (0x8E takeover, 0x98 kick)."""

    key: str
    generation: int
    number: int
    code: int
    reason: str


class Leave(msgspec.Struct, array_like=True, frozen=True, tag="leave"):
    """`room.{room}.control`: this session's client leaves the product, as if it had unsubscribed; MQTT has no word by which it
    could be told. Answered when it is queued: it is done when the register says so. A room of before does not answer."""

    key: str
    generation: int
    number: int
    product: str


class Drain(msgspec.Struct, array_like=True, frozen=True, tag="drain"):
    """`room.{room}.control`: admit nobody, and send `rate` clients a second to the addresses `to` (none: to other rooms that you
    find), until there are none. 0: open again."""

    rate: int
    to: list[str] = []


Control = Announce | EndJob | PauseJob | Estimate | Kick | Leave | Drain


class ControlReply(msgspec.Struct, array_like=True, frozen=True):
    """`status`: ok, gone (no such session, bind or job, or the job has expired), old-term, full (no place for one more job),
    refused (a content that can't be understood here; too many changes wait; a room that ends). `persons` answers an Estimate.
    """

    status: str
    counts: Counts = Counts()
    persons: int = 0


class Lease(msgspec.Struct, array_like=True, frozen=True):
    """`rooms.lease`, every 3 s. `clock_ms` is the room's own monotonic clock; `bound`: product → clients bound here; `capacity`:
    connections that it takes at most (0: an older room, which does not say); `admits`: does it let clients in now?

    A lease routes, it does not decide: the reader judges its age by the reader's own monotonic clock.
    """

    room: str
    epoch: int
    clock_ms: int
    state: str
    connections: int
    bound: dict[str, int]
    capacity: int = 0
    admits: bool = True


class Endpoint(msgspec.Struct, frozen=True):
    """Where a room takes clients."""

    host: str
    port: int

    def __str__(self) -> str:
        """`host:port` as a device writes it, IPv6 in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class RoomEntry(msgspec.Struct, frozen=True):
    """KV bucket `rooms`, key = room id (JSON): where clients connect, and labels. `host` and `port`: its own port; `endpoints`:
    where it takes clients by each transport (mqtt, mqtts, ws, wss), that port included; empty: its own port is for `mqtt`."""

    room: str
    epoch: int
    host: str
    port: int
    labels: dict[str, str] = {}
    internal: str = ""
    endpoints: dict[str, Endpoint] = {}

    def endpoint(self, transport: str) -> Endpoint | None:
        """Where it takes clients by this transport, "" for its own port; None: nowhere."""
        own = Endpoint(self.host, self.port)
        return own if not transport else (self.endpoints or {"mqtt": own}).get(transport)
