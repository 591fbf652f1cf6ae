"""Bodies that a client pulls: a PUBLISH to `pull/{product}` with the id of a pending message (docs/protocol.md).

The body takes a place of the window like any message, and is asked of the saver as the one request that a client may have
there, so no page can bring it at the same time. Its PUBACK settles the message; that of the pull is written with the body.
Pulls and syncs take turns. An object lives while something waits: an idle connection has none.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from gateway import metrics
from gateway.client import bind_to
from gateway.mqtt import packets
from gateway.reasons import Reason
from gateway.sessions import window
from infra.wire import Downlink, PullItem, PullResult

if TYPE_CHECKING:
    from gateway.sessions.delivery import Delivery

MAX_WAITING: Final = 16
"""Pulls of one client that wait, QoS 0 and 1 together; a further one at QoS 0 is dropped, as QoS 0 allows, and counted."""


class Pull(NamedTuple):
    """What is asked for; `packet_id` 0 at QoS 0."""

    product: str
    id: str
    packet_id: int


class Pulling:
    """The pulls of one client, one after the other; a part of `Delivery`, apart only because it has a state of its own."""

    __slots__ = ("_delivery", "_waiting", "gives_way")

    def __init__(self, delivery: Delivery) -> None:
        self._delivery = delivery
        self._waiting: deque[Pull] = deque()
        self.gives_way = False  # a sync waits, and goes first

    def __len__(self) -> int:
        return len(self._waiting)

    def has(self, packet_id: int) -> bool:
        """Does a pull with this packet id wait?"""
        return any(pull.packet_id == packet_id for pull in self._waiting)

    def add(self, pull: Pull) -> None:
        """One more, for its turn. The caller has checked Receive Maximum."""
        if len(self._waiting) >= MAX_WAITING:
            metrics.pulls.labels("dropped").inc()
        else:
            self._waiting.append(pull)

    def may_ask(self) -> bool:
        """Is there one to ask for, with a place for its body? Those that need no asking are answered on the way."""
        delivery, client = self._delivery, self._delivery.client
        while self._waiting and not delivery.silent:
            pull = self._waiting[0]
            bind = bind_to(client.binds, pull.product)
            if bind is None or not bind.ready:
                self._refuse(Reason.NOT_AUTHORIZED, "product not bound")
            elif window.on_its_way(client, pull.product, pull.id):
                self._answer("repeated")
            elif window.settled_here(client, pull.product, pull.id):
                self._refuse(Reason.IMPLEMENTATION, "not pending")
            else:
                return window.may_write(client, bind)
        return False

    def ask(self) -> None:
        """Ask for the first; only after `may_ask()`, while the client is idle."""
        delivery, pull = self._delivery, self._waiting[0]
        client = delivery.client
        item = PullItem(client.key, client.generation, client.number, pull.product, pull.id)
        delivery.send(delivery.host.saver.pull, item, self._answered)

    @property
    def blocked(self) -> bool:
        """Only the buffer has to drain: nothing will tell."""
        delivery = self._delivery
        bind = bind_to(delivery.client.binds, self._waiting[0].product) if self._waiting else None
        return bind is not None and window.has_place(delivery.client, bind)

    def _answered(self, result: PullResult | None) -> None:
        delivery = self._delivery
        if not delivery.answered(result.status if result is not None else None):
            return
        assert result is not None
        if delivery.pulls is self:  # else the client was away meanwhile, and asks again
            if result.message is None:
                self._refuse(Reason.IMPLEMENTATION, "not pending")
            else:
                self._write(result.message)
        delivery.pump()

    def _write(self, message: Downlink) -> None:
        """Only if there is a place yet: a broadcast may have it by now, or we may have been cut off. Then it is asked again."""
        delivery, pull = self._delivery, self._waiting[0]
        bind = bind_to(delivery.client.binds, pull.product)
        assert bind is not None
        if delivery.silent or not window.may_write(delivery.client, bind):
            return
        data = window.compose_pulled(delivery.client, bind, message, delivery.host.clock())
        if data:
            self._answer("written", data)
        else:
            self._refuse(Reason.QUOTA_EXCEEDED, "larger than your Maximum Packet Size")

    def _answer(self, outcome: str, before: bytes = b"") -> None:
        pull = self._waiting.popleft()
        metrics.pulls.labels(outcome).inc()
        self._delivery.client.shell.write(before + (packets.puback(pull.packet_id) if pull.packet_id else b""))
        if before:
            self._delivery.owner.touch()

    def _refuse(self, code: int, text: str) -> None:
        pull = self._waiting.popleft()
        metrics.pulls.labels("refused").inc()
        if pull.packet_id:
            client = self._delivery.client
            client.shell.write(client.explain(partial(packets.puback, pull.packet_id, code), text))
