"""SUBSCRIBE and UNSUBSCRIBE of one client, and what it is taken out of: one after the other, and each one step at a time
(docs/design.md, Unicast 5).

An object lives from the first packet that waits until the last answer: an idle connection has none.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

import mqtt5

from gateway import metrics
from gateway.client import NO_GROUPS, BindState, bind_to
from gateway.mqtt import packets
from gateway.sessions import window
from gateway.sessions.subscribing import Plan, Subscribing, Wish, plan_unsubscribe
from infra.wire import Bind, BindItem, BindResult, DoneResult, UnbindItem

if TYPE_CHECKING:
    from gateway.sessions.delivery import Delivery

MAX_WAITING: Final = 8
"""SUBSCRIBE and UNSUBSCRIBE packets that wait their turn; then nothing more is read."""
REFUSED: Final = 0x80
"""From here on a reason code says no (MQTT 5 §2.4)."""


@dataclass(frozen=True, slots=True)
class Left:
    """The client was taken out of a product: an UNSUBSCRIBE that nobody sent, and nobody is answered."""

    product: str


Change = mqtt5.SubscribePacket | mqtt5.UnsubscribePacket | Left


class _Doing:
    """A change under way: the answer is written when the last step is done."""

    __slots__ = ("answer", "bound", "drops", "wishes")

    def __init__(self, answer: bytes, plan: Plan) -> None:
        self.answer = answer
        self.drops = list(reversed(plan.drops))
        self.wishes = list(reversed(plan.wishes.values()))
        self.bound: list[tuple[BindState, Wish, BindResult]] = []


class Changes:
    """The changes that wait, and the one under way; a part of `Delivery`, apart only because it has a state of its own."""

    __slots__ = ("_delivery", "_doing", "_waiting")

    def __init__(self, delivery: Delivery) -> None:
        self._delivery = delivery
        self._waiting: deque[Change] = deque()
        self._doing: _Doing | None = None

    @property
    def running(self) -> bool:
        """One is under way."""
        return self._doing is not None

    @property
    def over(self) -> bool:
        """Nothing waits, nothing is under way."""
        return self._doing is None and not self._waiting

    @property
    def full(self) -> bool:
        """So many wait that nothing more is to be read."""
        return len(self._waiting) >= MAX_WAITING

    def add(self, packet: Change) -> None:
        """One more, for its turn."""
        self._waiting.append(packet)

    def abandon(self) -> None:
        """The socket is gone: what was not begun is not done, what was is not answered. The client asks again."""
        self._waiting.clear()
        if self._doing is not None:
            self._doing.answer = b""
            self._doing.drops.clear()
            self._doing.wishes.clear()

    def begin(self) -> None:
        """Do the next one; only while none is under way."""
        packet = self._waiting.popleft()
        delivery = self._delivery
        binds, host = delivery.client.binds, delivery.host
        if isinstance(packet, mqtt5.SubscribePacket):
            plan = Subscribing(binds, delivery.grant.products, host.products, host.policy).plan(packet)
            for code in plan.codes:
                if code >= REFUSED:
                    metrics.binds_refused.labels(f"0x{code:02x}").inc()
            answer = suback(delivery, packet, plan)
        elif isinstance(packet, Left):
            plan, answer = Plan(packet.product) if bind_to(binds, packet.product) else Plan(), b""
        else:
            plan = plan_unsubscribe(packet, binds)
            answer = packets.unsuback(packet.packet_id, plan.codes)
        self._doing = _Doing(answer, plan)
        self._step(self._doing)

    def _step(self, doing: _Doing) -> None:
        if doing.drops:
            self._unbind(doing, doing.drops.pop())
        elif doing.wishes:
            self._bind(doing, doing.wishes.pop())
        else:
            self._finish(doing)

    def _bind(self, doing: _Doing, wish: Wish) -> None:
        delivery = self._delivery
        client, host = delivery.client, delivery.host
        bind = bind_for(delivery, wish)
        bind.hinted_n = 0
        item = BindItem(
            client.key, host.room, host.epoch, client.connection, client.generation, client.number,
            Bind(bind.product, wish.qos, sorted(wish.groups), bind.user, bind.attrs),
            window.held(client, bind.product),
            max(0, client.unicast_places()) if wish.qos else host.policy.window,
            client.whole,
        )  # fmt: skip

        def answered(result: BindResult | None) -> None:
            if delivery.answered(result.status if result else None):
                assert result is not None
                doing.bound.append((bind, wish, result))
                self._step(doing)

        delivery.send(host.saver.bind, item, answered)

    def _unbind(self, doing: _Doing, product: str) -> None:
        delivery = self._delivery
        client, host = delivery.client, delivery.host
        bind = bind_to(client.binds, product)
        assert bind is not None
        client.binds = tuple(kept for kept in client.binds if kept is not bind)
        delivery.drop(bind)
        item = UnbindItem(client.key, host.room, host.epoch, client.generation, client.number, product)

        def answered(result: DoneResult | None) -> None:
            if delivery.answered(result.status if result else None):
                self._step(doing)

        delivery.send(host.saver.unbind, item, answered)

    def _finish(self, doing: _Doing) -> None:
        self._doing = None
        told(self._delivery, doing.bound, doing.answer)


def bind_for(delivery: Delivery, wish: Wish) -> BindState:
    """The client's bind to a product; a new one, if there is none."""
    client = delivery.client
    bind = bind_to(client.binds, wish.product)
    if bind is None:
        granted = delivery.grant.products[wish.product]
        bind = BindState(client, wish.product, wish.qos, granted.user, granted.attrs)
        client.binds = (*client.binds, bind)
    return bind


def suback(delivery: Delivery, packet: mqtt5.SubscribePacket, plan: Plan) -> bytes:
    """The answer to a SUBSCRIBE."""
    if not plan.text:
        return packets.suback(packet.packet_id, plan.codes)
    return delivery.client.explain(partial(packets.suback, packet.packet_id, plan.codes), plan.text)


def told(delivery: Delivery, bound: list[tuple[BindState, Wish, BindResult]], answer: bytes) -> None:
    """The saver has answered every bind: write the answer with what is pending, and go on."""
    for bind, wish, result in bound:
        bind.qos, bind.groups = wish.qos, frozenset(wish.groups) or NO_GROUPS
        bind.first_bind_ms = result.first_bind_ms
    delivery.write_pages([(bind, result.page) for bind, _, result in bound if result.page is not None], answer)
    for bind, _, result in bound:
        if bind.ready:
            delivery.host.fanout.regrouped(bind)
        else:
            bind.ready = True
            bind.fenced = delivery.silent
            delivery.host.fanout.bound(bind, result.settled_jobs, result.recent_jobs)
    delivery.pump()
