"""What a SUBSCRIBE or UNSUBSCRIBE means here: pure rules, from the packet and what is bound to codes and steps.

`push/{product}` binds, `push/{product}/{group}` joins a group of a product that is bound by an earlier packet or filter.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Final

import mqtt5

from gateway.client import Binds, BindState, bind_to
from gateway.mqtt import packets
from gateway.mqtt.strict import MAX_FILTERS
from gateway.reasons import Reason
from gateway.sessions.states import Violation
from infra.documents import Policy
from infra.grants import Products
from schemas import names

MAX_GROUPS: Final = 1024
"""Groups of all binds of a connection together, at most: a sync names them all and has to fit into a batch."""


class Wish:
    """A bind as it shall be."""

    __slots__ = ("groups", "product", "qos")

    def __init__(self, product: str, qos: int, groups: set[str]) -> None:
        self.product = product
        self.qos = qos
        self.groups = groups


class Plan:
    """The answer's codes, one a filter, the reason of one refusal, and what to ask of the saver, in order."""

    __slots__ = ("codes", "drops", "text", "wishes")

    def __init__(self, *drops: str) -> None:
        self.codes: list[int] = []
        self.text = ""
        self.wishes: dict[str, Wish] = {}
        self.drops: list[str] = list(drops)


class NotGranted(Exception):
    """Why a filter is refused."""

    def __init__(self, code: Reason, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


def check(packet: mqtt5.SubscribePacket | mqtt5.UnsubscribePacket, max_packet: int | None) -> None:
    """Raise Violation where the packet breaks the protocol, or its answer could not be given; `max_packet`: the client's."""
    if not packet.packet_id:
        raise Violation(Reason.PROTOCOL_ERROR, "a packet id of 0")
    filters = len(packet.topic_filters if isinstance(packet, mqtt5.SubscribePacket) else packet.patterns)
    if not filters:
        raise Violation(Reason.PROTOCOL_ERROR, "no topic filter")
    if filters > MAX_FILTERS:
        raise Violation(Reason.QUOTA_EXCEEDED, f"more than {MAX_FILTERS} topic filters in a packet")
    if max_packet is not None and packets.SUBACK_HEADER + filters > max_packet:
        raise Violation(Reason.PACKET_TOO_LARGE, "the answer would be larger than your Maximum Packet Size")
    if isinstance(packet, mqtt5.SubscribePacket) and packet.subscription_id is not None:
        raise Violation(Reason.SUBSCRIPTION_ID_NOT_SUPPORTED, "subscription identifiers are not offered")


def not_offered(packet: mqtt5.SubscribePacket | mqtt5.UnsubscribePacket) -> NotGranted | None:
    """Why a SUBSCRIBE breaks the protocol here: CONNACK said that such filters are not available (MQTT 5 §3.2.2.3.11, .13)."""
    if isinstance(packet, mqtt5.SubscribePacket):
        for item in packet.topic_filters:
            if (refused := _unavailable(item.pattern)) is not None:
                return refused
    return None


def _unavailable(pattern: str) -> NotGranted | None:
    if pattern.startswith("$share/"):
        return NotGranted(Reason.SHARED_NOT_SUPPORTED, "shared subscriptions are not offered")
    if "+" in pattern or "#" in pattern:
        return NotGranted(Reason.WILDCARD_NOT_SUPPORTED, "wildcards are not offered")
    return None


class Subscribing:
    """One SUBSCRIBE against one connection's binds and token."""

    def __init__(
        self,
        binds: Binds,
        granted: Products,
        products: Container[str],
        policy: Policy,
    ) -> None:
        self._binds = binds
        self._granted = granted
        self._products = products
        self._policy = policy
        self._plan = Plan()

    def plan(self, packet: mqtt5.SubscribePacket) -> Plan:
        """One filter after the other: as if each had come in a packet of its own (MQTT 5 §3.8.4)."""
        for item in packet.topic_filters:
            self._plan.codes.append(self._grant(item.pattern, 0 if item.max_qos == mqtt5.QoS.AT_MOST_ONCE else 1))
        return self._plan

    def _grant(self, pattern: str, qos: int) -> int:
        try:
            product, group = names.parse_push_topic(pattern)
            return self._join(product, group) if group else self._bind(product, qos)
        except names.BadName as error:
            return self._refuse(NotGranted(Reason.TOPIC_FILTER_INVALID, str(error)))
        except NotGranted as refused:
            return self._refuse(refused)

    def _refuse(self, refused: NotGranted) -> int:
        self._plan.text = self._plan.text or refused.text
        return refused.code

    def _bind(self, product: str, qos: int) -> int:
        if product not in self._granted:
            raise NotGranted(Reason.NOT_AUTHORIZED, f"the token does not name product {product}")
        if product not in self._products:
            raise NotGranted(Reason.TOPIC_FILTER_INVALID, f"product {product} is not configured here")
        wishes = self._plan.wishes
        if product not in wishes and bind_to(self._binds, product) is None:
            fresh = len([name for name in wishes if bind_to(self._binds, name) is None]) if wishes else 0
            if len(self._binds) + fresh >= self._policy.binds_per_connection:
                raise NotGranted(Reason.QUOTA_EXCEEDED, f"more than {self._policy.binds_per_connection} binds on a connection")
        wishes[product] = Wish(product, qos, self._groups(product))
        return qos

    def _join(self, product: str, group: str) -> int:
        wish = self._plan.wishes.get(product) or self._existing(product)
        allowed = self._granted[product].groups
        if allowed is not None and group not in allowed:
            raise NotGranted(Reason.NOT_AUTHORIZED, f"the token does not allow group {group} of {product}")
        if group not in wish.groups:
            self._check_room(wish)
        wish.groups.add(group)
        self._plan.wishes[product] = wish
        return wish.qos

    def _existing(self, product: str) -> Wish:
        bind = bind_to(self._binds, product)
        if bind is None or product not in self._granted:
            raise NotGranted(Reason.NOT_AUTHORIZED, f"bind push/{product} first")
        return Wish(product, bind.qos, set(bind.groups))

    def _groups(self, product: str) -> set[str]:
        """What is joined of it, by this packet too."""
        if (wish := self._plan.wishes.get(product)) is not None:
            return wish.groups
        bind = bind_to(self._binds, product)
        return set(bind.groups) if bind is not None else set()

    def _check_room(self, wish: Wish) -> None:
        if len(wish.groups) >= self._policy.groups_per_bind:
            raise NotGranted(Reason.QUOTA_EXCEEDED, f"more than {self._policy.groups_per_bind} groups of a product")
        wishes = self._plan.wishes
        total = sum(len(bind.groups) for bind in self._binds if bind.product not in wishes)
        total += sum(len(w.groups) for w in wishes.values())
        if total >= MAX_GROUPS:
            raise NotGranted(Reason.QUOTA_EXCEEDED, f"more than {MAX_GROUPS} groups on a connection")


def plan_unsubscribe(packet: mqtt5.UnsubscribePacket, binds: Binds) -> Plan:
    """Leaving a product leaves its groups."""
    plan = Plan()
    for pattern in packet.patterns:
        try:
            product, group = names.parse_push_topic(pattern)
        except names.BadName:
            plan.codes.append(Reason.TOPIC_FILTER_INVALID)
            continue
        plan.codes.append(_leave(plan, product, group, bind_to(binds, product)))
    for product in plan.drops:
        plan.wishes.pop(product, None)
    return plan


def _leave(plan: Plan, product: str, group: str, bind: BindState | None) -> int:
    if bind is None or product in plan.drops:
        return Reason.NO_SUBSCRIPTION
    if not group:
        plan.drops.append(product)
        return Reason.SUCCESS
    wish = plan.wishes.get(product) or Wish(product, bind.qos, set(bind.groups))
    if group not in wish.groups:
        return Reason.NO_SUBSCRIPTION
    wish.groups.discard(group)
    plan.wishes[product] = wish
    return Reason.SUCCESS
