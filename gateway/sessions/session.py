"""The protocol of one connection, without a socket, a loop or a clock: packets in, calls out, `now` passed in.

The table `HANDLERS` is the machine: what is not in it is a protocol error (MQTT 5 §4.13). Most PUBACKs are
handled by a direct call (`acked`): a packet object for each would cost more than its handling. The shell
(`gateway/edge/link.py`) feeds packets, calls `check()` when the wheel says so, and `lost()` at the end.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import mqtt5

from gateway import metrics
from gateway.admission import refresh
from gateway.admission.auth import Refusal
from gateway.admission.gate import refusal
from gateway.admission.identity import identify
from gateway.admission.lists import Verdict
from gateway.admission.refresh import Refresh
from gateway.client import FIRST_BROADCAST_ID, Client
from gateway.mqtt import packets
from gateway.mqtt.forms import MQTT5, MQTT311, OldProtocol
from gateway.mqtt.framing import SHORT_ACK, BadPacket, Incoming, OldConnect, short_ack
from gateway.mqtt.mqtt311 import CONNACK_31_VERSION, OldShell
from gateway.ports import Shell
from gateway.reasons import End, Reason
from gateway.sessions.delivery import Delivery
from gateway.sessions.early import Early
from gateway.sessions.flash import may_return
from gateway.sessions.lifetime import Lifetime
from gateway.sessions.pulling import Pull
from gateway.sessions.states import IN_WORDS, Hold, State, Violation
from gateway.sessions.subscribing import check, not_offered
from gateway.sessions.uplinking import Refused, Uplinking, accept, asked_for
from gateway.wheel import NEVER
from infra.tokens import Grant
from infra.wire import ELSEWHERE, OK, ConnectItem, ConnectResult
from schemas import names

if TYPE_CHECKING:
    from gateway.room import Room

SAVER_TIMEOUT: Final = 5.0

UNLIMITED: Final = 1 << 28
"""Larger than any packet (MQTT 5 §2.1.4)."""


class Session(Lifetime):
    """What the packets of one connection mean."""

    __slots__ = ("_connect", "_grant", "_refresh")

    def __init__(self, room: Room, shell: Shell, connection: int, now: float) -> None:
        super().__init__(room, shell, connection, now)
        self._connect: mqtt5.ConnectPacket | None = None
        self._grant: Grant | None = None
        self._refresh: Refresh | None = None

    # --- packets -------------------------------------------------------------------------------------------------------

    def receive(self, packet: Incoming, now: float) -> None:
        """Handle one packet. Call it only while not `held`."""
        handler = HANDLERS.get((self.state, type(packet)))
        try:
            if handler is None:
                raise Violation(Reason.PROTOCOL_ERROR, f"{type(packet).__name__} while {IN_WORDS[self.state]}")
            handler(self, packet, now)
        except Violation as violation:
            self.close(violation.code, End.PROTOCOL, violation.text)

    def malformed(self, error: BadPacket) -> None:
        """What came is no packet of ours."""
        if self.state == State.NEW:
            self._refuse_bytes(error)
        else:
            self.close(error.code, End.PROTOCOL, error.text)

    def _refuse_bytes(self, error: BadPacket) -> None:
        """Before CONNECT was understood only a version is answered; to the rest nothing is owed (MQTT 5 §4.13.1)."""
        metrics.refused.labels("version" if error.code == Reason.UNSUPPORTED_VERSION else "malformed").inc()
        if isinstance(error, OldProtocol):
            self._finish(CONNACK_31_VERSION, End.REFUSED)
        elif error.code == Reason.UNSUPPORTED_VERSION:
            self._finish(packets.connack_refused(error.code, error.text), End.REFUSED)
        else:
            self._finish(b"", End.REFUSED)

    def _pingreq(self, packet: mqtt5.PingReqPacket, now: float) -> None:
        self._shell.write(packets.PINGRESP)

    def _puback(self, packet: mqtt5.PubAckPacket, now: float) -> None:
        self.acked(packet.packet_id, int(packet.reason_code))

    def acked(self, packet_id: int, reason: int = 0) -> None:
        """A PUBACK. Call it only while the session is open and not `held`."""
        assert self.client is not None
        assert self.delivery is not None
        self._acked = True
        if packet_id >= FIRST_BROADCAST_ID:
            self._room.fanout.puback(self.client, packet_id, reason)
            self.delivery.pump()
        else:
            self.delivery.puback(packet_id, reason)

    def took_ack(self, data: bytes) -> bool:
        """If these bytes, which begin a packet, are one PUBACK that says success and nothing else: handle it. Half of what comes
        is that (`Reader.next_ack` has those that come with others)."""
        packet_id = short_ack(data) if len(data) == SHORT_ACK else 0
        return packet_id > 0 and self.took(packet_id)

    def took(self, packet_id: int) -> bool:
        """The same for the packet id of such a PUBACK. False if it has to wait, or to be judged: now is not the time for one."""
        if self.state != State.OPEN or self._held:
            return False
        self.acked(packet_id)
        return True

    def _change(self, packet: mqtt5.SubscribePacket | mqtt5.UnsubscribePacket, now: float) -> None:
        assert self.client is not None
        assert self.delivery is not None
        check(packet, self.client.max_packet)
        if not self._old and (refused := not_offered(packet)) is not None:
            metrics.binds_refused.labels(f"0x{refused.code:02x}").inc()
            raise Violation(refused.code, refused.text)
        self.delivery.change(packet)
        if self.delivery.full:
            self._hold(Hold.CHANGES)
            self._room.touch(self)

    def _publish(self, packet: mqtt5.PublishPacket, now: float) -> None:
        if packet.qos == mqtt5.QoS.EXACTLY_ONCE:
            raise Violation(Reason.QOS_NOT_SUPPORTED, "QoS 2 is not offered")
        if packet.retain:
            raise Violation(Reason.RETAIN_NOT_SUPPORTED, "retained messages are not offered")
        if packet.topic_alias is not None:
            raise Violation(Reason.TOPIC_ALIAS, "topic aliases are not offered")
        if packet.subscription_ids:
            raise Violation(Reason.PROTOCOL_ERROR, "a client's PUBLISH has no subscription identifier")
        if self._old and self._repeated(packet):
            return
        if packet.topic.startswith("pull/") and not self._old:  # who speaks the old version has every body already
            self._pull(packet)
        else:
            self._uplink(packet)
        self._pace(now)

    def _repeated(self, packet: mqtt5.PublishPacket) -> bool:
        """An uplink of MQTT 3.1.1 that is sent again though its PUBACK is still to come, as old libraries do after a while (its
        §4.4): nothing is to be done."""
        return packet.duplicate and self._uplinking is not None and packet.packet_id in self._uplinking.unacked

    def _checked_id(self, packet: mqtt5.PublishPacket) -> int:
        """The packet id of what the client publishes, 0 at QoS 0. Raises Violation where it is in use, or beyond our window."""
        assert self.delivery is not None
        packet_id = packet.packet_id or 0  # the codec has one at QoS 1 only
        if packet.qos != mqtt5.QoS.AT_LEAST_ONCE:  # the codec's QoS is true even for 0
            return 0
        unacked = self._uplinking.unacked if self._uplinking is not None else set()
        pulls = self.delivery.pulls
        if not packet_id or packet_id in unacked or (pulls is not None and pulls.has(packet_id)):
            raise Violation(Reason.PROTOCOL_ERROR, f"packet id {packet_id} is 0 or in use")
        if len(unacked) + (len(pulls) if pulls is not None else 0) >= packets.RECEIVE_MAXIMUM:
            raise Violation(Reason.RECEIVE_MAXIMUM, f"more than {packets.RECEIVE_MAXIMUM} uplinks and pulls unacknowledged")
        return packet_id

    def _pull(self, packet: mqtt5.PublishPacket) -> None:
        assert self.delivery is not None
        packet_id = self._checked_id(packet)
        try:
            pull = Pull(*asked_for(packet), packet_id)
        except Refused as refused:
            metrics.pulls.labels("refused").inc()
            self._published(packet_id, refused.code, refused.text)
            return
        self.delivery.pull(pull)

    def _uplink(self, packet: mqtt5.PublishPacket) -> None:
        assert self.client is not None
        assert self._grant is not None
        packet_id = self._checked_id(packet)
        try:
            room = self._room
            number = room.uplink_number(self.client)
            item = accept(packet, self.client, self._grant, room.host.products, room=room.id, number=number)
        except Refused as refused:
            metrics.uplinks.labels("refused_here").value += 1
            self._published(packet_id, refused.code, refused.text)
            return
        if self._uplinking is None:
            self._uplinking = Uplinking(
                self._room.uplinks, self._published, self._shell.write, freed=self._freed, relieved=self._relieved
            )
        self._uplinking.add(item, packet_id)
        if self._uplinking.blocked:
            self._hold(Hold.UPLINKS)
        if self._old and len(self._uplinking.unacked) >= packets.RECEIVE_MAXIMUM:
            self._hold(Hold.WINDOW)  # it was never told of a Receive Maximum: what comes beyond is read later

    def _published(self, packet_id: int, code: int, text: str) -> None:
        """Answer a PUBLISH; at QoS 0 (`packet_id` 0) nothing is. MQTT 3.1.1 can't say no: it asks to close then (its §3.3.5)."""
        assert self.client is not None
        if not packet_id:
            return
        if code >= Reason.UNSPECIFIED and self._old:
            self.close(code, End.PROTOCOL, text)
            return
        self._shell.write(self.client.explain(partial(packets.puback, packet_id, code), text))

    def _disconnect(self, packet: mqtt5.DisconnectPacket, now: float) -> None:
        expiry = packet.session_expiry_interval
        if expiry is not None:
            if expiry and not self._expiry:
                raise Violation(Reason.PROTOCOL_ERROR, "Session Expiry Interval was 0 in CONNECT")
            self._expiry = min(expiry, self._room.host.policy.flash_window_s)
        if self._expiry:
            self._shell.close()
            self._go_away()
        else:
            self._finish(b"", End.NORMAL)

    def _auth(self, packet: mqtt5.AuthPacket, now: float) -> None:
        """See `gateway.admission.refresh`."""
        assert self.delivery is not None
        if self._refresh is None:
            raise Violation(Reason.PROTOCOL_ERROR, "AUTH is for who named an authentication method in CONNECT")
        wall = self._room.wall()
        grant = self._refresh.grant(packet, self.delivery, self._room.verifier, now, wall)
        self._grant = self.delivery.grant = grant
        self._token_due = now + (grant.expires_at - wall)
        self._room.wheel.at(self, self._token_due)
        self._shell.write(refresh.DONE)

    @property
    def grant(self) -> Grant | None:
        """What its token allows; None before it was verified."""
        return self._grant

    def revoke(self) -> None:
        """The token is revoked."""
        if self.state == State.OPENING and self._connect is not None:
            self._refuse(Refusal(Reason.NOT_AUTHORIZED, "revoked", "the token was revoked"), self._connect)
        else:
            self.close(Reason.NOT_AUTHORIZED, End.REVOKED, "the token was revoked")

    # --- CONNECT -------------------------------------------------------------------------------------------------------

    @property
    def _old(self) -> bool:
        """Does it speak MQTT 3.1.1?"""
        return isinstance(self._shell, OldShell)

    def _old_connect_packet(self, old: OldConnect, now: float) -> None:
        self._shell = OldShell(self._shell)
        self._connect_packet(old.packet, now)

    def _connect_packet(self, packet: mqtt5.ConnectPacket, now: float) -> None:
        room = self._room
        if self._shell.left():  # while we were stopped, or overloaded: by now the client has its session elsewhere
            metrics.refused.labels("left").inc()
            self._finish(b"", End.SOCKET)
            return
        try:
            identify(self._shell.names, packet.client_id)
            grant = room.admit(packet, self._shell.peer)
            self._check_size(packet)
        except Refusal as refusal:
            self._refuse(refusal, packet)
            return
        kept = room.resumable(grant.key)
        if kept is not None and may_return(kept, packet, grant, old=self._old) and kept.give_way():
            self._return(kept, packet, grant)
            return
        room.make_place()
        self.state = State.OPENING
        self._connect, self._grant = packet, grant
        self._deadline = now + SAVER_TIMEOUT
        self._hold(Hold.OPENING)
        room.wheel.at(self, self._deadline)
        if not room.holds(grant.key) and (subscribe := self._shell.subscribe_behind()) is not None:
            self._early = room.expects(Early(subscribe, packet, grant, room.host))
        self._ask_for_session()

    def _check_size(self, packet: mqtt5.ConnectPacket) -> None:
        """No answer may be larger than the client takes (MQTT 5 §3.1.2.11.4), and the first one has a least size."""
        if packet.max_packet_size is None:
            return
        least = packets.connack_size(self._room.id, packet.authentication_method)
        if packet.max_packet_size < least:
            text = f"a Maximum Packet Size of {packet.max_packet_size} bytes, less than the {least} of a CONNACK"
            raise Refusal(Reason.PACKET_TOO_LARGE, "max_packet", text)

    def _ask_for_session(self, seen: tuple[int, int] = (0, 0), until_ms: int = 0) -> None:
        assert self._grant is not None
        room = self._room
        first = None if self._early is None else self._early.first
        item = ConnectItem(self._grant.key, room.id, room.epoch, self.connection, seen, until_ms, first)
        ask = room.host.saver.connect(item, self._connected)
        if self.state == State.OPENING:
            self._ask = ask

    def _refuse(self, refusal: Refusal, packet: mqtt5.ConnectPacket) -> None:
        metrics.refused.labels(refusal.kind).inc()
        retry = refusal.retry_after
        if not retry and refusal.code in (Reason.SERVER_BUSY, Reason.SERVER_UNAVAILABLE):
            retry = self._room.gate.soon()  # a saver that is away refuses all of them at once
        answer = packets.connack_refused(refusal.code, refusal.text, retry_after=retry, max_packet=packet.max_packet_size)
        self._finish(answer, End.REFUSED)

    def review(self) -> None:
        """See `Lifetime.review`. Before CONNECT only the address is known."""
        client_id = None if self._grant is None else names.split_client_key(self._grant.key)[1]
        verdict = self._room.gate.verdict(self.peer, client_id)
        if verdict is Verdict.ADMITTED or self.state == State.CLOSED:
            return
        if self._connect is not None:
            self._refuse(refusal(verdict), self._connect)
        else:
            code = Reason.ADMINISTRATIVE if verdict is Verdict.DENIED else Reason.NOT_AUTHORIZED
            self.close(code, End.DENIED, "an operator does not admit this client any more")

    def _connected(self, result: ConnectResult | None) -> None:
        """The saver's answer: the session, or that a later connection has the client, or another room."""
        assert self._connect is not None
        self._ask = None
        if self.state != State.OPENING:
            self._too_late(result)
        elif result is None:
            self._no_answer()
        elif result.status == ELSEWHERE:
            self._take_over(result)
        elif result.status != OK:
            self._finish(b"", End.TAKEN_OVER)
        else:
            self._open(result, self._connect)

    def _take_over(self, other: ConnectResult) -> None:
        """Another room has the client: take it from there, but only while we wait. A request that is delayed for longer, on its
        way or in a saver that stood still, must not take the client from where it has gone when we gave it up."""
        left = self._deadline - self._room.clock()
        if left <= 0:
            self._no_answer()  # we stood still ourselves
        else:
            self._ask_for_session((other.generation, other.number), other.now_ms + int(left * 1000))

    def _no_answer(self) -> None:
        if self._connect is not None:
            self._refuse(Refusal(Reason.SERVER_UNAVAILABLE, "saver", "sessions are not available now"), self._connect)

    def _too_late(self, result: ConnectResult | None) -> None:
        """The client did not wait. The register has its session, so it must hear of the end too."""
        if result is not None and result.status == OK:
            assert self._grant is not None
            self._room.forget_session(self._grant.key, result, End.UNAVAILABLE)

    def _open(self, result: ConnectResult, packet: mqtt5.ConnectPacket) -> None:
        assert self._grant is not None
        room, policy = self._room, self._room.host.policy
        client = Client(
            self._grant.key,
            self.connection,
            self._shell,
            receive_max=min(packet.receive_max, policy.window),
            max_packet=packet.max_packet_size or UNLIMITED,
            soft_cap=room.soft_cap,
            whole=self._old,
        )
        client.generation, client.number = result.generation, result.number
        client.reasons = packet.request_problem_info
        if not room.register(self, client):
            self._finish(b"", End.TAKEN_OVER)
            return
        self._connect = None
        self.client = client
        self.delivery = Delivery(client, self._grant, room.host, self)
        self.state = State.OPEN
        self._start_timers(packet)
        early, connack = self._take_early(), self._connack(present=False)
        if early is not None and result.bound is not None and not early.doubtful:
            early.concluded(self.delivery, result.bound, connack)
        else:
            self._shell.write(connack)
            if early is not None:
                self.receive(early.packet, room.clock())
        self._release(Hold.OPENING)

    def _connack(self, *, present: bool) -> bytes:
        return packets.connack(
            keep_alive=int(self._keep_alive),
            max_packet=MQTT5.limit,
            room=self._room.id,
            expiry=self._expiry,
            present=present,
            method=None if self._refresh is None else refresh.METHOD,
        )

    def _return(self, kept: Lifetime, packet: mqtt5.ConnectPacket, grant: Grant) -> None:
        """The client is back in time: everything is as it was, and nobody was asked."""
        room = self._room
        self.client, self.delivery, self._grant = kept.client, kept.hand_over(), grant
        client = self.client
        assert client is not None
        client.receive_max = min(packet.receive_max, room.host.policy.window)
        client.max_packet = packet.max_packet_size or UNLIMITED
        client.reasons = packet.request_problem_info
        room.returned(self, client)
        first = self.delivery.back(self._shell, grant, self)
        self.state = State.OPEN
        self._start_timers(packet)
        self._sync_due = room.clock() + room.return_delay()
        room.wheel.at(self, self._next_due())
        self._shell.write(b"".join((self._connack(present=True), *first)))
        self.delivery.pump()

    def _start_timers(self, packet: mqtt5.ConnectPacket) -> None:
        """Set what is due; the appointment with the wheel is the caller's."""
        room, now = self._room, self._room.clock()
        assert self._grant is not None
        self._keep_alive = float(room.keep_alive(packet, dictated=not self._old))
        self._refresh = None if packet.authentication_method is None else Refresh(now)
        self._expiry = min(packet.session_expiry_interval or 0, room.host.policy.flash_window_s)
        self._token_due = now + (self._grant.expires_at - room.wall())
        self._sync_due = now + room.sync_interval()
        self._deadline = NEVER
        self.form = MQTT311 if self._old else MQTT5
        self.last_seen = now


HANDLERS: Final[dict[tuple[int, type[Any]], Callable[[Session, Any, float], None]]] = {
    (State.NEW, mqtt5.ConnectPacket): Session._connect_packet,
    (State.NEW, OldConnect): Session._old_connect_packet,
    (State.OPEN, mqtt5.PublishPacket): Session._publish,
    (State.OPEN, mqtt5.PubAckPacket): Session._puback,
    (State.OPEN, mqtt5.SubscribePacket): Session._change,
    (State.OPEN, mqtt5.UnsubscribePacket): Session._change,
    (State.OPEN, mqtt5.PingReqPacket): Session._pingreq,
    (State.OPEN, mqtt5.DisconnectPacket): Session._disconnect,
    (State.OPEN, mqtt5.AuthPacket): Session._auth,
}
