"""How long a connection lives: its deadlines, its holds, its end, and its time without a socket. Pure, as `session.py`.

`Session` adds what the packets mean; here is what silence, the room and the network do to a connection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gateway import metrics
from gateway.client import Client
from gateway.mqtt import packets
from gateway.mqtt.forms import FIRST
from gateway.ports import Ask, Shell
from gateway.reasons import End, Reason
from gateway.sessions import window
from gateway.sessions.delivery import Delivery
from gateway.sessions.exchange import Owner
from gateway.sessions.flash import FRUITLESS
from gateway.sessions.states import Hold, State
from gateway.sessions.uplinking import Uplinking
from gateway.wheel import IDLE, NEVER

if TYPE_CHECKING:
    from gateway.room import Room
    from gateway.sessions.early import Early

CLOSE_TIMEOUT: Final = 5.0
"""Seconds that a peer has to take the last bytes; then the socket is cut."""
KEEP_ALIVE_FACTOR: Final = 1.5
"""MQTT 5 §3.1.2.10."""
CATCH_UP: Final = 5.0
"""Seconds after a hold in which no PUBACK is missed: what came meanwhile has to be read first."""
AGAIN: Final = "the client connected again"


class Lifetime(Owner):
    """One connection, from its accept to its end; `Session` is the only kind."""

    __slots__ = (
        "_acked", "_ask", "_deadline", "_early", "_expiry", "_held", "_keep_alive", "_resumed", "_room", "_shell", "_sync_due",
        "_token_due", "_uplinking", "client", "connection", "delivery", "dirty", "due_tick", "form", "last_seen", "packet_due",
        "state",
    )  # fmt: skip

    def __init__(self, room: Room, shell: Shell, connection: int, now: float) -> None:
        self.state = State.NEW
        self.client: Client | None = None
        self.delivery: Delivery | None = None
        self.dirty = False
        self._acked = False
        self.due_tick = IDLE
        self._held = 0
        self.last_seen = now
        self._room = room
        self._shell = shell
        self.connection = connection
        self.packet_due = NEVER
        self.form = FIRST
        self._deadline = now + room.settings.connect_timeout
        self._ask: Ask | None = None
        self._early: Early | None = None  # while OPENING: the SUBSCRIBE that came with the CONNECT
        self._keep_alive = 0.0
        self._resumed = 0.0
        self._sync_due = NEVER
        self._token_due = NEVER
        self._uplinking: Uplinking | None = None
        self._expiry = 0
        room.wheel.at(self, self._deadline)

    @property
    def held(self) -> bool:
        """Hand over no packet now."""
        return bool(self._held) or self.state in (State.CLOSED, State.AWAY)

    @property
    def transport(self) -> str:
        """See `gateway.ports.Shell`."""
        return self._shell.transport

    def expect(self, seconds: float) -> None:
        """Before CONNECT: it has to go on within so many seconds from now."""
        self._deadline = self._room.clock() + seconds
        self._room.wheel.at(self, self._deadline)

    # --- holding the reader --------------------------------------------------------------------------------------------

    def _hold(self, why: int) -> None:
        if not self._held:
            self._shell.pause_reading()
        self._held |= why

    def _release(self, why: int) -> None:
        if self._held & why:
            self._held &= ~why
            if not self._held and self.state != State.CLOSED:
                self.last_seen = self._resumed = self._room.clock()
                if self.state == State.OPEN:
                    self._room.wheel.at(self, self._next_due())  # silence and missing acks count again
                self._shell.resume_reading()

    @property
    def peer(self) -> int:
        """The client's address (`gateway.admission.addresses`)."""
        return self._shell.peer

    def _pace(self, now: float) -> None:
        """The client has published something. What comes too fast waits unread; who wants too much for long has to go."""
        publishing = self._room.publishing
        if publishing.published(self, now):
            metrics.paced.inc()
            if publishing.wants_too_much(self, now):
                self.close(Reason.MESSAGE_RATE, End.PUBLISH_RATE, "more published than the rate allows, for too long")
            else:
                self._hold(Hold.PACE)

    def paced(self) -> None:
        """Read it again: the pause of `_pace` is over."""
        self._release(Hold.PACE)

    def _relieved(self) -> None:
        self._release(Hold.UPLINKS)

    def _freed(self) -> None:
        self._release(Hold.WINDOW)

    # --- time ----------------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """The room's flush, some tens of milliseconds after `Room.touch`."""
        if self.delivery is None or self.state != State.OPEN:
            return
        self.delivery.flush()
        self._drained()
        if self._held and self._held & Hold.CHANGES:
            if self.delivery.full:
                self._room.touch(self)
            else:
                self._release(Hold.CHANGES)
        self.wrote()

    def _drained(self) -> None:
        """If all that was written has left for the kernel, what was written at QoS 0 is settled."""
        client = self.client
        if client is None:
            return
        for bind in client.binds:
            if not bind.qos:
                if self._shell.buffered() == 0:
                    self._room.fanout.drained(client)
                return

    def touch(self) -> None:
        """See `gateway.sessions.exchange.Owner`."""
        self._room.touch(self)

    def reading_partial(self, partial: bool, now: float) -> None:
        """A packet has begun (`partial`), or none is open: it must be whole within a time of its own (Slowloris)."""
        if not partial:
            self.packet_due = NEVER
        elif self.packet_due == NEVER and self.state == State.OPEN:
            self.packet_due = now + self._room.settings.packet_timeout
            self._room.wheel.at(self, self.packet_due)

    def buffered(self) -> int:
        """Bytes that the kernel has not taken yet."""
        return self._shell.buffered()

    def wrote(self) -> None:
        """Something was written that wants a PUBACK."""
        if self.state == State.OPEN:
            self._room.wheel.at(self, self._ack_due())

    def check(self, now: float) -> float:
        """See `gateway.wheel.Entry`."""
        if self.state == State.OPEN:
            self._check_open(now)
        elif now >= self._deadline:
            self._check_early()
        if self.state == State.OPEN:
            return self._next_due()
        return self._deadline

    def _check_early(self) -> None:
        if self.state == State.NEW:
            self._finish(b"", End.CONNECT_TIMEOUT)
        elif self.state == State.AWAY:
            self._end(End.SOCKET)
            self._deadline = NEVER
            self._shell.abort()  # after a DISCONNECT the peer may have left its side open
        elif self.state == State.OPENING:
            self._no_answer()
        else:
            self._deadline = NEVER
            self._shell.abort()

    def _check_open(self, now: float) -> None:
        assert self.delivery is not None
        if now >= self._token_due:
            self.close(Reason.NOT_AUTHORIZED, End.TOKEN_EXPIRED, "token expired")
        elif now >= self.packet_due:
            self.close(Reason.PROTOCOL_ERROR, End.PACKET_TIMEOUT, "a packet took too long")
        elif now >= self._keep_alive_due():
            self.close(Reason.KEEP_ALIVE_TIMEOUT, End.KEEP_ALIVE)
        elif now >= self._ack_due():
            self.close(Reason.IMPLEMENTATION, End.ACK_TIMEOUT, "no PUBACK within the ack timeout")
        elif now >= self._sync_due:
            self._sync_due = now + self._room.sync_interval()
            self.delivery.sync_soon()

    def _next_due(self) -> float:
        return min(self._token_due, self.packet_due, self._keep_alive_due(), self._ack_due(), self._sync_due)

    def _keep_alive_due(self) -> float:
        """While we do not read, silence is ours."""
        return self.last_seen + KEEP_ALIVE_FACTOR * self._keep_alive if not self._held else NEVER

    def _ack_due(self) -> float:
        client = self.client
        if client is None or self._held:
            return NEVER
        if client.broadcasts_inflight:
            oldest = min(client.broadcast_at, window.oldest(client))
        elif client.inflight is not None:
            oldest = window.oldest(client)
        else:
            return NEVER
        return max(oldest + self._room.host.policy.ack_timeout, self._resumed + CATCH_UP)

    def resync(self, due: float) -> None:
        """We were cut off: the client gets nothing before a sync was answered, and that is asked at `due`."""
        if self.delivery is None or self.state not in (State.OPEN, State.AWAY):
            return
        self.delivery.fence()
        if self.state == State.OPEN:
            self._sync_due = min(self._sync_due, due)
            self._room.wheel.at(self, self._sync_due)

    def review(self) -> None:
        """The lists have changed: it has to go if they do not admit it any more."""
        raise NotImplementedError

    def _no_answer(self) -> None:
        """The saver has not answered the CONNECT in time."""
        raise NotImplementedError

    # --- the end -------------------------------------------------------------------------------------------------------

    def close(self, code: int, why: End, text: str = "", server_reference: str = "") -> None:
        """Say DISCONNECT with a reason, and close."""
        if self.state == State.CLOSED:
            return
        last = b""
        if self.client is not None:
            last = packets.disconnect(code, text, max_packet=self.client.max_packet, server_reference=server_reference)
        self._finish(last, why)

    def slow(self) -> None:
        """More is buffered than a connection may hold: cut. Its messages stay pending."""
        self._end(End.SLOW)
        self._shell.abort()

    def cut(self) -> None:
        """The room ends now: whoever has not left is cut."""
        self._end(End.MOVING)
        self._shell.abort()

    def lost(self) -> None:
        """The socket is gone; the session may outlive it."""
        if self.state == State.OPEN and self._expiry and not self._room.draining:
            self._go_away()
        elif self.state != State.AWAY:  # else the client said DISCONNECT, and is away since
            self._end(End.SOCKET)
            self._deadline = NEVER
        self._room.left(self)

    def _finish(self, last: bytes, why: End) -> None:
        self._end(why)
        self._deadline = self._room.clock() + CLOSE_TIMEOUT
        self._room.wheel.at(self, self._deadline)
        self._shell.close(last)

    def _end(self, why: End) -> None:
        if self.state == State.CLOSED:
            return
        self._room.write_out()
        if self.state == State.CLOSED:
            return  # it was too slow for that
        was, self.state = self.state, State.CLOSED
        metrics.closed.labels(why).inc()
        if self._ask is not None:  # a connect that is asked again could take the session from where the client is by then
            self._ask.cancel()
        self._take_early()
        if self._uplinking is not None:
            self._uplinking.end()
        if self.client is not None and self.delivery is not None:
            self._drained()
            if was == State.AWAY:
                self._room.kept.drop(self.client.key)
            elif self.delivery.fruitless < FRUITLESS:  # else it was counted when the socket went
                self.delivery.socket_ended(acked=self._acked)
            self._room.unregister(self)
            self.delivery.end(why)

    def _take_early(self) -> Early | None:
        """What came with the CONNECT, once; what is hinted from now on is not for it."""
        early, self._early = self._early, None
        if early is not None:
            self._room.expects_no_more(early)
        return early

    # --- away and back (gateway/sessions/flash.py) ------------------------------------------------------------------------------

    @property
    def resumable(self) -> bool:
        """Was this client promised that its session outlives its socket?"""
        return self.state == State.AWAY or (self.state == State.OPEN and self._expiry > 0)

    def give_way(self) -> bool:
        """Another socket of the client is here, and may go on with the session: this one, if it is still open, is taken over
        (MQTT 5 §3.1.4). False if the session has to end instead."""
        if self.state == State.OPEN:
            assert self.client is not None
            self._shell.close(packets.disconnect(Reason.TAKEN_OVER, AGAIN, max_packet=self.client.max_packet))
            self._go_away()
        return self.state == State.AWAY

    def hand_over(self) -> Delivery:
        """Another socket goes on with this session."""
        assert self.delivery is not None
        self.state = State.CLOSED
        self._deadline = self._room.clock() + CLOSE_TIMEOUT  # what is left of the old socket is cut then
        self._room.wheel.at(self, self._deadline)
        return self.delivery

    def _go_away(self) -> None:
        assert self.client is not None
        assert self.delivery is not None
        self.delivery.socket_ended(acked=self._acked)
        if self.delivery.fruitless >= FRUITLESS:
            self._end(End.SOCKET)
            self._deadline = NEVER
            return
        self.state = State.AWAY
        metrics.away.inc()
        if self._uplinking is not None:
            self._uplinking.end()
            self._uplinking = None
        self.delivery.away()
        self._room.kept.add(self.client.key, self)
        self._deadline = self._room.clock() + self._expiry
        self._room.wheel.at(self, self._deadline)
