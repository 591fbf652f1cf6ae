"""One socket: bytes in, packets to the session, flow control. The shell around `gateway/session.py`."""

from __future__ import annotations

import asyncio
import select
from typing import Final, cast

from gateway.framing import BadPacket, Reader
from gateway.room import Room
from gateway.session import Session

UNKNOWN: Final = 1 << 62
"""Bytes in the buffer of a transport that is closing: never drained."""


def hung_up(descriptor: int) -> bool:
    """Has the peer of this socket closed or reset it? Where the system can't tell (no POLLRDHUP): False."""
    poll = select.poll()
    poll.register(descriptor, getattr(select, "POLLRDHUP", 0))
    return bool(poll.poll(0))


class Connection(asyncio.Protocol):
    """`gateway.ports.Shell` on a transport of the loop.

    The high-water mark is the connection's byte cap, whoever writes: `pause_writing` means that the client is too slow.
    """

    __slots__ = ("_busy", "_reader", "_room", "_session", "_transport")

    def __init__(self, room: Room) -> None:
        self._room = room
        self._reader = Reader()
        self._busy = False
        self._session: Session
        self._transport: asyncio.Transport

    # --- the transport's calls -----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A socket was accepted."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is not a subclass
        cap = self._room.settings.max_write_buffer
        self._transport.set_write_buffer_limits(high=cap, low=cap // 4)
        self._session = self._room.accept(self)

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        now = self._session.last_seen = self._room.clock()
        if now > self._room.doubtful_after:
            self._room.awake(now)
        self._reader.receive_data(data)
        self._process()

    def pause_writing(self) -> None:
        """More is buffered than a connection may hold."""
        self._session.slow()

    def eof_received(self) -> bool:
        """The peer closed its side: so do we."""
        return False

    def connection_lost(self, error: Exception | None) -> None:
        """The socket is gone."""
        self._session.lost()

    # --- the session's calls (gateway.ports.Shell) ---------------------------------------------------------------------

    def write(self, data: bytes, /) -> None:
        """See `gateway.ports.Shell`."""
        self._transport.write(data)

    def buffered(self) -> int:
        """See `gateway.ports.Shell`. What a closing transport holds is never known to have left (uvloop says 0)."""
        return UNKNOWN if self._transport.is_closing() else self._transport.get_write_buffer_size()

    def close(self, last: bytes = b"") -> None:
        """See `gateway.ports.Shell`."""
        if last and not self._transport.is_closing():
            self._transport.write(last)
        self._transport.close()

    def abort(self) -> None:
        """See `gateway.ports.Shell`."""
        self._transport.abort()

    def left(self) -> bool:
        """See `gateway.ports.Shell`. Asked of the kernel, once a CONNECT."""
        socket = self._transport.get_extra_info("socket")
        return socket is not None and not self._transport.is_closing() and hung_up(socket.fileno())

    def pause_reading(self) -> None:
        """See `gateway.ports.Shell`."""
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """See `gateway.ports.Shell`."""
        if not self._transport.is_closing():
            self._transport.resume_reading()
            if not self._busy:
                self._process()

    # --- packets -------------------------------------------------------------------------------------------------------

    def _process(self) -> None:
        """Hand over every whole packet, until the session holds us."""
        session, reader = self._session, self._reader
        now = self._room.clock()
        self._busy = True
        try:
            while not session.held:
                reader.limit = session.packet_limit
                packet = reader.next_packet()
                if packet is None:
                    break
                session.receive(packet, now)
        except BadPacket as error:
            session.malformed(error)
        finally:
            self._busy = False
        session.reading_partial(not session.held and reader.partial, now)
