"""How a connection, or an attempt at one, ended."""

from __future__ import annotations

from dataclasses import dataclass

import mqtt5

from . import reasons
from .address import Address, parse_references
from .backoff import retry_after
from .errors import SessionEnded
from .reasons import Verdict


@dataclass(frozen=True, slots=True)
class Ending:
    """`code` is None where the server said nothing: it was not reached, or the connection was lost."""

    verdict: Verdict
    text: str
    code: int | None = None
    retry_after_s: float | None = None
    references: tuple[Address, ...] = ()

    def error(self) -> SessionEnded:
        """A fresh exception for one waiter: one instance raised in several places would mix their tracebacks."""
        code = self.code or 0x80
        return reasons.reason(code).error(code, self.text)


def told(packet: mqtt5.ConnAckPacket | mqtt5.DisconnectPacket) -> Ending:
    """The server's own words: a CONNACK that refuses, or a DISCONNECT."""
    code = int(packet.reason_code)
    row = reasons.reason(code)
    text = f"{row.name} (0x{code:02x})" + (f": {packet.reason_str}" if packet.reason_str else "")
    references = parse_references(packet.server_reference)
    return Ending(row.verdict, text, code, retry_after(packet.user_properties), references)


def lost(text: str, retry_after_s: float | None = None) -> Ending:
    """Nothing was said: the network, a crash, or our own doing."""
    return Ending(Verdict.RETURN, text, retry_after_s=retry_after_s)
