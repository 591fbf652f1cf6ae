"""What lives longer than a connection, and uses the one that there is."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import mqtt5

from .binds import Binds
from .errors import PushError
from .inbox import Inbox
from .link import Link
from .messages import PushMessage
from .packet_ids import PacketIds
from .protocol import ServerPacket
from .receiver import Receiver
from .state import ConnectionState, Stats
from .uplinks import Uplinks

log = logging.getLogger("pushclient")


class Session:
    """The binds, what is received and what is sent, told of every connection that opens and is lost."""

    def __init__(
        self,
        *,
        inbox: Inbox,
        uplinks_max: int,
        stats: Stats,
        on_message: Callable[[PushMessage], None] | None,
        on_state: Callable[[ConnectionState], None] | None,
    ) -> None:
        if not 1 <= uplinks_max <= 1_024:
            raise ValueError(f"uplinks_max {uplinks_max}: expected 1 to 1,024")
        ids = PacketIds()
        self.on_state = on_state
        self.ready = asyncio.Event()
        self.receiver = Receiver(inbox, stats, on_message)
        self.binds = Binds(ids, stats)
        self.uplinks = Uplinks(ids, stats, uplinks_max)
        self._stats = stats
        self._over: Callable[[], PushError] | None = None

    @property
    def connected(self) -> bool:
        return self.ready.is_set() and self._over is None

    def opened(self, link: Link, packet: mqtt5.ConnAckPacket) -> None:
        """A server accepted. Binds go first: the reply to a resent request comes by one of them."""
        self.receiver.opened(link)
        self.binds.opened(link, session_present=packet.session_present)
        self.uplinks.opened(link, packet)
        self.ready.set()

    def received(self, packet: ServerPacket) -> None:
        """Any packet that is not about the connection itself. Raises ProtocolViolation."""
        if isinstance(packet, mqtt5.PublishPacket):
            self.receiver.received(packet)
        elif isinstance(packet, mqtt5.PubAckPacket):
            self.uplinks.acknowledged(packet)
        elif isinstance(packet, mqtt5.SubAckPacket | mqtt5.UnsubAckPacket):
            self.binds.acknowledged(packet)

    def lost(self) -> None:
        """The connection is gone."""
        self.uplinks.lost()
        self.binds.lost()
        if self._over is None:
            self.ready.clear()

    def end(self, over: Callable[[], PushError], *, discard: bool) -> None:
        """There will be no other connection: whoever waits, and whoever calls, gets `over()`. The first end counts."""
        if self._over is not None:
            return
        self._over = over
        self.receiver.end(over, discard=discard)
        self.binds.end(over)
        self.uplinks.end(over)
        self.ready.set()

    def check_over(self) -> None:
        """Raises what `end` was given."""
        if self._over is not None:
            raise self._over()

    def tell(self, state: ConnectionState) -> None:
        """Call `on_state`. What it raises is the application's affair, and must not end the connection."""
        if self.on_state is None:
            return
        try:
            self.on_state(state)
        except Exception:
            log.exception("on_state failed at %r", state.text)
            self._stats.callback_errors += 1
