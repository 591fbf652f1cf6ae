"""What waits is told here: one lane for each endpoint, so that none waits for another.

A lane asks when the circuit of its endpoint lets it, takes the first events of the partitions that are this process's, and goes
on until none is left. A request that is refused is asked again event by event, so that only those are left that are refused by
themselves: they are tried `attempts` times, with growing pauses, and those of their key wait behind them. Where an endpoint that
is away is tried by one event and fails, the next try is another key's: it may be that event which it fails at. What has waited
for longer than `keep`, or whose endpoint is there no more, is a dead letter.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

import structlog

from infra.documents import Product
from infra.documents.webhooks import Endpoint
from infra.journal import Entry, JournalDown
from infra.lifecycle import Loops
from schemas import names
from schemas.records import Retry
from workers.once import Producer
from workers.webhooks.circuit import Circuit, pause_after
from workers.webhooks.events import Batch, Event, batches
from workers.webhooks.heads import Item
from workers.webhooks.outbox import Lost, Outbox, event_of, waits
from workers.webhooks.sender import Outcome, Verdict
from workers.webhooks.waiting import Route, Waiting

LOOK: Final = 0.05
"""Seconds between two looks for endpoints for which something waits."""
NAP: Final = 1.0
GONE: Final = "there is no endpoint of this name any more"

log = structlog.get_logger("webhooks")


class Products(Protocol):
    """The products as they are now (infra.keeper.Keeper)."""

    @property
    def products(self) -> Mapping[str, Product]:
        """Products by name."""

    @property
    def current(self) -> bool:
        """Is a product that is not there known not to exist?"""


class Reader(Protocol):
    """See workers.webhooks.shelf.Shelf."""

    async def read(self, items: Sequence[Item]) -> dict[str, Retry]:
        """Their records, by the events' ids; raises JournalDown."""


