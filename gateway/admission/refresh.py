"""A new token on a live connection: AUTH with Authentication Method `jwt` (MQTT 5 §3.15, §4.12), pure.

A client that names the method in CONNECT may send AUTH 0x19 with a new token as Authentication Data at any time. It is for the
same client, and goes on granting what is bound: what a token takes away, or another user, wants a new connection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import mqtt5

from gateway import metrics
from gateway.admission.auth import Refusal, verified
from gateway.reasons import Reason
from gateway.sessions.states import Violation
from infra.grants import Grant, ProductGrant
from infra.tokens import Verifier

if TYPE_CHECKING:
    from gateway.client import Client
    from gateway.sessions.delivery import Delivery

METHOD: Final = "jwt"
EVERY: Final = 1.0
"""Seconds between two AUTHs of a connection, at least: each costs a signature."""
DONE: Final = mqtt5.AuthPacket(reason_code=mqtt5.AuthReasonCode.SUCCESS, authentication_method=METHOD).write()


def token_of(packet: mqtt5.ConnectPacket) -> bytes:
    """The token in a CONNECT: the Authentication Data where the method is named and there are any, else the password."""
    if packet.authentication_method is None:
        if packet.authentication_data is not None:
            raise Refusal(Reason.PROTOCOL_ERROR, "auth_method", "Authentication Data without a method (MQTT 5, 3.1.2.11.10)")
        return packet.password or b""
    if packet.authentication_method != METHOD:
        raise Refusal(Reason.BAD_AUTH_METHOD, "auth_method", f"the only authentication method here is {METHOD}")
    return packet.authentication_data or packet.password or b""


class Refresh:
    """What a connection holds that named the method."""

    __slots__ = ("_from",)

    def __init__(self, now: float) -> None:
        self._from = now

    def grant(self, packet: mqtt5.AuthPacket, delivery: Delivery, verifier: Verifier, now: float, wall: float) -> Grant:
        """What the new token allows. Raises Violation: a re-authentication that fails ends the connection (MQTT 5 §4.12.1)."""
        try:
            grant = self._checked(packet, delivery, verifier, now, wall)
        except Violation:
            metrics.refreshed.labels("refused").inc()
            raise
        metrics.refreshed.labels("ok").inc()
        self._from = now + EVERY
        return grant

    def _checked(self, packet: mqtt5.AuthPacket, delivery: Delivery, verifier: Verifier, now: float, wall: float) -> Grant:
        if packet.authentication_method != METHOD:
            raise Violation(Reason.PROTOCOL_ERROR, f"the authentication method of this connection is {METHOD}")
        if packet.reason_code != mqtt5.AuthReasonCode.RE_AUTHENTICATE:
            raise Violation(Reason.PROTOCOL_ERROR, "a client begins with AUTH 0x19, and there is nothing to continue")
        if now < self._from:
            raise Violation(Reason.MESSAGE_RATE, f"AUTH is taken once in {EVERY:g} s")
        client = delivery.client
        try:
            grant = verified(verifier, packet.authentication_data or b"", client.key.partition(":")[2], wall)
        except Refusal as refusal:  # a DISCONNECT has no 0x86 (MQTT 5 §3.14.2.1)
            raise Violation(Reason.NOT_AUTHORIZED, refusal.text) from None
        if grant.key != client.key:
            raise Violation(Reason.NOT_AUTHORIZED, "the new token is of another realm")
        if missing := uncovered(client, grant):
            raise Violation(Reason.NOT_AUTHORIZED, f"the new token does not cover what is bound of {missing}: connect with it")
        if delivery.changing and any(not _covers(grant.products.get(name), old) for name, old in delivery.grant.products.items()):
            raise Violation(Reason.NOT_AUTHORIZED, "while a SUBSCRIBE is under way a new token takes nothing away")
        return grant


def uncovered(client: Client, grant: Grant) -> str:
    """A product that is bound and that the grant does not cover as it is bound; "" if it covers all."""
    for bind in client.binds:
        granted = grant.products.get(bind.product)
        if granted is None or (granted.user, granted.attrs) != (bind.user, bind.attrs):
            return bind.product
        if granted.groups is not None and not bind.groups <= granted.groups:
            return bind.product
    return ""


def _covers(new: ProductGrant | None, old: ProductGrant) -> bool:
    if new is None or (new.user, new.attrs) != (old.user, old.attrs):
        return False
    return new.groups is None or (old.groups is not None and old.groups <= new.groups)
