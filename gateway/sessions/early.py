"""A SUBSCRIBE that came with its CONNECT: the saver registers both in one step, and CONNACK and SUBACK are one write (ADR 31).

MQTT 5 §3.1.4 lets a client go on without waiting for its CONNACK. What is not plain (a filter that is refused, several products,
a saver that knows nothing of it) has its turn behind the CONNACK, as if it had come after it.
"""

from __future__ import annotations

from typing import Final

import mqtt5

from gateway.host import Host
from gateway.sessions.changes import REFUSED, bind_for, suback, told
from gateway.sessions.delivery import Delivery
from gateway.sessions.states import Violation
from gateway.sessions.subscribing import Plan, Subscribing, Wish, check, not_offered
from infra.tokens import Grant
from infra.wire import Bind, BindResult, FirstBind

UNKNOWN: Final = 1 << 62
"""A store number beyond all: whatever a page brings, the bind is behind."""


class Early:
    """What the client wants, and what it missed meanwhile: a hint that comes before the saver's answer finds no session here."""

    __slots__ = ("_plan", "_wish", "doubtful", "first", "hinted_n", "key", "packet")

    def __init__(self, packet: mqtt5.SubscribePacket, connect: mqtt5.ConnectPacket, grant: Grant, host: Host) -> None:
        self.key = grant.key
        self.packet = packet
        self.hinted_n = 0
        self.doubtful = False  # we were cut off: the answer may be as old as that, and the bind is asked for anew
        self.first: FirstBind | None = None  # else it is not plain
        self._plan: Plan | None = None
        self._wish: Wish | None = None
        if (plan := _plain(packet, connect, grant, host)) is None:
            return
        [wish] = plan.wishes.values()
        granted, window = grant.products[wish.product], host.policy.window
        bind = Bind(wish.product, wish.qos, sorted(wish.groups), granted.user, granted.attrs)
        self.first = FirstBind(bind, min(connect.receive_max, window) if wish.qos else window)
        self._plan, self._wish = plan, wish

    def missed(self, product: str, n: int) -> bool:
        """A hint came; is it of the bind that is asked for?"""
        if self.first is None or self.first.bind.product != product:
            return False
        self.hinted_n = max(self.hinted_n, n)
        return True

    def lost_sight(self) -> None:
        """Another socket of the client is told of its hints from now on."""
        self.hinted_n = UNKNOWN

    def concluded(self, delivery: Delivery, result: BindResult, connack: bytes) -> None:
        """The client is let in, and bound: say so, and write what waits for it."""
        assert self._plan is not None
        assert self._wish is not None
        bind = bind_for(delivery, self._wish)
        bind.hinted_n = self.hinted_n
        told(delivery, [(bind, self._wish, result)], connack + suback(delivery, self.packet, self._plan))


def _plain(packet: mqtt5.SubscribePacket, connect: mqtt5.ConnectPacket, grant: Grant, host: Host) -> Plan | None:
    """What is to be done, if nothing of it is refused and it is one bind."""
    try:
        check(packet, connect.max_packet_size)
    except Violation:
        return None
    if not_offered(packet) is not None:
        return None
    plan = Subscribing((), grant.products, host.products, host.policy).plan(packet)
    refused = any(code >= REFUSED for code in plan.codes)
    return None if refused or len(plan.wishes) != 1 else plan
