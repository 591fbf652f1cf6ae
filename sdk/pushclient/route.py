"""Where to go next, and when."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence

from .address import Address
from .backoff import Backoff
from .dispatch import Answer, Dispatcher
from .ending import Ending
from .errors import DispatchError
from .reasons import Verdict
from .state import Stats

log = logging.getLogger("pushclient")

MAX_MOVES = 3
MAX_FAILED = 8
"""Addresses that the dispatcher is told of, at most: the last ones that failed."""
_DEFAULT = Backoff()


class Route:
    """The addresses that are known, which of them failed, and how often in a row.

    A count begins anew when a connection has held for longer than the longest delay: one that breaks at once, again and
    again, must not come back at the pace of a first failure.
    """

    def __init__(
        self,
        *,
        servers: Sequence[Address],
        dispatcher: Dispatcher | None,
        backoff: Backoff | None,
        stats: Stats,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.heartbeat_s: int | None = None
        self._known = tuple(servers)
        self._dispatcher = dispatcher
        self._chosen_backoff = backoff
        self._backoff = backoff or _DEFAULT
        self._stats = stats
        self._clock = clock
        self._fresh_until = float("-inf")
        self._attempt = 0
        self._moves = 0
        self._turn = 0
        self._failed: dict[Address, None] = {}
        self._rooms: Mapping[Address, str] = {}
        self._last = ""
        self._at_once: tuple[Address, ...] = ()

    def ended(self, ending: Ending, address: Address | None, *, held_s: float, resumable: bool) -> float:
        """A connection, or an attempt, ended: the seconds to wait before `next`.

        `address` is None where none was found; `held_s` is 0 for an attempt; `resumable`: a session waits there, unless the
        server ended it by its own word.
        """
        if held_s > self._backoff.cap_s:
            self._attempt = self._moves = 0
            self._failed.clear()
        if held_s > 0 and address is not None:
            self._last = self._rooms.get(address, "")
        waits = resumable and held_s > 0 and ending.code is None
        self._at_once = (address,) if address is not None and waits else ()
        if ending.code is None or ending.verdict is not Verdict.RETURN:
            self._note(address)
            self._turn += not self._at_once
        if ending.verdict is Verdict.MOVE and ending.references and self._moves < MAX_MOVES:
            self._moves += 1
            self._at_once = (random.choice(ending.references),)
            # What the server says it says to many; what the application asks for concerns one.
            return 0.0 if ending.code is None else self._backoff.soon()
        return self._delay(ending)

    async def next(self) -> Address:
        """Raises DispatchError where neither the dispatcher nor an earlier answer of it names an address, or where all of them
        failed and the dispatcher says when to come again."""
        if self._at_once:
            (address,) = self._at_once
            self._at_once = ()
            return address
        if self._dispatcher is not None and (self._attempt or self._clock() >= self._fresh_until):
            await self._ask(self._dispatcher)
        return self._known[self._turn % len(self._known)]

    def network(self, network: str) -> None:
        """The device's network changed: the dispatcher shall know, and be asked again."""
        self._fresh_until = float("-inf")
        if self._dispatcher is not None:
            self._dispatcher.network = network

    def _note(self, address: Address | None) -> None:
        """It failed: the last one that does is the last of `MAX_FAILED`."""
        if address is None:
            return
        self._failed.pop(address, None)
        self._failed[address] = None
        while len(self._failed) > MAX_FAILED:
            del self._failed[next(iter(self._failed))]

    def _delay(self, ending: Ending) -> float:
        attempt = self._attempt
        self._attempt += 1
        if ending.retry_after_s is not None:
            return self._backoff.after(ending.retry_after_s)
        return self._backoff.later() if ending.verdict is Verdict.LATER else self._backoff.delay(attempt)

    async def _ask(self, dispatcher: Dispatcher) -> None:
        try:
            self._learn(await dispatcher.ask(self._attempt, tuple(self._failed), self._last))
        except DispatchError as error:
            self._stats.dispatch_failures += 1
            if not self._known or (error.retry_after_s is not None and self._failed.keys() >= set(self._known)):
                raise
            log.info("no dispatcher, going on with the %d addresses that are known: %s", len(self._known), error)

    def _learn(self, answer: Answer) -> None:
        self._known = answer.addresses
        self._rooms = answer.rooms
        # An answer that still puts first what has just failed is stale: another one may do better.
        since = {address: number for number, address in enumerate(self._failed, 1)}
        self._turn = min(range(len(self._known)), key=lambda turn: since.get(self._known[turn], 0))
        self._fresh_until = self._clock() + answer.ttl_s
        self.heartbeat_s = answer.heartbeat_s
        self._backoff = self._chosen_backoff or answer.backoff or _DEFAULT
