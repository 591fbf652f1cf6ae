"""Who is let in: what a CONNECT must and must not say, before its token is verified."""

from __future__ import annotations

import mqtt5

from gateway.admission.auth import Refusal, verified
from gateway.admission.refresh import token_of
from gateway.reasons import Reason
from infra.tokens import Grant, Verifier
from schemas import names


def identify(certified: frozenset[str] | None, client_id: str) -> None:
    """Where a certificate says who the client is (None: it does not), it says so of this client. Raises Refusal."""
    if certified is not None and client_id not in certified:
        raise Refusal(Reason.NOT_AUTHORIZED, "certificate", "the certificate is not this client's")


def _will_refused(will: mqtt5.Will) -> Reason:
    """The reason that MQTT 5 names for what a Will asks for and is not offered (§3.2.2.2, §3.2.2.3.4, §3.2.2.3.5)."""
    if will.qos == mqtt5.QoS.EXACTLY_ONCE:
        return Reason.QOS_NOT_SUPPORTED
    return Reason.RETAIN_NOT_SUPPORTED if will.retain else Reason.TOPIC_NAME_INVALID


def authorize(packet: mqtt5.ConnectPacket, verifier: Verifier, wall: float) -> Grant:
    """What the client may do at `wall` (seconds since the epoch). Raises Refusal."""
    token = token_of(packet)
    if packet.will is not None:
        raise Refusal(_will_refused(packet.will), "will", "a Will is not offered")
    try:
        names.client(packet.client_id)
    except names.BadName as error:
        text = str(error) if packet.client_id else "an empty client id: none is assigned here"
        raise Refusal(Reason.CLIENT_ID_NOT_VALID, "client_id", text) from error
    if not token:
        raise Refusal(Reason.BAD_TOKEN, "form", "no token: it belongs into the password")
    return verified(verifier, token, packet.client_id, wall)
