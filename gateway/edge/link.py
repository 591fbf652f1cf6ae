"""One socket: bytes in, packets to the session, flow control. The shell around `gateway/sessions/session.py`.

The socket is a descriptor of ours (gateway/edge/sockets.py). What the kernel does not take at once is kept, up to the cap of a
connection: beyond it the client is too slow.
"""

from __future__ import annotations

import os
import select
from typing import TYPE_CHECKING, Final

import mqtt5

from gateway.edge.sockets import READ, WRITE, Ready, Sockets
from gateway.mqtt.forms import MQTT5
from gateway.mqtt.framing import BadPacket, Reader, short_ack_of
from gateway.sessions.ahead import fetch
from infra.peers import UNKNOWN as UNKNOWN_PEER

if TYPE_CHECKING:
    from gateway.room import Room
    from gateway.sessions.lifetime import Lifetime
    from gateway.sessions.session import Session

UNKNOWN: Final = 1 << 62
"""Bytes in the buffer of a socket that is closing: never drained."""
CHUNK: Final = 4 * 1024
"""Bytes of one read: an acknowledgement has 4, a CONNECT some hundreds."""
LARGE: Final = 64 * 1024
"""Bytes of one read while a packet is under way."""
AT_ONCE: Final = 64
"""Packets of one connection that are handled before others have their turn: a flood of small ones must not hold them up."""
AGAIN: Final = 1 << 30
"""No event of a socket: the link's own, to go on with what it has."""
CLOSED: Final = -1
SUBSCRIBE: Final = 0x82
"""The first byte of a SUBSCRIBE (MQTT 5 §3.8.1)."""


def hung_up(fd: int) -> bool:
    """Has the peer of this socket closed or reset it? Where the system can't tell (no POLLRDHUP): False."""
    poll = select.poll()
    poll.register(fd, getattr(select, "POLLRDHUP", 0))
    return bool(poll.poll(0))


