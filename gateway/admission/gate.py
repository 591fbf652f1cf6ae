"""Who gets in: every rule about a socket before anything is kept of it, and about a CONNECT before its token is looked at.

A socket that is turned away is reset, and nothing is allocated for it. A CONNECT is refused with a reason code, and where it may
come again, a `retry-after` that differs from client to client. Each refusal is counted by its kind.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

import structlog

from gateway import metrics
from gateway.admission.addresses import Addresses
from gateway.admission.auth import Refusal
from gateway.admission.connect_rate import ConnectRate
from gateway.admission.flapping import Flapping
from gateway.admission.lists import ADMITTED, Lists, Verdict
from gateway.admission.watermark import Watermark
from gateway.reasons import Reason
from infra.documents import Access, Policy
from infra.peers import UNKNOWN
from infra.settings import RoomSettings

MEMORY_FULL: Final = (0.85, 0.80)
"""Shares of the memory that the process may have: no client is let in from the first on, until the second."""
MEMORY_SHUT: Final = (0.92, 0.88)
"""The same for sockets: the listener rests."""
SAMPLE: Final = 1.0
"""Seconds between two looks at the memory."""
RETRY: Final = 5
"""Seconds after which who found the room short of something comes again, and up to as many more."""
SPARE: Final = 8
"""Beyond `max_connections`, an eighth of it and 64 more sockets are answered that the room is full; further ones are reset."""

log = structlog.get_logger("gate")


class Gate:
    """The rules of one room, each in a module of its own; here is their order.

    `policy()`: the limits as they are now; `batches()`: bytes that unanswered requests to the workers take; `memory()`: the share
    that the process has of what it may have; `jitter()`: a random number from 0 to 1.
    """

    def __init__(
        self,
        settings: RoomSettings,
        *,
        policy: Callable[[], Policy],
        batches: Callable[[], int],
        memory: Callable[[], float],
        now: float,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._sockets = settings.max_connections + settings.max_connections // SPARE + 64
        self._lists = Lists(Access())
        self._addresses = Addresses(policy)
        self._rate = ConnectRate(policy, now, jitter)
        self._flapping = Flapping(policy, now)
        self._batches = batches
        self._unanswered = Watermark(settings.max_batches, settings.max_batches * 3 / 4)
        self._memory = memory
        self._full = Watermark(*MEMORY_FULL)
        self._shut = Watermark(*MEMORY_SHUT)
        self._sampled = now
        self._jitter = jitter

    @property
    def shut(self) -> bool:
        """No socket is to be accepted now: let them wait in the kernel."""
        return self._shut.over

    @property
    def short_of_memory(self) -> bool:
        """No client is let in now."""
        return self._full.over

    @property
    def admits(self) -> bool:
        """Is anybody let in now, as far as memory and the workers go?"""
        return not (self._shut.over or self._full.over or self._unanswered.rise(self._batches()))

    def load(self, access: Access) -> None:
        """The lists have changed."""
        self._lists = Lists(access)

    def tick(self, now: float) -> None:
        """Time passes: look at the memory once a `SAMPLE`."""
        if now - self._sampled < SAMPLE:
            return
        self._sampled = now
        self._flapping.forget(now)
        share = self._memory()
        metrics.memory.set(share)
        was = self._full.over, self._shut.over
        if was != (self._full.rise(share), self._shut.rise(share)):
            log.warning("memory", share=round(share, 3), lets_clients_in=not self._full.over, accepts=not self._shut.over)

    # --- sockets -------------------------------------------------------------------------------------------------------

    def let_in(self, address: int, sockets: int, now: float) -> bool:
        """A socket was accepted beside `sockets` others: may it stay? If so, call `leave` at its end."""
        kind = self._turned_away(address, sockets, now)
        if kind:
            metrics.turned_away.labels(kind).inc()
        return not kind

    def leave(self, address: int) -> None:
        """A socket that was let in is gone."""
        self._addresses.leave(address)

    def _turned_away(self, address: int, sockets: int, now: float) -> str:
        if self._shut.over:
            return "memory"
        if sockets >= self._sockets:
            return "full"
        verdict = self._lists.address(address)
        if verdict is not ADMITTED:
            return verdict.value
        counted = address != UNKNOWN and address not in self._lists.uncounted
        return self._addresses.enter(address, now, counted=counted)

    # --- clients -------------------------------------------------------------------------------------------------------

    def admit(self, client_id: str, address: int, now: float) -> None:
        """A CONNECT has come. Raises Refusal."""
        verdict = self.verdict(address, client_id)
        if verdict is not ADMITTED:
            raise refusal(verdict)
        if self._full.over:
            raise Refusal(Reason.QUOTA_EXCEEDED, "memory", "this room has no memory for more", retry_after=self.soon())
        if self._unanswered.rise(self._batches()):
            raise Refusal(Reason.CONNECTION_RATE, "batches", "too much waits for the workers", retry_after=self.soon())
        if wait := self._rate.admit(now):
            raise Refusal(Reason.CONNECTION_RATE, "rate", "too many connect at once", retry_after=wait)

    def connects(self, key: str, now: float) -> None:
        """It has shown a good token. Raises Refusal."""
        if wait := self._flapping.connects(key, now):
            raise Refusal(Reason.CONNECTION_RATE, "flapping", "this client connects too often", retry_after=wait)

    def verdict(self, address: int, client_id: str | None) -> Verdict:
        """What the lists say of a client, or of an address whose client is not known yet."""
        return self._lists.address(address) if client_id is None else self._lists.both(address, client_id)

    def soon(self) -> int:
        """Seconds after which who was refused comes again, where nothing says when: others are told something else."""
        return RETRY + int(RETRY * self._jitter())


def refusal(verdict: Verdict) -> Refusal:
    """What a CONNECT is told of its verdict."""
    if verdict is Verdict.DENIED:
        return Refusal(Reason.BANNED, verdict.value, "this client is banned here")
    return Refusal(Reason.NOT_AUTHORIZED, verdict.value, "this client is not on the list of those who may connect")
