"""One client's unicast: hints, pages, acks, and the one request that it may have at the saver (docs/design.md, Unicast 4–8).

The invariant: behind, connected, idle, and a place and buffer to write to ⇒ a sync is asked, whatever freed the place. Every
method that may change one of those ends in `pump()`; what waits for the flush is on the room's list (`Room.touch`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import zip_longest
from typing import Final

import mqtt5

from gateway import metrics, packets
from gateway.auth import Grant
from gateway.client import BindState, Client
from gateway.flash import AWAY, again, unacknowledged
from gateway.host import Host
from gateway.ports import Ask, Shell
from gateway.reasons import End, Reason
from gateway.subscribing import Plan, Subscribing, Wish, plan_unsubscribe
from gateway.window import Window
from infra.wire import (
    SUPERSEDED,
    Ack,
    Bind,
    BindItem,
    BindResult,
    DisconnectItem,
    DoneResult,
    Downlink,
    Page,
    ProductWindow,
    SettledJob,
    SyncItem,
    SyncResult,
    UnbindItem,
)

MAX_WAITING: Final = 8
"""SUBSCRIBE and UNSUBSCRIBE packets that wait their turn; then nothing more is read."""

ACKS_AT_ONCE: Final = 16
"""So many settled messages do not wait for the flush."""

WRITTEN, BEHIND, GONE, DROPPED = "written", "behind", "gone", "dropped"

Change = mqtt5.SubscribePacket | mqtt5.UnsubscribePacket


class _Doing:
    """A SUBSCRIBE or UNSUBSCRIBE under way: the answer is written when the last step is done."""

    __slots__ = ("answer", "bound", "drops", "wishes")

    def __init__(self, answer: bytes, plan: Plan) -> None:
        self.answer = answer
        self.drops = list(reversed(plan.drops))
        self.wishes = list(reversed(plan.wishes.values()))
        self.bound: list[tuple[BindState, Wish, BindResult]] = []


class Delivery:
    """The rules for one client with a session. `dismiss(code, why)` is called when the saver has no place for it any more."""

    __slots__ = (
        "_ask", "_confirming", "_confirming_jobs", "_dismiss", "_doing", "_ended", "_grant", "_host", "_jobs", "_shell",
        "_todo", "_touch", "acked", "client", "fruitless", "sync_wanted", "window",
    )  # fmt: skip

    def __init__(
        self,
        client: Client,
        grant: Grant,
        shell: Shell,
        host: Host,
        *,
        soft_cap: int,
        touch: Callable[[], None],
        dismiss: Callable[[Reason, End], None],
    ) -> None:
        """`touch()` asks for a `flush()` within some tens of milliseconds."""
        self.client = client
        self.window = Window(client, shell, soft_cap)
        self.sync_wanted = False
        self._grant = grant
        self._shell = shell
        self._host = host
        self._touch = touch
        self._dismiss = dismiss
        self._ask: Ask | None = None
        self._ended = ""
        self._todo: deque[Change] | None = None
        self._doing: _Doing | None = None
        self._confirming: list[Ack] = []
        self._confirming_jobs: list[tuple[BindState, list[SettledJob]]] = []
        self._jobs: list[SettledJob] = []
        self.fruitless = 0  # sockets in a row that acknowledged nothing of what was written
        self.acked = False

    @property
    def idle(self) -> bool:
        """No request of this client is at the saver."""
        return self._ask is None and self._doing is None

    @property
    def full(self) -> bool:
        """So many changes wait that nothing more is to be read."""
        return self._todo is not None and len(self._todo) >= MAX_WAITING

    # --- hints ---------------------------------------------------------------------------------------------------------

    def hint(self, product: str, message: Downlink) -> str:
        """A message that the store numbered (or, n = 0, never saw); returns the outcome (infra.wire.HintResult)."""
        bind = self.client.binds.get(product)
        if message.n == 0:
            return WRITTEN if bind is not None and bind.ready and self.window.fire(bind, message) else DROPPED
        if bind is None:
            return GONE
        if self._may_take(bind, message.n):
            bind.n = message.n
            data = self.window.compose(bind, message, self._host.clock())
            if data:
                self.client.write(data)
            if not bind.qos or self.client.acks:
                self._touch()
            return WRITTEN
        if bind.ready and not bind.behind and message.n <= bind.n:
            return WRITTEN  # a repeat: it came by an earlier hint or a page
        bind.behind = True
        bind.hinted_n = max(bind.hinted_n, message.n)
        self.pump()
        return BEHIND

    def _may_take(self, bind: BindState, n: int) -> bool:
        return bind.ready and not bind.behind and n == bind.n + 1 and self.idle and self.window.may_write(bind)

    # --- acks ----------------------------------------------------------------------------------------------------------

    def puback(self, packet_id: int, reason: int) -> None:
        """A PUBACK with an id of unicast. One for nothing of ours is left over from a dropped bind, or wrong: counted."""
        if not self.window.settle(packet_id, reason):
            metrics.unknown_acks.inc()
            return
        self._host.fanout.place_free(self.client)
        self.pump()

    def pump(self) -> None:
        """Ask the saver for what can't wait; the rest is asked by the next flush."""
        if self._ask is not None or self._ended:
            return
        if self._doing is None and self._todo:
            packet = self._todo.popleft()
            if not self._todo:
                self._todo = None  # an empty deque is 760 bytes, for each connection
            self._begin(packet)
            return
        if self._doing is not None:
            return
        client = self.client
        if self._wants_page():
            if client.inflight is None or client.unicast_places() * 2 >= client.receive_max:
                self._sync()
                return
            self._touch()
        if client.acks is not None:
            if len(client.acks) >= ACKS_AT_ONCE:
                self._sync()
                return
            self._touch()
        if self.sync_wanted or self._jobs:
            self._touch()

    def flush(self) -> None:
        """The room's flush: settle what has drained, then ask for whatever is wanted. Touches again if that must wait."""
        if self._ended:
            return
        if self._shell.buffered() == 0:
            self.window.drained()
        if self.window.undrained:
            self._touch()
        if not self.idle:
            return  # the answer pumps
        if self._todo:
            self.pump()
        elif self.client.acks is not None or self._jobs or self.sync_wanted or self._wants_page():
            self._sync()
        elif self._is_blocked():
            self._touch()

    def _wants_page(self) -> bool:
        return any(bind.behind and bind.ready and self.window.may_write(bind) for bind in self.client.binds.values())

    def _is_blocked(self) -> bool:
        """Behind, with a place, but the buffer has to drain first: nothing will tell, so the flush looks again."""
        return any(bind.behind and bind.ready and self.window.has_place(bind) for bind in self.client.binds.values())

    # --- sync ----------------------------------------------------------------------------------------------------------

    def sync_soon(self, *, behind: bool = False) -> None:
        """A sync is due. With `behind`, no hint is written before it was answered (the room was cut off: it fences itself)."""
        self.sync_wanted = True
        if behind:
            for bind in self.client.binds.values():
                bind.behind = True
        self._touch()

    def _sync(self) -> None:
        client, host, window = self.client, self._host, self.window
        binds = [bind for bind in client.binds.values() if bind.ready]
        self._confirming = window.take_acks()
        held = [window.held(bind.product) for bind in binds]
        jobs = [(bind, host.fanout.settled_jobs(bind)) for bind in binds]
        self._confirming_jobs = [(bind, changed) for bind, changed in jobs if changed]
        self.sync_wanted = False
        for bind in binds:
            bind.hinted_n = 0
        item = SyncItem(
            client.key, host.room, host.epoch, client.connection, client.generation, client.number,
            [ProductWindow(self._wire(bind), ids, self._limit(bind)) for bind, ids in zip(binds, held, strict=True)],
            self._confirming,
            [*self._jobs, *(job for _, changed in jobs for job in changed)],
        )  # fmt: skip
        self._jobs = []
        metrics.syncs.inc()
        self._send(lambda: host.saver.sync(item, lambda result: self._synced(binds, result)))

    def _synced(self, binds: list[BindState], result: SyncResult | None) -> None:
        if not self._answered(result.status if result else None):
            return
        assert result is not None
        self._confirming = []
        for bind, jobs in self._confirming_jobs:
            self._host.fanout.saved(bind, jobs)
        self._confirming_jobs = []
        if self._shell is not AWAY:
            for bind in binds:
                if bind.fenced:
                    self._host.fanout.unfence(bind)
        self._write(b"", list(zip(binds, result.pages, strict=True)))
        self.pump()

    def _limit(self, bind: BindState) -> int:
        policy_window = self._host.policy.window
        return max(0, self.client.unicast_places()) if bind.qos else policy_window

    def _wire(self, bind: BindState) -> Bind:
        return Bind(bind.product, bind.qos, sorted(bind.groups), bind.user, bind.attrs)

    # --- pages ---------------------------------------------------------------------------------------------------------

    def _write(self, first: bytes, pages: list[tuple[BindState, Page]]) -> None:
        """Write `first` and what fits of the pages, in turns, as one write; set n and behind by what is left."""
        now = self._host.clock()
        out = [first] if first else []
        size = 0
        stuck: set[str] = set()
        for row in zip_longest(*(page.items for _, page in pages)):
            for (bind, _), message in zip(pages, row, strict=True):
                if message is None or bind.product in stuck:
                    continue
                if not self.window.may_write(bind, size):
                    stuck.add(bind.product)
                    continue
                out.append(self.window.compose(bind, message, now))
                size += len(out[-1])
        if out:
            self.client.write(b"".join(out))
        for bind, page in pages:
            left = page.more or bind.product in stuck
            bind.behind = left or bind.hinted_n > page.n
            if not left:
                bind.n = page.n
        if out or self.client.acks or any(bind.behind for bind, _ in pages):
            self._touch()

    # --- binds ---------------------------------------------------------------------------------------------------------

    def change(self, packet: Change) -> None:
        """A SUBSCRIBE or UNSUBSCRIBE; they are done one after the other."""
        if self._todo is None:
            self._todo = deque()
        self._todo.append(packet)
        self.pump()

    def _begin(self, packet: Change) -> None:
        binds = self.client.binds
        if isinstance(packet, mqtt5.SubscribePacket):
            plan = Subscribing(binds, self._grant.products, self._host.products, self._host.policy).plan(packet)
            for code in plan.codes:
                if code >= Reason.UNSPECIFIED:
                    metrics.binds_refused.labels(f"0x{code:02x}").inc()
            answer = packets.suback(packet.packet_id, plan.codes, plan.text)
            if len(answer) > self.client.max_packet:
                answer = packets.suback(packet.packet_id, plan.codes)
        else:
            plan = plan_unsubscribe(packet, binds)
            answer = packets.unsuback(packet.packet_id, plan.codes)
        self._doing = _Doing(answer, plan)
        self._step()

    def _step(self) -> None:
        doing = self._doing
        assert doing is not None
        if doing.drops:
            self._unbind(doing.drops.pop())
        elif doing.wishes:
            self._bind(doing, doing.wishes.pop())
        else:
            self._finish(doing)

    def _bind(self, doing: _Doing, wish: Wish) -> None:
        client, host = self.client, self._host
        bind = client.binds.get(wish.product)
        if bind is None:
            granted = self._grant.products[wish.product]
            bind = BindState(client, wish.product, wish.qos, granted.user, granted.attrs)
            client.binds[wish.product] = bind
        bind.hinted_n = 0
        item = BindItem(
            client.key, host.room, host.epoch, client.connection, client.generation, client.number,
            Bind(bind.product, wish.qos, sorted(wish.groups), bind.user, bind.attrs),
            self.window.held(bind.product),
            max(0, client.unicast_places()) if wish.qos else host.policy.window,
        )  # fmt: skip

        def answered(result: BindResult | None) -> None:
            if self._answered(result.status if result else None):
                assert result is not None
                doing.bound.append((bind, wish, result))
                self._step()

        self._send(lambda: host.saver.bind(item, answered))

    def _unbind(self, product: str) -> None:
        host, client = self._host, self.client
        bind = client.binds.pop(product)
        self._jobs += host.fanout.settled_jobs(bind)
        if bind.ready:
            bind.ready = False
            host.fanout.unbound(bind)
        item = UnbindItem(client.key, host.room, host.epoch, client.generation, client.number, product)

        def answered(result: DoneResult | None) -> None:
            if self._answered(result.status if result else None):
                self._step()

        self._send(lambda: host.saver.unbind(item, answered))

    def _finish(self, doing: _Doing) -> None:
        self._doing = None
        for bind, wish, result in doing.bound:
            bind.qos, bind.groups = wish.qos, frozenset(wish.groups)
            bind.first_bind_ms = result.first_bind_ms
        self._write(doing.answer, [(bind, result.page) for bind, _, result in doing.bound if result.page is not None])
        for bind, _, result in doing.bound:
            if bind.ready:
                self._host.fanout.regrouped(bind)
            else:
                bind.ready = True
                bind.fenced = self._shell is AWAY
                self._host.fanout.bound(bind, result.settled_jobs)
        self.pump()

    # --- the one request -----------------------------------------------------------------------------------------------

    def _send(self, ask: Callable[[], Ask]) -> None:
        """`ask` may be answered before it returns: then there is nothing to keep."""
        self._ask = _STARTING
        started = ask()
        if self._ask is _STARTING:
            self._ask = started

    def _answered(self, status: str | None) -> bool:
        """May the result be used? After the end of the connection an answer only lets the disconnect go out."""
        self._ask = None
        if self._ended:
            if status is not None and status != SUPERSEDED:
                self._confirming = []
                self._confirming_jobs = []
            self._disconnect()
            return False
        if status == SUPERSEDED:
            self._dismiss(Reason.TAKEN_OVER, End.TAKEN_OVER)
        elif status is None:  # the link's queue was full
            self._dismiss(Reason.SERVER_UNAVAILABLE, End.UNAVAILABLE)
        return not self._ended

    # --- away and back (gateway/flash.py) ------------------------------------------------------------------------------

    def socket_ended(self, *, acked: bool) -> None:
        """A socket of this session is gone; `acked`: it had acknowledged something."""
        self.acked = self.acked or acked
        if acked:
            self.fruitless = 0
        elif self.client.inflight:
            self.fruitless += 1

    def away(self) -> None:
        """The client has no socket, and may be back soon: nothing is written or asked for it meanwhile."""
        undrained = self.window.move(AWAY)
        self._shell = AWAY
        self._todo = None
        self.client.write = AWAY.write
        for bind in self.client.binds.values():
            bind.behind = bind.behind or bind.product in undrained
            self._host.fanout.fence(bind, away=True)

    def back(self, shell: Shell, grant: Grant, touch: Callable[[], None], dismiss: Callable[[Reason, End], None]) -> list[bytes]:
        """It has a socket again; returns what is to be written first: all that is unacknowledged, with DUP=1."""
        client, now = self.client, self._host.clock()
        self._shell, self._grant, self._touch, self._dismiss = shell, grant, touch, dismiss
        self.window.move(shell)
        client.write = shell.write
        client.broadcast_at = now
        first = unacknowledged(client, now)
        for bind in client.binds.values():
            first += [again(packet) for packet in self._host.fanout.unacknowledged(bind)]
            self._host.fanout.unfence(bind)
        return first

    # --- the end -------------------------------------------------------------------------------------------------------

    def end(self, reason: str) -> None:
        """The socket is gone. The saver is told once the request under way is over: a late sync would register us again."""
        if self._ended:
            return
        self._ended = reason
        if self._shell.buffered() == 0:
            self.window.drained()
        for bind in self.client.binds.values():
            if bind.ready:
                self._jobs += self._host.fanout.settled_jobs(bind, all=True)
                bind.ready = False
                self._host.fanout.unbound(bind)
        if self._ask is None:
            self._disconnect()
        else:
            self._ask.cancel()

    def _disconnect(self) -> None:
        client, host = self.client, self._host
        acks = [*self._confirming, *self.window.take_acks()]
        unacked = [(item.product, item.id) for item in client.inflight.values()] if client.inflight else []
        host.saver.disconnect(
            DisconnectItem(
                client.key, host.room, host.epoch, client.generation, client.number, self._ended, acks, self._jobs,
                unacked, self.fruitless, self.acked,
            )
        )  # fmt: skip
        client.binds.clear()


class _Starting:
    """Stands for the request while it is being asked."""

    def cancel(self) -> None:
        """Its own code runs: nothing can end the connection now but its answer."""


_STARTING: Final[Ask] = _Starting()
