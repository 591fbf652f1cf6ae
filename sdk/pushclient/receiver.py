"""Every downlink: known or new, a reply or for the consumer; and its PUBACK."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import mqtt5

from . import messages
from .errors import PushError
from .inbox import Inbox
from .link import Link
from .messages import PushMessage
from .pulls import Pulls
from .replies import Replies
from .state import Stats

log = logging.getLogger("pushclient")


class Receiver:
    """Settles messages (it is their Settler), queues them or gives them to `on_message`, resolves replies."""

    def __init__(self, inbox: Inbox, stats: Stats, on_message: Callable[[PushMessage], None] | None) -> None:
        self.replies = Replies()
        self.pulls = Pulls()
        self._inbox = inbox
        self._stats = stats
        self._on_message = on_message
        self._link: Link | None = None
        self._arrived = asyncio.Event()
        self._over: Callable[[], PushError] | None = None

    def opened(self, link: Link) -> None:
        self._link = link

    def received(self, packet: mqtt5.PublishPacket) -> None:
        """Raises ProtocolViolation on a topic that is no push topic."""
        message = messages.from_packet(packet)
        message.settler, message.link, message.arrived = self, self._link, asyncio.get_running_loop().time()
        self._stats.received += 1
        earlier = self._inbox.earlier(message.key)
        if self.pulls.wants(message):
            self._pulled(message, earlier)
        elif earlier is not None and not self._is_new(message, earlier):
            self._repeated(message, earlier)
        elif self.replies.is_ours(message):
            self._replied(message)
        else:
            self._deliver(message)

    def settle(self, message: PushMessage, code: int, reason: str) -> None:
        """Remember the outcome, and write the PUBACK. If that connection is gone, the repetition will be answered."""
        if message.settled:
            return
        message.settled = True
        self._inbox.remember(message, code)
        self._acknowledge(message, code, reason)
        if code:
            self._stats.rejected += 1
        else:
            self._stats.acked += 1

    async def drain(self) -> None:
        if self._link is not None:
            await self._link.drain()

    async def next(self) -> PushMessage:
        """The next message for a consumer. Raises what `end` was given, once nothing is left."""
        while (message := self._inbox.pop()) is None:
            if self._over is not None:
                raise self._over()
            self._arrived.clear()
            await self._arrived.wait()
        return message

    def put_back(self, message: PushMessage) -> None:
        if not message.settled and self._over is None:
            self._inbox.put_back(message)
            self._arrived.set()

    def end(self, over: Callable[[], PushError], *, discard: bool) -> None:
        """No more will come. `discard` what waits: a closed client can settle nothing."""
        self._over = over
        self._link = None
        if discard:
            self._inbox.clear()
        self.replies.end(over())
        self.pulls.end(over())
        self._arrived.set()

    def _repeated(self, message: PushMessage, earlier: PushMessage | int) -> None:
        self._stats.duplicates += 1
        if isinstance(earlier, int):
            self._acknowledge(message, earlier, "")
        elif message.qos:  # still in the consumer's hands: its PUBACK shall go where the server now waits for it
            earlier.link, earlier.packet_id, earlier.duplicate = message.link, message.packet_id, True

    def _is_new(self, notice: PushMessage, earlier: PushMessage | int) -> bool:
        """A notice that another session brings again: its body is not settled, and nobody has it in hand or waits for it."""
        if notice.pull is None or notice.duplicate or earlier != 0:
            return False
        if self.pulls.noticed(notice):
            return False
        return not isinstance(self._inbox.earlier((notice.product, notice.pull, False)), PushMessage)

    def _pulled(self, message: PushMessage, earlier: PushMessage | int | None) -> None:
        """A body that somebody waits for; known already where an answer to it was lost, or it is still in somebody's hands."""
        if earlier is not None:
            self._repeated(message, earlier)
            message.settled = True
            return self.pulls.resolve(message if isinstance(earlier, int) else earlier)
        message.settled = not message.qos
        self._inbox.remember(message, message if message.qos else 0)
        return self.pulls.resolve(message)

    def take_over(self, message: PushMessage) -> None:
        """A body for which nobody waits any more."""
        if not message.settled and self._over is None:
            self._deliver(message)

    def _replied(self, message: PushMessage) -> None:
        if not self.replies.resolve(message):
            self._stats.late_replies += 1
        self.settle(message, 0, "")

    def _deliver(self, message: PushMessage) -> None:
        if not message.qos:
            message.settled = True
        self._inbox.remember(message, message if message.qos else 0)
        if self._on_message is not None:
            return self._call(self._on_message, message)
        if (evicted := self._inbox.put(message)) is not None:
            self._evicted(evicted)
        return self._arrived.set()

    def _evicted(self, message: PushMessage) -> None:
        if message.qos:
            self._stats.evicted += 1
            self._inbox.forget(message)
        else:
            self._stats.dropped += 1

    def _call(self, on_message: Callable[[PushMessage], None], message: PushMessage) -> None:
        try:
            on_message(message)
        except Exception:
            # Not acknowledged, so it comes again with the next connection; until then it keeps its place in the window.
            log.exception("on_message failed, id %r of product %r", message.id, message.product)
            self._stats.callback_errors += 1
            self._inbox.forget(message)
        else:
            self.settle(message, 0, "")

    def _acknowledge(self, message: PushMessage, code: int, reason: str) -> None:
        link = self._link
        if link is not None and message.link is link and message.packet_id is not None:
            link.send(link.connection.acknowledge(message.packet_id, code, reason))
        message.link = None
