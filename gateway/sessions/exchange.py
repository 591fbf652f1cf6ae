"""What a client's session says to the saver: one request at a time, and at the end the disconnect."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from gateway.client import NO_BINDS, BindState, Client
from gateway.host import Host
from gateway.ports import Ask, Done
from gateway.reasons import End, Reason
from gateway.sessions import window
from infra.wire import SUPERSEDED, Ack, DisconnectItem, SettledJob, SyncItem, SyncResult

I = TypeVar("I")  # noqa: E741
R = TypeVar("R")


class Owner:
    """Whose session it is: the connection that has it now (`Lifetime`; a class and no protocol: each ack asks it)."""

    __slots__ = ()

    def touch(self) -> None:
        """Have `Exchange`'s flush called within some tens of milliseconds."""
        raise NotImplementedError

    def close(self, code: int, why: End, text: str = "", server_reference: str = "") -> None:
        """End the connection: the saver has no place for it any more."""
        raise NotImplementedError


class Exchange:
    """The request under way, what it carries that must not be lost, and the last word. `Delivery` is the only kind.

    A client has at most one request at the saver: an answer is never older than another.
    """

    __slots__ = (
        "_ask", "_confirming", "_confirming_jobs", "_ended", "_jobs", "acked", "client", "fruitless", "host", "owner",
    )  # fmt: skip

    def __init__(self, client: Client, host: Host, owner: Owner) -> None:
        self.client = client
        self.host = host
        self.owner = owner
        self._ask: Ask | None = None
        self._ended = ""
        self._confirming: Sequence[Ack] = ()
        self._confirming_jobs: Sequence[tuple[BindState, list[SettledJob]]] = ()
        self._jobs: list[SettledJob] | None = None
        self.fruitless = 0  # sockets in a row that acknowledged nothing of what was written
        self.acked = False

    def send(self, ask: Callable[[I, Done[R]], Ask], item: I, done: Done[R]) -> None:
        """Ask the saver; only while idle. `done` may be called before `ask` returns: then there is nothing to keep."""
        self._ask = _STARTING
        started = ask(item, done)
        if self._ask is _STARTING:
            self._ask = started

    def answered(self, status: str | None) -> bool:
        """May the result be used? After the end of the connection an answer only lets the disconnect go out."""
        self._ask = None
        if self._ended:
            if status is not None and status != SUPERSEDED:
                self._confirming = ()
                self._confirming_jobs = ()
            self._disconnect()
            return False
        if status == SUPERSEDED:
            self.owner.close(Reason.TAKEN_OVER, End.TAKEN_OVER)
        elif status is None:  # the link's queue was full
            self.owner.close(Reason.SERVER_UNAVAILABLE, End.UNAVAILABLE)
        return not self._ended

    def end(self, reason: str) -> None:
        """The socket is gone. The saver is told once the request under way is over: a late sync would register us again."""
        if self._ended:
            return
        self._ended = reason
        if self.client.shell.buffered() == 0:
            window.drained(self.client)
        for bind in self.client.binds:
            if bind.ready:
                self.tell_of(self.host.fanout.settled_jobs(bind, all=True))
                bind.ready = False
                self.host.fanout.unbound(bind)
        if self._ask is None:
            self._disconnect()
        else:
            self._ask.cancel()

    def tell_of(self, jobs: list[SettledJob]) -> None:
        """Settled broadcasts that the next request takes along."""
        if jobs:
            self._jobs = [*(self._jobs or ()), *jobs]

    def _disconnect(self) -> None:
        client, host = self.client, self.host
        client.acks = [*self._confirming, *(client.acks or ())] or None
        acks = window.take_acks(client)
        while client.acks:  # they do not fit one request: nobody waits for these answers, as for the last one's
            host.saver.sync(self._only(acks, []), _nobody_waits)
            acks = window.take_acks(client)
        unacked = [(item.product, item.id) for item in client.inflight.values()] if client.inflight else []
        host.saver.disconnect(
            DisconnectItem(
                client.key, host.room, host.epoch, client.generation, client.number, self._ended, acks, self._jobs or [],
                unacked, self.fruitless, self.acked,
            )
        )  # fmt: skip
        client.binds = NO_BINDS

    def _only(self, acks: list[Ack], jobs: list[SettledJob]) -> SyncItem:
        """A sync that settles, and changes nothing else."""
        client, host = self.client, self.host
        return SyncItem(
            client.key, host.room, host.epoch, client.connection, client.generation, client.number, [], acks, jobs, True
        )  # by position alone: it is made for each client whose acks go


def _nobody_waits(result: SyncResult | None) -> None:
    """The acks count whoever has the session."""


class _Starting:
    """Stands for the request while it is being asked."""

    def cancel(self) -> None:
        """Its own code runs: nothing can end the connection now but its answer."""


_STARTING: Final[Ask] = _Starting()
