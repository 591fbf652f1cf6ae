"""Flash disconnect: a client that lost its socket and is back soon finds everything as it was (docs/design.md, Sessions).

While it is away nothing is written and nobody is asked: hints, pages and slices mark it behind or late, as they do with a client
whose buffer is full. Back in time, in this room, with a token that still covers its binds, it gets Session Present=1, what
was unacknowledged with DUP=1 and the same packet ids (MQTT 5 §4.4), and then a sync. Pure, as `gateway/session.py` is.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

import mqtt5

from gateway.auth import Grant
from gateway.client import Client

if TYPE_CHECKING:
    from gateway.session import Session

SYNC_WITHIN: Final = 10.0
"""Seconds after a return within which a client that is not behind is synced."""
FRUITLESS: Final = 2
"""A session whose last so many sockets acknowledged nothing of what was written is not kept: it ends, so that it is counted."""
DUP: Final = 0x08
"""The DUP flag in the first byte of a PUBLISH (MQTT 5 §3.3.1.1)."""
UNKNOWN: Final = 1 << 62


class NoSocket:
    """`gateway.ports.Shell` of a client that is away: its buffer is never empty, so nothing is written to it."""

    def write(self, data: bytes, /) -> None:
        """What answers an older request is not wanted any more: the client asks again."""

    def buffered(self) -> int:
        """Full."""
        return UNKNOWN

    def close(self, last: bytes = b"") -> None:
        """It is closed."""

    def abort(self) -> None:
        """It is closed."""

    def pause_reading(self) -> None:
        """Nothing comes."""

    def resume_reading(self) -> None:
        """Nothing comes."""


AWAY: Final = NoSocket()


class Kept:
    """The sessions of a room whose clients are away, the longest first."""

    def __init__(self) -> None:
        self._sessions: OrderedDict[str, Session] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sessions)

    def add(self, key: str, session: Session) -> None:
        """A client went away."""
        self._sessions[key] = session

    def drop(self, key: str) -> None:
        """It is back, or its session is over."""
        self._sessions.pop(key, None)

    def get(self, key: str) -> Session | None:
        """The session of a client that is away."""
        return self._sessions.get(key)

    def oldest(self) -> Session:
        """The one that has been away for the longest time; raises KeyError if there is none."""
        return next(iter(self._sessions.values()))


def may_return(kept: Session, packet: mqtt5.ConnectPacket, grant: Grant) -> bool:
    """Does this CONNECT go on with the kept session: no Clean Start, the same user, and a token that covers every bind?"""
    if packet.clean_start or kept.client is None:
        return False
    for name, bind in kept.client.binds.items():
        granted = grant.products.get(name)
        if granted is None or (granted.user, granted.attrs) != (bind.user, bind.attrs):
            return False
        if granted.groups is not None and not bind.groups <= granted.groups:
            return False
    return True


def again(packet: bytes) -> bytes:
    """A PUBLISH with DUP=1."""
    return bytes((packet[0] | DUP,)) + packet[1:]


def unacknowledged(client: Client, now: float) -> list[bytes]:
    """What is in the unicast window, as it was written, with DUP=1, in order; no more than Receive Maximum.

    What the client can't take any more (its Receive Maximum or Maximum Packet Size is smaller now) leaves the window: it is still
    pending, and its bind is behind, so a page brings it.
    """
    out: list[bytes] = []
    for packet_id, item in list((client.inflight or {}).items()):
        if len(out) < client.receive_max and len(item.data) <= client.max_packet:
            out.append(again(item.data))
            item.sent_at = now
        else:
            assert client.inflight is not None
            del client.inflight[packet_id]
            bind = client.binds.get(item.product)
            if bind is not None:
                bind.behind = True
    if not client.inflight:
        client.inflight = None
    return out
