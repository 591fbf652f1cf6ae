"""What stands between a socket and MQTT: TLS, WebSocket. Bytes in, bytes out, no I/O (docs/adr/0017).

A stage is fed with what its peer sent and gives what the next stage gets. What it has to say itself (a handshake, a pong, an
alert) waits in it until it is taken.
"""

from __future__ import annotations

from typing import Protocol

from prometheus_client import Counter

failures = Counter("longwire_gateway_stage_failures_total", "Connections ended by PROXY, TLS or WebSocket", ["stage", "reason"])


class Stage(Protocol):
    """One stage of one connection."""

    @property
    def name(self) -> str:
        """As the counter has it."""

    @property
    def open(self) -> bool:
        """Its handshake is done."""

    @property
    def ended(self) -> str | None:
        """Why nothing more comes through it: "" where the peer closed it in good order, else the counter's reason."""

    def receive(self, data: bytes) -> bytes:
        """What the peer sent → what the next stage gets: all that was valid, also where `ended` is set by what follows."""

    def take(self) -> bytes:
        """What the stage says itself since the last call; first what belongs before anything that is written."""

    def wrap(self, data: bytes) -> bytes:
        """What is written → what the peer gets. Call it only while it is open."""

    def farewell(self) -> bytes:
        """What it has still to say, and its last words; b"" where they were said."""
