"""Requests that wait for their reply."""

from __future__ import annotations

import asyncio
import os

from .messages import PushMessage

_PREFIX_BYTES = 8


class Replies:
    """Correlation Data (MQTT 5, 3.3.2.3.6) → who waits. A random prefix tells this client's own from anyone else's."""

    __slots__ = ("_counter", "_prefix", "_waiting")

    def __init__(self) -> None:
        self._prefix = os.urandom(_PREFIX_BYTES)
        self._counter = 0
        self._waiting: dict[bytes, asyncio.Future[PushMessage]] = {}

    def expect(self) -> tuple[bytes, asyncio.Future[PushMessage]]:
        """New correlation data, and the future of its reply. `forget` it, whatever comes."""
        self._counter += 1
        correlation = self._prefix + self._counter.to_bytes(8, "big")
        self._waiting[correlation] = future = asyncio.get_running_loop().create_future()
        return correlation, future

    def forget(self, correlation: bytes) -> None:
        self._waiting.pop(correlation, None)

    def is_ours(self, message: PushMessage) -> bool:
        """True for a reply to a request of this client, waited for or not."""
        return bool(message.correlation_data) and (message.correlation_data or b"").startswith(self._prefix)

    def resolve(self, message: PushMessage) -> bool:
        """Hand a reply to who waits for it. False if nobody does any more."""
        waiting = self._waiting.get(message.correlation_data or b"")
        if waiting is None or waiting.done():
            return False
        waiting.set_result(message)
        return True

    def end(self, error: Exception) -> None:
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(error)
                waiting.exception()  # the requester may still be waiting for its PUBACK, and fail by that
