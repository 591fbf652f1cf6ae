"""Flash disconnect: a client that lost its socket and is back soon finds everything as it was (docs/design.md, Sessions).

While it is away nothing is written and nobody is asked: hints, pages and slices mark it behind or late, as they do with a client
whose buffer is full. Back in time, in this room, with a token that still covers its binds, it gets Session Present=1, what
was unacknowledged with DUP=1 and the same packet ids (MQTT 5 §4.4), and then a sync. Pure, as `gateway/sessions/session.py` is.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import mqtt5

from gateway.admission.refresh import uncovered
from gateway.client import Client, Inflight, bind_to
from gateway.mqtt import packets
from infra.peers import UNKNOWN as NOWHERE
from infra.tokens import Grant

if TYPE_CHECKING:
    from gateway.sessions.lifetime import Lifetime

SYNC_WITHIN: Final = 10.0
"""Seconds after a return within which a client that is not behind is synced."""
FRUITLESS: Final = 2
"""A session whose last so many sockets acknowledged nothing of what was written is not kept: it ends, so that it is counted."""
UNKNOWN: Final = 1 << 62


class NoSocket:
    """`gateway.ports.Shell` of a client that is away: its buffer is never empty, so nothing is written to it."""

    peer = NOWHERE
    transport = "mqtt"
    names = None

    def write(self, data: bytes, /) -> bool:
        """What answers an older request is not wanted any more: the client asks again."""
        return False

    direct = -1

    def wrote(self, data: bytes, sent: int) -> None:
        """Nobody writes."""

    def buffered(self) -> int:
        """Full."""
        return UNKNOWN

    def close(self, last: bytes = b"") -> None:
        """It is closed."""

    def abort(self) -> None:
        """It is closed."""

    def left(self) -> bool:
        """It has."""
        return True

    def subscribe_behind(self) -> mqtt5.SubscribePacket | None:
        """Nothing comes."""
        return None

    def pause_reading(self) -> None:
        """Nothing comes."""

    def resume_reading(self) -> None:
        """Nothing comes."""


AWAY: Final = NoSocket()


class Kept:
    """The sessions of a room whose clients are away, the longest first."""

    def __init__(self) -> None:
        self._sessions: OrderedDict[str, Lifetime] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sessions)

    def __iter__(self) -> Iterator[Lifetime]:
        return iter(self._sessions.values())

    def add(self, key: str, session: Lifetime) -> None:
        """A client went away."""
        self._sessions[key] = session

    def drop(self, key: str) -> None:
        """It is back, or its session is over."""
        self._sessions.pop(key, None)

    def get(self, key: str) -> Lifetime | None:
        """The session of a client that is away."""
        return self._sessions.get(key)

    def oldest(self) -> Lifetime:
        """The one that has been away for the longest time; raises KeyError if there is none."""
        return next(iter(self._sessions.values()))


def may_return(kept: Lifetime, packet: mqtt5.ConnectPacket, grant: Grant, *, old: bool = False) -> bool:
    """Does this CONNECT go on with the kept session: no Clean Start, the same user and version (`old`: MQTT 3.1.1, which knows
    no notices), and a token that covers every bind?"""
    if packet.clean_start or kept.client is None or kept.delivery is None or kept.delivery.fenced:
        return False  # fenced: we were cut off meanwhile, so the client may have been elsewhere
    if kept.client.whole != old:
        return False
    return not uncovered(kept.client, grant)


class Rest:
    """What a client that is back has not acknowledged, and was not written to its new socket yet, in its first order.

    It stays in the window, and so keeps its packet ids; only what the client can't take any more (expired, or larger than
    its Maximum Packet Size is now) leaves it: that is still pending, and its bind is behind, so that the saver decides.
    """

    __slots__ = ("_ids",)

    def __init__(self, client: Client, now: float) -> None:
        """All that is in the window; from `now` the ack timeout counts anew."""
        self._ids: list[int] = []
        for packet_id, item in list((client.inflight or {}).items()):
            self._ids.append(packet_id)
            self._renew(client, packet_id, item, now)

    def __bool__(self) -> bool:
        """Is something left?"""
        return bool(self._ids)

    def take(self, client: Client, now: float, space: int) -> list[bytes]:
        """What may be written now: no more than Receive Maximum together with what was, until `space` bytes are used up."""
        inflight = client.inflight or {}
        ids = [packet_id for packet_id in self._ids if packet_id in inflight]
        places = client.receive_max - (len(inflight) - len(ids)) - client.broadcasts_inflight
        out: list[bytes] = []
        while ids and places > 0 and space >= 0:
            packet_id = ids.pop(0)
            item = inflight[packet_id]
            if self._renew(client, packet_id, item, now):
                out.append(item.data)
                places -= 1
                space -= len(item.data)
        self._ids = ids
        return out

    @staticmethod
    def _renew(client: Client, packet_id: int, item: Inflight, now: float) -> bool:
        """DUP=1, and an expiry that is true now; False if it left the window."""
        data = packets.again(item.data, int(now - item.sent_at))
        if data and len(data) <= client.max_packet:
            item.data, item.sent_at = data, now
            return True
        assert client.inflight is not None
        del client.inflight[packet_id]
        client.inflight = client.inflight or None
        bind = bind_to(client.binds, item.product)
        if bind is not None:
            bind.fall_behind()
        return False