class Link:
    """`gateway.ports.Shell` on a socket."""

    __slots__ = (
        "_closing", "_fd", "_out", "_paused", "_reader", "_room", "_session", "_sockets", "_watched", "direct", "peer",
    )  # fmt: skip

    def __init__(self, room: Room, sockets: Sockets, fd: int, peer: int = UNKNOWN_PEER) -> None:
        """`fd`: a connected socket that does not block; it is the link's from now on. `peer`: see `infra.peers`."""
        self.peer = peer
        self._room = room
        self._sockets = sockets
        self._fd = fd
        self.direct = self._way()
        self._reader: Reader | None = None  # while a packet is under way, or held back
        self._out: bytearray | None = None  # what the kernel has not taken yet
        self._closing = False
        self._paused = False
        self._watched = READ
        sockets.add(fd, self, READ)
        self._session: Session = room.accept(self)
        self._let_read()

    def ready(self, events: int) -> None:
        """See `gateway.edge.sockets.Ready`."""
        if events == AGAIN:
            self._go_on()
            return
        if self._fd == CLOSED:
            self._session.lost()
            return
        if events & WRITE:
            self._drain()
        if events & READ and not self._closing:
            self._read()
        elif events & ~(READ | WRITE):
            self.abort()

    # --- out -----------------------------------------------------------------------------------------------------------

    def write(self, data: bytes, /) -> bool:
        """See `gateway.ports.Shell`."""
        if self._out is not None:
            self._keep(data)
            return False
        try:
            sent = os.write(self._fd, data)
        except BlockingIOError:
            sent = 0
        except OSError:  # the peer has reset it, or it is closed: what follows is the same
            self.abort()
            return False
        if sent == len(data):
            return True
        self._keep(data[sent:])
        return False

    def wrote(self, data: bytes, sent: int) -> None:
        """See `gateway.ports.Shell`."""
        if sent < 0:
            self.abort()
        elif sent < len(data):
            self._keep(data[sent:])

    def _keep(self, data: bytes) -> None:
        if self._closing:
            return
        if self._out is None:
            self._out = bytearray()
            self.direct = CLOSED
        self._out += data
        self._watch()
        if len(self._out) > self._room.settings.max_write_buffer:
            self._session.slow()

    def _drain(self) -> None:
        out = self._out
        if out is None:
            return
        try:
            del out[: os.write(self._fd, out)]
        except BlockingIOError:
            return
        except OSError:
            self.abort()
            return
        if not out:
            self._out = None
            if self._closing:
                self._end()
            else:
                self.direct = self._way()
                self._watch()

    def _way(self) -> int:
        """What `direct` is while nothing is buffered."""
        return self._fd

    def buffered(self) -> int:
        """See `gateway.ports.Shell`. What a closing socket holds is never known to have left."""
        if self._closing:
            return UNKNOWN
        return len(self._out) if self._out is not None else 0

    # --- the end -------------------------------------------------------------------------------------------------------

    def close(self, last: bytes = b"") -> None:
        """See `gateway.ports.Shell`."""
        if self._closing:
            return
        if last:
            self.write(last)
        self._closing = True
        self.direct = CLOSED
        if self._out is None:
            self._end()
        else:
            self._watch()

    def abort(self) -> None:
        """See `gateway.ports.Shell`."""
        self._closing = True
        self._out = None
        self._end()

    def _end(self) -> None:
        """The session hears of it with the next turn of the loop: it may be at work on this very packet."""
        if self._fd != CLOSED:
            self._sockets.close(self._fd)
            self._fd = self.direct = CLOSED
            self._sockets.soon(self, 0)

    @property
    def transport(self) -> str:
        """See `gateway.ports.Shell`."""
        return "mqtt"

    @property
    def names(self) -> frozenset[str] | None:
        """See `gateway.ports.Shell`."""
        return None

    def left(self) -> bool:
        """See `gateway.ports.Shell`. Asked of the kernel, once a CONNECT."""
        return self._fd != CLOSED and hung_up(self._fd)

    # --- in ------------------------------------------------------------------------------------------------------------

    def subscribe_behind(self) -> mqtt5.SubscribePacket | None:
        """See `gateway.ports.Shell`."""
        packet = None if self._reader is None else self._reader.only_packet(SUBSCRIBE, MQTT5)
        return packet if isinstance(packet, mqtt5.SubscribePacket) else None

    def pause_reading(self) -> None:
        """See `gateway.ports.Shell`. The poller hears of it if something comes meanwhile: mostly nothing does."""
        self._paused = True
        self._let_read()

    def resume_reading(self) -> None:
        """See `gateway.ports.Shell`."""
        self._paused = False
        if self._closing:
            return
        self._watch()
        self._let_read()
        if self._reader is not None and not self._reader.busy:
            self._process(self._reader)

    def _watch(self) -> None:
        """Tell the poller what we wait for."""
        events = (READ if not (self._paused or self._closing) else 0) | (WRITE if self._out is not None else 0)
        if events != self._watched:
            self._watched = events
            self._sockets.watch(self._fd, events)

    def _let_read(self) -> None:
        """The turn may read for us what begins a packet. The rest of a long one is read by us, more of it at once."""
        if self._fd != CLOSED:
            self._sockets.let_read(self._fd, may=self._reader is None and not self._paused)

    @staticmethod
    def ahead(owners: list[Ready | None]) -> None:
        """The acknowledgements of these are handled next (gateway/sessions/ahead.py)."""
        sessions: list[Lifetime] = []
        for owner in owners:
            if isinstance(owner, Link):
                sessions.append(owner._session)  # noqa: SLF001 - of links, by a link
        fetch(sessions)

    def acked(self, packet_id: int) -> None:
        """See `gateway.edge.sockets.Reads`. In this turn another may have closed or held us: then it waits as any bytes do."""
        if self._closing:
            return
        if self._reader is None:
            self._heard()
            if self._session.took(packet_id):
                return
        self._receive(short_ack_of(packet_id))

    def came(self, data: bytes) -> None:
        """See `gateway.edge.sockets.Reads`."""
        if self._closing:
            return
        if data:
            self._receive(data)
        else:
            self._hung_up()

    def _read(self) -> None:
        if self._paused:
            self._watch()
            return
        try:
            data = os.read(self._fd, CHUNK if self._reader is None else LARGE)
        except BlockingIOError:
            return
        except OSError:
            self._broken()
            return
        if data:
            self._receive(data)
        else:
            self._hung_up()

    def _broken(self) -> None:
        """The peer has reset it."""
        self.abort()

    def _hung_up(self) -> None:
        """The peer closed its side: so do we."""
        self.close()

    def _receive(self, data: bytes) -> None:
        """Bytes of MQTT came."""
        session = self._session
        self._heard()
        if self._reader is None:
            if session.took_ack(data):
                return
            self._reader = Reader(session.form)
        self._reader.receive_data(data)
        self._process(self._reader)

    def _heard(self) -> None:
        now = self._session.last_seen = self._room.clock()
        if now > self._room.doubtful_after:
            self._room.awake(now)

    def _process(self, reader: Reader) -> None:
        """Hand over every whole packet, until the session holds us."""
        session = self._session
        now = self._room.clock()
        reader.busy, begun = True, False
        try:
            for _ in range(AT_ONCE):
                if session.held:
                    break
                reader.form = session.form
                if packet_id := reader.next_ack():
                    session.acked(packet_id)
                    begun = True
                    continue
                packet = reader.next_packet()
                if packet is None:
                    break
                session.receive(packet, now)
                begun = True
            else:
                self._go_on_later(reader)
        except BadPacket as error:
            session.malformed(error)
        finally:
            reader.busy = False
        if begun:
            session.reading_partial(False, now)  # whatever is held now is another packet than before
        session.reading_partial(not session.held and reader.partial, now)
        if not reader.partial:
            self._reader = None
        self._let_read()

    def _go_on_later(self, reader: Reader) -> None:
        """There may be more, and it is the others' turn: until then it is not even read."""
        if reader.partial and not self._session.held:
            self._paused = True
            self._sockets.soon(self, AGAIN)

    def _go_on(self) -> None:
        if not self._session.held:  # else whoever holds it will release it
            self.resume_reading()
