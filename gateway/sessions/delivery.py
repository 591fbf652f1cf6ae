"""One client's unicast: hints, pages, acks, and the one request that it may have at the saver (docs/design.md, Unicast 4–8).

The invariant: behind, connected, idle, and a place and buffer to write to ⇒ a sync is asked, whatever freed the place. Every
method that may change one of those ends in `pump()`; what waits for the flush is on the room's list (`Room.touch`).
"""

from __future__ import annotations

from itertools import zip_longest
from typing import Final

from gateway import metrics
from gateway.client import BindState, Client, bind_to
from gateway.host import Host
from gateway.ports import Shell
from gateway.sessions import window
from gateway.sessions.changes import Change, Changes
from gateway.sessions.exchange import Exchange, Owner
from gateway.sessions.flash import AWAY, Rest
from gateway.sessions.outbox import Outbox
from gateway.sessions.pulling import Pull, Pulling
from infra.tokens import Grant
from infra.wire import (
    Bind,
    Downlink,
    Page,
    ProductWindow,
    SettledJob,
    SyncItem,
    SyncResult,
)

ACKS_AT_ONCE: Final = 16
"""So many settled messages do not wait for the flush."""
MAX_UNCONFIRMED: Final = 512
"""With so many settled messages that the saver has not confirmed, no hint is written: the bind is behind until they are."""

WRITTEN: Final = "written"
BEHIND: Final = "behind"
GONE: Final = "gone"
DROPPED: Final = "dropped"


