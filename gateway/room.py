"""One room: who is connected, what is shared by all, and what the workers say to it. No socket and no loop in here."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import mqtt5
import structlog

from gateway import metrics
from gateway.admission.auth import Refusal
from gateway.admission.gate import Gate
from gateway.admission.identity import authorize
from gateway.admission.publish_rate import PublishRate
from gateway.broadcast.sender import Sender
from gateway.client import Client, bind_to
from gateway.host import Host
from gateway.ports import FanOut, Shell, Uplinks
from gateway.reasons import End, Reason
from gateway.sessions.ahead import fetch
from gateway.sessions.changes import Left
from gateway.sessions.delivery import BEHIND, DROPPED, GONE, WRITTEN
from gateway.sessions.early import Early
from gateway.sessions.flash import SYNC_WITHIN, Kept
from gateway.sessions.lifetime import Lifetime
from gateway.sessions.outbox import Outbox
from gateway.sessions.session import Session
from gateway.sessions.states import State
from gateway.wheel import IDLE, NEVER, Wheel
from infra.documents import Access
from infra.settings import RoomSettings
from infra.tokens import Grant, Verifier
from infra.wire import ConnectResult, ControlReply, DisconnectItem, Hint, HintResult, Kick, Leave

FLUSH_DELAY: Final = 0.06
"""Seconds that acks gather before a sync carries them."""

RESYNC_SPREAD: Final = 2.0
"""Seconds over which all clients are synced after NATS was away, at least; `policy.resync_rate` stretches it."""

JITTER: Final = 0.1

SIDE_BY_SIDE: Final = 128
"""Sessions of a flush that are fetched together: more would not stay in the caches until their turn."""

REVIEWED_AT_ONCE: Final = 500
"""Connections that are checked against changed lists in a tick, at most."""

log = structlog.get_logger("room")

_RESULTS: Final = {outcome: HintResult(outcome) for outcome in ("written", "behind", "gone", "dropped")}


class Room:
    """The registry and the shared parts.

    `later(seconds, call)` runs a call once, later: the only timer besides the wheel. `wall` is the time of day (for tokens),
    `clock` the monotonic one (for everything else), both in seconds; `memory`: see `gateway.admission.gate.Gate`; `sender`
    writes what a batch of hints brings.
    """

    def __init__(
        self,
        *,
        room: str,
        epoch: int,
        settings: RoomSettings,
        host: Host,
        verifier: Verifier,
        uplinks: Uplinks,
        fanout: FanOut,
        sender: Sender,
        clock: Callable[[], float],
        wall: Callable[[], float],
        later: Callable[[float, Callable[[], None]], object],
        memory: Callable[[], float],
    ) -> None:
        self.id = room
        self.epoch = epoch
        self.settings = settings
        self.host = host
        self.verifier = verifier
        self.uplinks = uplinks
        self.fanout = fanout
        self.clock = clock
        self.wall = wall
        self.wheel = Wheel(clock())
        self.draining = False
        self.ending = False
        self.soft_cap = settings.max_write_buffer // 2
        self._later = later
        self._outbox = Outbox(sender)
        self.kept = Kept()
        self.gate = Gate(
            settings,
            policy=host.ask_policy,
            batches=lambda: host.saver.unanswered + uplinks.unanswered,
            memory=memory,
            now=clock(),
        )
        self.publishing: PublishRate[Lifetime] = PublishRate(host.ask_policy)
        self._access = Access()
        self._unreviewed: list[Lifetime] = []
        self._clients: dict[str, Lifetime] = {}
        self._expected: dict[str, Early] = {}  # client key → what came with its CONNECT
        self._sessions: set[Lifetime] = set()
        self._dirty: list[Lifetime] = []
        self._connections = 0
        self._uplink_count = 0
        self.doubtful_after = NEVER

    @property
    def connections(self) -> int:
        """Clients with a session here."""
        return len(self._clients)

    @property
    def sessions(self) -> Iterable[Lifetime]:
        """All open connections, authenticated or not."""
        return tuple(self._sessions)

    # --- connections ---------------------------------------------------------------------------------------------------

    def let_in(self, address: int) -> bool:
        """A socket was accepted: may it stay? If not, reset it: nothing is kept of it. Else `accept` it."""
        return self.gate.let_in(address, len(self._sessions), self.clock())

    def accept(self, shell: Shell) -> Session:
        """A socket was let in; its end is to be told by `Session.lost`. Its number only grows."""
        self._connections += 1
        session = Session(self, shell, self._connections, self.clock())
        self._sessions.add(session)
        metrics.accepted.value += 1
        return session

    def left(self, session: Lifetime) -> None:
        """A socket is gone."""
        if session in self._sessions:
            self._sessions.remove(session)
            self.gate.leave(session.peer)
        self.publishing.forget(session)

    def admit(self, packet: mqtt5.ConnectPacket, address: int) -> Grant:
        """What the client may that connects from there. Raises Refusal if it is not let in, or nobody is now."""
        now = self.clock()
        if self.draining:
            raise Refusal(Reason.USE_ANOTHER_SERVER, "draining", "this room is moving its clients")
        self.gate.admit(packet.client_id, address, now)
        if len(self._sessions) > self.settings.max_connections:
            raise Refusal(Reason.SERVER_BUSY, "full", "this room is full")
        grant = authorize(packet, self.verifier, self.wall())
        self.gate.connects(grant.key, now)
        return grant

    def load(self, access: Access) -> None:
        """The keeper's lists, whenever they may have changed. Who is here and not admitted any more is closed, some a tick."""
        if access != self._access:
            self._access = access
            self.gate.load(access)
            self._unreviewed = list(self._sessions.union(self._clients.values()))

    def _review(self) -> None:
        batch = self._unreviewed[-REVIEWED_AT_ONCE:]
        del self._unreviewed[-REVIEWED_AT_ONCE:]
        for session in batch:
            session.review()

    def make_place(self) -> None:
        """A client that is let in needs one: kept sessions count as connections, and the one that waits longest goes."""
        if len(self.kept) and len(self._sessions) + len(self.kept) > self.settings.max_connections:
            self.kept.oldest().close(Reason.SERVER_BUSY, End.SOCKET)

    def resumable(self, key: str) -> Lifetime | None:
        """The session that a client may go on with: its socket is gone, or is about to be taken over."""
        session = self._clients.get(key)
        return session if session is not None and session.resumable else None

    def holds(self, key: str) -> bool:
        """Has the client a session here? What it acknowledged there the saver may hear as late as when that ends."""
        return key in self._clients

    def register(self, session: Lifetime, client: Client) -> bool:
        """A client has its session; an older connection of it ends. False if a newer one is here already."""
        older = self._clients.get(client.key)
        if older is not None:
            if older.connection > session.connection:
                return False
            older.close(Reason.TAKEN_OVER, End.TAKEN_OVER, "the client connected again")
        self._clients[client.key] = session
        return True

    def returned(self, session: Lifetime, client: Client) -> None:
        """A client is back in its kept session, by another socket."""
        self.kept.drop(client.key)
        self._clients[client.key] = session
        metrics.returned.inc()

    def return_delay(self) -> float:
        """Seconds until a returned client's sync, where nothing is known to wait for it."""
        return random.uniform(0.5, SYNC_WITHIN)

    def end_kept(self) -> None:
        """Nobody can come back any more: the sessions of those who are away end."""
        while len(self.kept):
            self.kept.oldest().close(Reason.USE_ANOTHER_SERVER, End.MOVING)

    def unregister(self, session: Lifetime) -> None:
        """A client's connection ended."""
        assert session.client is not None
        if self._clients.get(session.client.key) is session:
            del self._clients[session.client.key]

    def expects(self, early: Early) -> Early:
        """A client is let in and bound in one step: until `expects_no_more` it is told which hints it misses."""
        if (older := self._expected.get(early.key)) is not None:
            older.lost_sight()
        self._expected[early.key] = early
        return early

    def expects_no_more(self, early: Early) -> None:
        """It is in, or will not be."""
        if self._expected.get(early.key) is early:
            del self._expected[early.key]

    def forget_session(self, key: str, result: ConnectResult, why: End) -> None:
        """The saver gave a session to a connection that is gone."""
        self.host.saver.disconnect(DisconnectItem(key, self.id, self.epoch, result.generation, result.number, why, [], []))

    # --- numbers that policy gives -------------------------------------------------------------------------------------

    def keep_alive(self, packet: mqtt5.ConnectPacket, *, dictated: bool = True) -> int:
        """Server Keep Alive: by the network that the client names, or less if it asks for less. Seconds. Where it can't be
        `dictated`, the client's own, and ours only if it has none."""
        policy = self.host.policy
        most = policy.keep_alive_default
        for name, value in packet.user_properties:
            if name == "network":
                most = policy.keep_alive.get(value, most)
                break
        if dictated and packet.keep_alive:
            return min(packet.keep_alive, most)
        return packet.keep_alive or most

    def sync_interval(self) -> float:
        """Seconds until a client's next sync, jittered."""
        return self.host.policy.sync_interval * (1 + JITTER * (2 * random.random() - 1))

    def uplink_number(self, client: Client) -> str:
        """An uplink's id, where the client gives none: unique for this boot of this room."""
        self._uplink_count += 1
        return f"{self.id[:16]}.{self.epoch}.{client.number}.{self._uplink_count}"

    # --- flush ---------------------------------------------------------------------------------------------------------

    def touch(self, session: Lifetime) -> None:
        """Have `session.flush()` called soon, together with others."""
        if not session.dirty:
            session.dirty = True
            self._dirty.append(session)
            if len(self._dirty) == 1:
                self._later(FLUSH_DELAY, self.flush)

    def watch(self, client: Client) -> None:
        """The fan-out wrote at QoS 0: tell it when the buffer has drained. Mostly the kernel took all of it at once."""
        session = self._clients.get(client.key)
        if session is None:
            return
        if session.buffered() == 0:
            self.fanout.drained(client)
        else:
            self.touch(session)

    def flush(self) -> None:
        """Flush every touched session. One whose buffer is not empty is looked at again."""
        dirty, self._dirty = self._dirty, []
        for session in dirty:
            session.dirty = False
        for start in range(0, len(dirty), SIDE_BY_SIDE):
            some = dirty[start : start + SIDE_BY_SIDE]
            fetch(some)
            for session in some:
                session.flush()

    # --- time ----------------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Time passes: call it every `RESOLUTION` seconds."""
        self.awake(now)
        self.wheel.advance(now)
        self.gate.tick(now)
        metrics.connections.set(len(self._sessions))
        metrics.clients.set(len(self._clients))
        for session in self.publishing.due(now):
            session.paced()
        if self._unreviewed:
            self._review()

    def awake(self, now: float) -> None:
        """Note that we run. After `doubtful_after` we were stopped for longer than a lease: our clients may be elsewhere by now.

        Whoever takes bytes from outside calls it first when that time has passed: they may be read before the next tick.
        """
        after, self.doubtful_after = self.doubtful_after, now + self.host.policy.lease_dead_after
        if now > after:
            log.warning("stopped for a while: no client gets anything before it was synced", room=self.id)
            self.resync()

    # --- what workers say ----------------------------------------------------------------------------------------------

    def push(self, hints: Sequence[Hint], *, brief: bool = False) -> list[HintResult]:
        """`room.{room}.push`: one result a hint; none at all where each was written, and that may be said `brief`ly."""
        now = self.clock()
        if now > self.doubtful_after:
            self.awake(now)
        soon = self.wheel.tick(now + self.host.policy.ack_timeout)
        outcomes: list[str] = []
        try:
            for hint, session in zip(hints, self._found(hints), strict=True):
                outcomes.append(self._push(hint, session, now, soon))
        finally:
            self._outbox.send()
        for outcome, count in Counter(outcomes).items():
            metrics.hints.labels(outcome).inc(count)
        if brief and outcomes.count(WRITTEN) == len(outcomes):
            return []
        return [_RESULTS[outcome] for outcome in outcomes]

    def write_out(self) -> None:
        """Write what a batch of hints has gathered so far: what becomes of a connection that ends is told by what was written."""
        self._outbox.send()

    def _found(self, hints: Sequence[Hint]) -> list[Lifetime | None]:
        """Whom they are for, as far as they are here."""
        clients = self._clients
        found = [clients.get(hint.key) for hint in hints]
        fetch(found)
        return found

    def _push(self, hint: Hint, session: Lifetime | None, now: float, soon: int) -> str:
        """`session`: the client's when the batch began; `soon`: the tick in which what is written now has to be acknowledged."""
        if session is not None and session.state == State.CLOSED:
            session = self._clients.get(hint.key)
        message = hint.message
        delivery = session.delivery if session is not None else None
        if session is None or delivery is None or delivery.client.number != hint.number:
            return self._missed(hint.key, hint.product, message.n)
        outcome = delivery.hint(hint.product, message, self._outbox, now)
        if outcome == WRITTEN and not IDLE < session.due_tick <= soon:  # else it is looked at by then
            session.wrote()
        return outcome

    def _missed(self, key: str, product: str, n: int) -> str:
        """A hint for a session that is not here, or not yet."""
        if not n:
            return DROPPED
        early = self._expected.get(key)
        return BEHIND if early is not None and early.missed(product, n) else GONE

    def kick(self, order: Kick) -> ControlReply:
        """`room.{room}.control`: close one session, if it is this one."""
        session = self._ordered(order)
        if session is None:
            return ControlReply("gone")
        why = End.TAKEN_OVER if order.code == Reason.TAKEN_OVER else End.KICKED
        code = order.code if 0x80 <= order.code <= 0xA2 else Reason.ADMINISTRATIVE
        session.close(code, why, order.reason)
        return ControlReply("ok")

    def leave(self, order: Leave) -> ControlReply:
        """`room.{room}.control`: take a client out of a product, if it is this session's and bound."""
        session = self._ordered(order)
        if session is None or session.delivery is None or bind_to(session.delivery.client.binds, order.product) is None:
            return ControlReply("gone")
        if session.delivery.full:
            return ControlReply("refused")
        session.delivery.change(Left(order.product))
        return ControlReply("ok")

    def _ordered(self, order: Kick | Leave) -> Lifetime | None:
        """The session that is meant, if it is here."""
        session = self._clients.get(order.key)
        if session is None or session.client is None:
            return None
        meant = (session.client.generation, session.client.number) == (order.generation, order.number)
        return session if meant else None

    def resync(self) -> None:
        """NATS was away, or we were: sync all, spread. Until its sync is answered a client gets nothing by hints and slices. Who
        is being let in with a bind is no client yet: that is asked for once more."""
        now = self.clock()
        for early in self._expected.values():
            early.doubtful = True
        spread = max(RESYNC_SPREAD, len(self._clients) / self.host.policy.resync_rate)
        for session in self._clients.values():
            session.resync(now + random.uniform(0, spread))

    def register_opened(self) -> None:
        """Redis lost something and is whole again: what we saved there may be gone, and numbers begin anew."""
        for session in self._clients.values():
            if session.client is not None:
                for bind in session.client.binds:
                    bind.saved = 0
        self.resync()