class Lanes:
    """The lanes of a process; a part of it (infra.lifecycle.Part)."""

    def __init__(
        self,
        journal: Producer,
        outbox: Outbox,
        waiting: Waiting,
        shelf: Reader,
        products: Products,
        *,
        fail: Callable[[str], None] = lambda reason: None,
    ) -> None:
        self._journal = journal
        self._outbox = outbox
        self._waiting = waiting
        self._shelf = shelf
        self._products = products
        self._mine: frozenset[int] = frozenset()
        self._open: set[Route] = set()
        self._alone: dict[Route, int] = {}
        self._loops = Loops(fail)

    async def start(self) -> None:
        """Look for what waits from now on."""
        self._loops.start("webhooks: lanes", self._run())

    async def stop(self) -> None:
        """Cut what is under way: it comes again, from whoever has its partition then."""
        await self._loops.stop()

    def own(self, partitions: frozenset[int]) -> None:
        """Of which partitions of `push.retries` we tell what waits, from now on."""
        self._mine = partitions

    async def _run(self) -> None:
        while True:
            waits.set(len(self._waiting))
            for route in self._waiting:
                if route not in self._open:
                    self._open.add(route)
                    self._loops.start(f"webhooks: {route[0]}/{route[1]}", self._lane(route))
            await asyncio.sleep(LOOK)

    async def _lane(self, route: Route) -> None:
        """Until nothing of ours waits for this endpoint."""
        try:
            while await self._turned(route):
                pass
        finally:
            self._open.discard(route)
            self._alone.pop(route, None)

    async def _turned(self, route: Route) -> bool:
        """One turn, and the pause after it; False: nothing is left."""
        try:
            pause = await self._turn(route)
        except JournalDown as error:
            log.warning("events are told later", product=route[0], endpoint=route[1], reason=str(error)[:200])
            pause = NAP
        if pause is None:
            return False
        await asyncio.sleep(min(pause, NAP))
        return True

    async def _turn(self, route: Route) -> float | None:
        """Seconds until the next turn; None: nothing is left."""
        endpoint = self._endpoint(route)
        if endpoint is None and not self._products.current:
            return NAP
        circuit = self._outbox.circuit(route[0], endpoint) if endpoint is not None else None
        if circuit is not None and (pause := circuit.wait()):
            return pause
        most = endpoint.batch if endpoint is not None and not self._alone.get(route) else 1
        items, held = self._next(route, circuit, most)
        if not items:
            return held if held > 0 else None
        found = await self._shelf.read(items)
        events = self._events(route, items, found)
        items = [item for item in items if item.id in events]
        over = [item for item in items if endpoint is None or self._over(item, endpoint)]
        if over:
            reason = GONE if endpoint is None else f"not taken in {endpoint.keep:g} s; at first: {found[over[0].id].reason}"
            await self._bury(route, [Lost(events[item.id], reason, item) for item in over])
        if endpoint is None or circuit is None or len(over) == len(items) or circuit.wait():
            return 0.0  # who has an event may have found it away meanwhile
        left = [item for item in items if item not in over]
        batch = next(batches([events[item.id] for item in left], most))
        verdict = await self._outbox.post(endpoint, batch, circuit, within=endpoint.timeout)
        await self._settle(route, endpoint, batch, verdict, {item.id: item for item in left})
        return 0.0

    def _next(self, route: Route, circuit: Circuit | None, most: int) -> tuple[list[Item], float]:
        """What is told next, one by which it is tried if it was away; if none, in how many seconds (0: nothing is left)."""
        if circuit is not None and not circuit.closed:
            return self._waiting.probe(route, self._mine.__contains__), 0.0
        return self._waiting.first(route, self._mine.__contains__, time.monotonic(), most)

    def _endpoint(self, route: Route) -> Endpoint | None:
        product = self._products.products.get(route[0])
        found = [each for each in product.webhooks if each.name == route[1]] if product is not None else []
        return found[0] if found else None

    def _events(self, route: Route, items: Sequence[Item], found: Mapping[str, Retry]) -> dict[str, Event]:
        """Those that Kafka still has; the others were settled by somebody else, or are no events."""
        events = {}
        for item in items:
            try:
                events[item.id] = event_of(found[item.id])
            except (KeyError, ValueError) as error:
                log.warning("nothing to tell", product=route[0], endpoint=route[1], id=item.id, error=type(error).__name__)
                self._waiting.remove(route, item.id)
        return events

    @staticmethod
    def _over(item: Item, endpoint: Endpoint) -> bool:
        return time.time() * 1000 - item.since_ms > endpoint.keep * 1000

    async def _settle(self, route: Route, endpoint: Endpoint, batch: Batch, verdict: Verdict, items: Mapping[str, Item]) -> None:
        """What became of one request."""
        if verdict.outcome is Outcome.TAKEN:
            await self._end(route, batch.events, self._outbox.taken(endpoint, batch, verdict))
        elif verdict.outcome is Outcome.REFUSED and len(batch.events) > 1:
            self._alone[route] = len(batch.events)
            return
        elif verdict.outcome is Outcome.REFUSED:
            await self._refused(route, endpoint, items[batch.events[0].id], batch.events[0], verdict.reason)
        elif len(batch.events) == 1:
            self._away(route, items[batch.events[0].id], self._outbox.circuit(route[0], endpoint))
        if self._alone.get(route):
            self._alone[route] -= 1

    async def _refused(self, route: Route, endpoint: Endpoint, item: Item, event: Event, reason: str) -> None:
        self._waiting.put_off(route, item, time.monotonic() + pause_after(item.refused + 1), refused=1)
        if item.refused >= endpoint.attempts:
            await self._bury(route, [Lost(event, f"{reason}, {item.refused} times", item)])

    def _away(self, route: Route, item: Item, circuit: Circuit) -> None:
        if item.away or not circuit.closed:
            due = time.monotonic() + circuit.wait() + pause_after(item.away + 1)
            self._waiting.put_off(route, item, due, away=1)

    async def _bury(self, route: Route, lost: Sequence[Lost]) -> None:
        await self._end(route, [each.event for each in lost], [self._outbox.letter(route[1], each) for each in lost])

    async def _end(self, route: Route, events: Sequence[Event], entries: Sequence[Entry]) -> None:
        """Settled: first what comes of it, then nothing under its key. Raises JournalDown: it is told again."""
        await self._journal.produce(entries)
        ends = [Entry(names.RETRIES, names.retry_key(*route, event.id), None, by=event.key) for event in events]
        await self._journal.produce(ends)
        for event in events:
            self._waiting.remove(route, event.id)