class Delivery(Exchange):
    """The rules for one client with a session."""

    __slots__ = ("_again", "_asked_since", "_changes", "_only_acks", "_rest", "fenced", "grant", "pulls", "sync_wanted")

    def __init__(self, client: Client, grant: Grant, host: Host, owner: Owner) -> None:
        super().__init__(client, host, owner)
        self.sync_wanted = False
        self.fenced = False  # we were cut off: nothing is written before a sync that was asked since is answered
        self._asked_since = False
        self._only_acks = False  # the request under way
        self._again = False  # something came while one was under way: its answer pumps
        self._changes: Changes | None = None
        self._rest: Rest | None = None
        self.pulls: Pulling | None = None
        self.grant = grant

    @property
    def idle(self) -> bool:
        """No request of this client is at the saver."""
        return self._ask is None and (self._changes is None or not self._changes.running)

    @property
    def changing(self) -> bool:
        """A SUBSCRIBE or UNSUBSCRIBE is under way: it was judged by the token as it is now."""
        return self._changes is not None and self._changes.running

    @property
    def full(self) -> bool:
        """So many changes wait that nothing more is to be read."""
        return self._changes is not None and self._changes.full

    @property
    def silent(self) -> bool:
        """No PUBLISH may be written now: the client is away, or we were cut off."""
        return self.fenced or self.client.shell is AWAY

    # --- hints ---------------------------------------------------------------------------------------------------------

    def hint(self, product: str, message: Downlink, out: Outbox, now: float) -> str:
        """A message that the store numbered (or, n = 0, never saw), to be written by `out`; returns the outcome
        (infra.wire.HintResult)."""
        client, n = self.client, message.n
        bind = bind_to(client.binds, product)
        if n == 0:
            if bind is None or not bind.ready or self.silent:
                return DROPPED
            return WRITTEN if window.fire(client, bind, message, out) else DROPPED
        if bind is None:
            return GONE
        if n == bind.n + 1 and self._may_take(bind, message):
            data = window.compose(client, bind, message, now)
            bind.n = n
            if data:
                out.add(client, data)
            if not bind.qos or client.acks is not None:
                self.owner.touch()
            return WRITTEN
        if bind.ready and not bind.behind and n <= bind.n:
            return WRITTEN  # a repeat: it came by an earlier hint or a page
        bind.fall_behind()
        bind.hinted_n = max(bind.hinted_n, n)
        self.pump()
        return BEHIND

    def _may_take(self, bind: BindState, message: Downlink) -> bool:
        if not bind.ready or bind.behind or self._rest is not None:
            return False
        client = self.client
        if client.whole and message.size >= 0:
            return False  # a page brings its body
        if len(self._confirming) + window.unconfirmed(client) >= MAX_UNCONFIRMED:
            return False  # savers are away: what they do not know yet has to fit into our memory, and into a request
        return (self._only_acks or self.idle) and window.may_write(client, bind)  # no page is on its way

    # --- acks ----------------------------------------------------------------------------------------------------------

    def puback(self, packet_id: int, reason: int) -> None:
        """A PUBACK with an id of unicast. One for nothing of ours is left over from a dropped bind, or wrong: counted."""
        if not window.settle(self.client, packet_id, reason):
            metrics.unknown_acks.inc()
            return
        if self.client.blocked:
            self.host.fanout.place_free(self.client)
        if self._ask is None or self._rest is not None:
            self.pump()
        else:
            self._again = True

    def pump(self) -> None:
        """Ask the saver for what can't wait; the rest is asked by the next flush."""
        if self._rest is not None:
            self._write_rest(self._rest)
        if self._ask is not None:
            self._again = True
            return
        if self._ended or self.client.shell is AWAY:
            return
        changes = self._changes
        if changes is not None and changes.over:
            self._changes = None
        elif changes is not None:
            if not changes.running:
                changes.begin()
            return
        due = self._sync_is_due()
        pulls = self.pulls
        if pulls is None:
            if due:
                self._sync()
            return
        if pulls.may_ask() and not (pulls.gives_way and self._has_to_sync()):
            pulls.ask()
        elif due or (pulls.gives_way and self._has_to_sync()):
            self._sync()
        if not pulls:
            self.pulls = None

    def _sync_is_due(self) -> bool:
        """Is there something that can't wait for the flush? What can is left to it."""
        client = self.client
        acks = client.acks
        waits = acks is not None or self.sync_wanted or bool(self._jobs)
        if self._wants_page():
            if client.inflight is None or client.unicast_places() * 2 >= client.receive_max:
                return True
            waits = True
        if acks is not None and len(acks) >= ACKS_AT_ONCE:
            return True
        if waits:
            self.owner.touch()
        return False

    def _has_to_sync(self) -> bool:
        return self.client.acks is not None or self.sync_wanted or bool(self._jobs) or self._wants_page()

    def pull(self, pull: Pull) -> None:
        """The client asks for the body of a message."""
        if self.pulls is None:
            self.pulls = Pulling(self)
        self.pulls.add(pull)
        self.pump()

    def flush(self) -> None:
        """The room's flush: settle what has drained, then ask for whatever is wanted. Touches again if that must wait."""
        if self._ended:
            return
        if self.client.drain is not None:
            if self.client.shell.buffered() == 0:
                window.drained(self.client)
            else:
                self.owner.touch()
        if self._rest is not None:
            self._write_rest(self._rest)
        if self.pulls is not None:
            self.pulls.gives_way = True
        if not self.idle:
            self._again = True  # the answer pumps
            return
        if self._changes is not None or self.pulls is not None:
            self.pump()
        elif self._has_to_sync():
            self._sync()
        if self.idle and self._is_blocked():
            self.owner.touch()

    def _wants_page(self) -> bool:
        """Is there something to ask for, and may it be written? While fenced, when to ask is the room's affair."""
        client = self.client
        if not client.lags or self._rest is not None or (self.fenced and not self.sync_wanted):
            return False
        lags = False
        for bind in client.binds:
            if bind.behind:
                lags = True
                if bind.ready and window.may_write(client, bind):
                    return True
        client.lags = lags
        return False

    def _is_blocked(self) -> bool:
        """Behind, with a place, but the buffer has to drain first: nothing will tell, so the flush looks again."""
        if self.fenced:
            return False
        if self.pulls is not None and self.pulls.blocked:
            return True
        client = self.client
        return client.lags and any(bind.behind and bind.ready and window.has_place(client, bind) for bind in client.binds)

    # --- sync ----------------------------------------------------------------------------------------------------------

    def sync_soon(self) -> None:
        """A sync is due."""
        self.sync_wanted = True
        self.owner.touch()

    def fence(self) -> None:
        """We were cut off, and others may have the client: nothing is written before a sync, which the caller sees to.

        What was asked before does not count: its answer may be as old as we are.
        """
        self.fenced = True
        self._asked_since = False
        for bind in self.client.binds:
            bind.fall_behind()
            self.host.fanout.fence(bind)

    def _sync(self) -> None:
        """Tell the saver what was settled; unless that is all that there is to say, it looks at the rest too, and sends pages."""
        client, host = self.client, self.host
        self._confirming = acks = window.take_acks(client)
        jobs = self._take_jobs()
        if self.pulls is not None:
            self.pulls.gives_way = False
        self._asked_since = True
        self._again = client.acks is not None or self.pulls is not None  # what did not fit, and what gave way
        metrics.syncs.value += 1
        if self._only_tells():
            self._only_acks = True
            self.send(host.saver.sync, self._only(acks, jobs), self._settled)
            return
        self.sync_wanted = False
        binds = [bind for bind in client.binds if bind.ready]
        held = [window.held(client, bind.product) for bind in binds]
        for bind in binds:
            bind.hinted_n = 0
        item = SyncItem(
            client.key, host.room, host.epoch, client.connection, client.generation, client.number,
            [ProductWindow(self._wire(bind), ids, self._limit(bind)) for bind, ids in zip(binds, held, strict=True)],
            acks, jobs, False, client.whole,
        )  # fmt: skip
        self.send(host.saver.sync, item, lambda result: self._synced(binds, result))

    def _only_tells(self) -> bool:
        """Is nothing asked for?"""
        if self.fenced or self.sync_wanted:
            return False
        if not self.client.lags:
            return True
        for bind in self.client.binds:  # noqa: SIM110 - asked for each client whose acks go
            if bind.behind and bind.ready:
                return False
        return True

    def _take_jobs(self) -> list[SettledJob]:
        """Settled broadcasts that the saver is to hear of now."""
        jobs, self._jobs = self._jobs or [], None
        self._confirming_jobs = ()
        for bind in self.client.binds:
            if bind.ready and (changed := self.host.fanout.settled_jobs(bind)):
                self._confirming_jobs = [*self._confirming_jobs, (bind, changed)]
                jobs = [*jobs, *changed]
        return jobs

    def _settled(self, result: SyncResult | None) -> None:
        """The answer to nothing but acks."""
        self._only_acks = False
        if self._confirmed(result) and (self._again or self.sync_wanted or self._rest is not None):
            self.pump()

    def _synced(self, binds: list[BindState], result: SyncResult | None) -> None:
        if not self._confirmed(result):
            return
        assert result is not None
        if self._asked_since:
            self._lift_fence()
        self.write_pages(list(zip(binds, result.pages, strict=True)))
        self.pump()

    def _confirmed(self, result: SyncResult | None) -> bool:
        """The saver has what it was told. False where the answer is of no use any more."""
        if not self.answered(result.status if result is not None else None):
            return False
        assert result is not None
        if result.missing:
            self.sync_wanted = True
        self._confirming = ()
        if self._confirming_jobs:
            jobs, self._confirming_jobs = self._confirming_jobs, ()
            if self._asked_since:
                for bind, saved in jobs:
                    self.host.fanout.saved(bind, saved)
        return True

    def _lift_fence(self) -> None:
        self.fenced = False
        for bind in self.client.binds:
            if bind.fenced and not self.silent:
                self.host.fanout.unfence(bind)

    def _limit(self, bind: BindState) -> int:
        policy_window = self.host.policy.window
        return max(0, self.client.unicast_places()) if bind.qos else policy_window

    def _wire(self, bind: BindState) -> Bind:
        return Bind(bind.product, bind.qos, sorted(bind.groups), bind.user, bind.attrs)

    # --- pages ---------------------------------------------------------------------------------------------------------

    def write_pages(self, pages: list[tuple[BindState, Page]], first: bytes = b"") -> None:
        """Write `first` and what fits of the pages, in turns, as one write; set n and behind by what is left."""
        if self.silent or self._rest is not None:
            for bind, _ in pages:
                bind.fall_behind()
            if first:
                self.client.shell.write(first)
            return
        out, stuck, useless = self._compose(pages)
        if out or first:
            self.client.shell.write(b"".join((first, *out)))
        for bind, page in pages:
            left = (page.more or bind.product in stuck) and bind.product not in useless  # else: with the next sync in its time
            bind.behind = False
            if left or bind.hinted_n > page.n:
                bind.fall_behind()
            if not left:
                bind.n = page.n
        if out or self.client.acks or any(bind.behind for bind, _ in pages):
            self.owner.touch()

    def _compose(self, pages: list[tuple[BindState, Page]]) -> tuple[list[bytes], set[str], set[str]]:
        """What fits of the pages; the products of which something did not; and those with notices for a client that can't pull: a
        saver of an older version knows nothing of `whole`."""
        out: list[bytes] = []
        stuck: set[str] = set()
        useless: set[str] = set()
        if not [page for _, page in pages if page.items]:
            return out, stuck, useless
        now, size = self.host.clock(), 0
        for row in zip_longest(*(page.items for _, page in pages)):
            for (bind, _), message in zip(pages, row, strict=True):
                if message is None or bind.product in stuck:
                    continue
                if message.size >= 0 and self.client.whole:
                    useless.add(bind.product)
                elif not window.may_write(self.client, bind, size):
                    stuck.add(bind.product)
                else:
                    out.append(window.compose(self.client, bind, message, now))
                    size += len(out[-1])
        return out, stuck, useless

    # --- binds ---------------------------------------------------------------------------------------------------------

    def change(self, packet: Change) -> None:
        """A SUBSCRIBE or UNSUBSCRIBE, or what is done in place of one; one after the other."""
        if self._changes is None:
            self._changes = Changes(self)
        self._changes.add(packet)
        self.pump()

    def drop(self, bind: BindState) -> None:
        """The client left this product; what it settled there goes with the next sync."""
        self.tell_of(self.host.fanout.settled_jobs(bind))
        if bind.ready:
            bind.ready = False
            self.host.fanout.unbound(bind)

    # --- away and back (gateway/sessions/flash.py) ------------------------------------------------------------------------------

    def socket_ended(self, *, acked: bool) -> None:
        """A socket of this session is gone; `acked`: it had acknowledged something."""
        self.acked = self.acked or acked
        if acked:
            self.fruitless = 0
        elif self.client.inflight:
            self.fruitless += 1

    def away(self) -> None:
        """The client has no socket, and may be back soon: nothing is written or asked for it meanwhile."""
        undrained = window.move(self.client, AWAY)
        self._rest = None
        self.pulls = None
        self._again = True
        if self._changes is not None:
            self._changes.abandon()
        for bind in self.client.binds:
            if bind.product in undrained:
                bind.fall_behind()
            self.host.fanout.fence(bind, away=True)

    def back(self, shell: Shell, grant: Grant, owner: Owner) -> list[bytes]:
        """It has a socket again; returns what is to be written first: all that is unacknowledged, with DUP=1."""
        client, now = self.client, self.host.clock()
        self.grant, self.owner = grant, owner
        window.move(client, shell)
        client.broadcasts_inflight = 0
        client.broadcast_at = now
        rest = Rest(client, now)
        first = rest.take(client, now, window.space(self.client))
        self._rest = rest if rest else None
        for bind in client.binds:
            packets = self.host.fanout.again(bind, client.unicast_places())
            client.broadcasts_inflight += len(packets)
            first += packets
            self.host.fanout.unfence(bind)
        return first

    def _write_rest(self, rest: Rest) -> None:
        out = rest.take(self.client, self.host.clock(), window.space(self.client))
        if out:
            self.client.shell.write(b"".join(out))
        if not rest:
            self._rest = None
        if out or self._rest is None or window.space(self.client) < 0:
            self.owner.touch()
