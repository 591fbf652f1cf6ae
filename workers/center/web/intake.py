"""HTTP connections before there is a request: how long a head may take, how large it may be, and how many there are.

uvicorn bounds none of these: whoever sent a byte and then nothing would keep a socket, and a head without an end takes memory.
"""

from __future__ import annotations

import asyncio
from typing import Final

from prometheus_client import Counter
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_CONNECTIONS: Final = 8_192
"""Of this process; further ones are reset. Each may hold `HEAD_BYTES`, and a body as the gate allows."""
HEAD_BYTES: Final = 32 * 1024
HEAD_TIMEOUT: Final = 10.0
"""Seconds from the connection, or from a request's first byte, to the end of its head."""

refused = Counter("longwire_center_connections_refused_total", "HTTP connections that were closed before a request", ["reason"])


class Intake(HttpToolsProtocol):
    """A connection of uvicorn's whose head is bounded."""

    max_connections = MAX_CONNECTIONS
    head_timeout = HEAD_TIMEOUT

    _awaited = True
    _size = 0
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Reset it if there are too many, else give it its time."""
        super().connection_made(transport)
        if len(self.connections) > self.max_connections:
            self._close("full")
        else:
            self._timer = self.loop.call_later(self.head_timeout, self._close, "slow_head")

    def data_received(self, data: bytes) -> None:
        """Read; what came of a head that has not ended is in memory. What comes after an answer begins a request, or its time."""
        super().data_received(data)
        if self._awaited:
            self._size += len(data)
            if self._size > HEAD_BYTES:
                self._close("large_head")
                return
        if self._timer is None and (self._awaited or self.cycle.response_complete):
            self._timer = self.loop.call_later(self.head_timeout, self._close, "slow_head")

    def on_message_begin(self) -> None:
        """Another head begins."""
        self._awaited, self._size = True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """It is whole."""
        self._awaited = False
        self._forget()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is awaited any more."""
        self._forget()
        super().connection_lost(exc)

    def _forget(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _close(self, reason: str) -> None:
        self._forget()
        if not self.transport.is_closing():
            refused.labels(reason).inc()
            self.transport.abort()
