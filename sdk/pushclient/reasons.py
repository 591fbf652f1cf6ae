"""One table: what a client does about each reason code of CONNACK and DISCONNECT (MQTT 5, 3.2.2.2 and 3.14.2.1)."""

from __future__ import annotations

import enum
from typing import NamedTuple

from . import errors


class Verdict(enum.Enum):
    """What to do after a connection ended."""

    RETURN = "come back"
    LATER = "come back later"
    MOVE = "come back elsewhere, at once"
    STOP = "do not come back"


class Reason(NamedTuple):
    name: str
    verdict: Verdict
    error: type[errors.SessionEnded] = errors.SessionEnded


# LATER holds overload, and whatever the next connection would only repeat: quick returns would help neither side.
REASONS: dict[int, Reason] = {
    0x00: Reason("normal disconnection", Verdict.RETURN),
    0x80: Reason("unspecified error", Verdict.RETURN),
    0x81: Reason("malformed packet", Verdict.LATER),
    0x82: Reason("protocol error", Verdict.LATER),
    0x83: Reason("implementation specific error", Verdict.RETURN),
    0x84: Reason("unsupported protocol version", Verdict.STOP),
    0x85: Reason("client id not valid", Verdict.STOP, errors.ClientIdNotValid),
    0x86: Reason("bad credentials", Verdict.STOP, errors.BadCredentials),
    0x87: Reason("not authorized", Verdict.STOP, errors.NotAuthorized),
    0x88: Reason("server unavailable", Verdict.LATER),
    0x89: Reason("server busy", Verdict.LATER),
    0x8A: Reason("banned", Verdict.STOP, errors.Banned),
    0x8B: Reason("server shutting down", Verdict.RETURN),
    0x8C: Reason("bad authentication method", Verdict.STOP),
    0x8D: Reason("keep alive timeout", Verdict.RETURN),
    0x8E: Reason("session taken over", Verdict.STOP, errors.TakenOver),
    0x8F: Reason("topic filter invalid", Verdict.LATER),
    0x90: Reason("topic name invalid", Verdict.LATER),
    0x93: Reason("receive maximum exceeded", Verdict.LATER),
    0x94: Reason("topic alias invalid", Verdict.LATER),
    0x95: Reason("packet too large", Verdict.LATER),
    0x96: Reason("message rate too high", Verdict.LATER),
    0x97: Reason("quota exceeded", Verdict.LATER),
    0x98: Reason("kicked", Verdict.STOP, errors.Kicked),
    0x99: Reason("payload format invalid", Verdict.LATER),
    0x9A: Reason("retain not supported", Verdict.LATER),
    0x9B: Reason("QoS not supported", Verdict.LATER),
    0x9C: Reason("use another server", Verdict.MOVE),
    0x9D: Reason("server moved", Verdict.MOVE),
    0x9E: Reason("shared subscriptions not supported", Verdict.LATER),
    0x9F: Reason("connection rate exceeded", Verdict.LATER),
    0xA0: Reason("maximum connect time", Verdict.RETURN),
    0xA1: Reason("subscription identifiers not supported", Verdict.LATER),
    0xA2: Reason("wildcard subscriptions not supported", Verdict.LATER),
}

# Of a live connection these say that its token ran out: where tokens come from a callable, a fresh one may do.
TOKEN_EXPIRED = frozenset({0x86, 0x87})


def reason(code: int) -> Reason:
    """The table's row, or a harmless default for a code that later versions may add."""
    return REASONS.get(code) or Reason(f"reason 0x{code:02x}", Verdict.RETURN)
