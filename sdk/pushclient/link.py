"""The asyncio shell of one connection: a transport, one timer, and nothing that runs while nothing happens."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Protocol, cast

import mqtt5

from . import ending as endings
from .address import Address
from .ending import Ending
from .protocol import Connection, Event, State

WRITE_HIGH, WRITE_LOW = 256 * 1024, 64 * 1024
_PING = mqtt5.PingReqPacket().write()


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Seconds. `connect`: TCP and TLS, then again for CONNACK. `ping`: for any sign of life after a PINGREQ."""

    connect: float = 10.0
    dispatch: float = 5.0
    token: float = 10.0
    ping: float = 10.0
    close: float = 2.0


class Owner(Protocol):
    def on_event(self, link: Link, event: Event) -> None: ...

    def on_lost(self, link: Link, ending: Ending) -> None: ...


class Link(asyncio.Protocol):
    """Says `hello` as soon as it is connected, and tells its owner each event, and once how it ended."""

    def __init__(self, owner: Owner, address: Address, hello: bytes, connection: Connection, timeouts: Timeouts) -> None:
        self.address = address
        self.opened_at: float | None = None
        self.connection = connection
        self.gone = asyncio.get_running_loop().create_future()
        self._loop = asyncio.get_running_loop()
        self._owner = owner
        self._hello = hello
        self._timeouts = timeouts
        self._transport: asyncio.WriteTransport | None = None
        self._ending: Ending | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._interval = 0.0
        self._last_sent = self._last_received = 0.0
        self._pinged_at: float | None = None
        self._resumed: asyncio.Future[None] | None = None

    # --- what asyncio calls -----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A cast: uvloop's transports are not of asyncio's classes.
        self._transport = transport = cast("asyncio.WriteTransport", transport)
        transport.set_write_buffer_limits(high=WRITE_HIGH, low=WRITE_LOW)
        if self._ending is not None:
            return transport.abort()
        self._timer = self._loop.call_later(self._timeouts.connect, self._unanswered)
        return self.send(self._hello)

    def data_received(self, data: bytes) -> None:
        self._last_received = self._loop.time()
        self._pinged_at = None
        for event in self.connection.receive_data(data):
            if self._ending is not None:
                return
            self._owner.on_event(self, event)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self.resume_writing()
        if not self.gone.done():
            self.gone.set_result(None)
        self._ending = self._ending or endings.lost(f"the connection was lost: {exc or 'closed by the server'}")
        self.connection.state = State.CLOSED
        self._owner.on_lost(self, self._ending)

    def pause_writing(self) -> None:
        self._resumed = self._loop.create_future()

    def resume_writing(self) -> None:
        if self._resumed is not None and not self._resumed.done():
            self._resumed.set_result(None)
        self._resumed = None

    # --- what the client calls --------------------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        """Write, if the connection is still there: what it does not take is resent on the next, or was QoS 0."""
        if self._transport is not None and self._ending is None:
            self._last_sent = self._loop.time()
            self._transport.write(data)

    async def drain(self) -> None:
        """Wait while the write buffer is over its limit. Never fails: a lost connection drains at once."""
        if self._resumed is not None:
            await asyncio.shield(self._resumed)

    def opened(self, keep_alive: int) -> None:
        """The server accepted: from now on the timer watches over silence, `keep_alive` seconds of it, or 0 for ever."""
        self._stop_timer()
        self.opened_at = self._loop.time()
        # Early enough for a slow network, and well before the server's one and a half times (MQTT 5, 3.1.2.10).
        self._interval = keep_alive - min(10.0, keep_alive / 4)
        if keep_alive:
            self._watch()

    def finish(self, ending: Ending, last_words: bytes = b"") -> None:
        """End it for this reason: flush, close, and cut it if that takes too long."""
        if self._ending is not None:
            return
        if last_words:
            self.send(last_words)
        self._ending = ending
        self.connection.state = State.CLOSED
        self._stop_timer()
        if self._transport is not None:
            self._transport.close()
            self._timer = self._loop.call_later(self._timeouts.close, self._transport.abort)

    # --- the timer --------------------------------------------------------------------------------------------------

    def _unanswered(self) -> None:
        self.finish(endings.lost(f"no CONNACK within {self._timeouts.connect:g} s"))

    def _watch(self) -> None:
        now = self._loop.time()
        if self._pinged_at is not None and now >= self._pinged_at + self._timeouts.ping:
            return self.finish(endings.lost(f"no answer to a ping within {self._timeouts.ping:g} s"))
        if now >= self._due():
            self.send(_PING)
            self._pinged_at = now if self._pinged_at is None else self._pinged_at
        limit = self._due() if self._pinged_at is None else min(self._due(), self._pinged_at + self._timeouts.ping)
        self._timer = self._loop.call_at(limit, self._watch)
        return None

    def _due(self) -> float:
        """When to ping next: after silence on either side, for one that only sends would never notice a dead peer."""
        if self._pinged_at is not None:
            return self._last_sent + self._interval
        return min(self._last_sent, self._last_received) + self._interval

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
