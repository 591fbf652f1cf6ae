"""The way out for events: told at once where that is possible, else kept in `push.retries` (lanes.py tells them).

*Order*: events of one key come to an endpoint in the order in which they were given, a repeat aside: while one of them waits,
those after it wait behind it. *Time*: `send` waits for an endpoint for `LIVE` seconds at most, for all its requests together;
one that needs longer, or fails, costs its own events a way through Kafka, and others nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
import structlog
from prometheus_client import Counter, Gauge

from infra.documents.webhooks import Endpoint
from infra.journal import Entry
from schemas import codec, names
from schemas.records import DeadLetter, Retry
from workers.once import Producer
from workers.webhooks.circuit import Circuit
from workers.webhooks.events import Batch, Event, batches
from workers.webhooks.heads import Item
from workers.webhooks.sender import Outcome, Reply, Sender, Verdict, reply_of
from workers.webhooks.waiting import Route, Waiting

LIVE: Final = 1.0
"""Seconds that somebody who has an event waits for the endpoint, at most."""

MAX_CIRCUITS: Final = 10_000
"""Endpoints that are remembered; beyond, those that are well are forgotten."""

log = structlog.get_logger("webhooks")
told = Counter("longwire_webhooks_events_total", "Events by what became of them", ["outcome"])
waits = Gauge("longwire_webhooks_waiting", "Events that wait for their webhook")

Answered = Callable[[Event, Reply], Entry]
"""What an endpoint's reply to an event is made of; raises ValueError where it does not fit."""


@dataclass(frozen=True, slots=True)
class Lost:
    """An event, or its reply, that is a dead letter, and why."""

    event: Event
    reason: str
    item: Item | None = None


class _Turn:
    """The time of one `send`: `LIVE` seconds for all its requests."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._end = clock() + LIVE
        self._slowest = 0.0

    def left(self) -> float:
        """Seconds until what is not told is kept."""
        return self._end - self._clock()

    def over(self) -> bool:
        """Is less left than a request took? Cut short it would tell of a well endpoint that it is away."""
        return self.left() <= self._slowest

    def took(self, seconds: float) -> None:
        """A request took so long."""
        self._slowest = max(self._slowest, seconds)


class Outbox:
    """Sends events to endpoints. One for a process: it knows which events wait, and which endpoints fail."""

    def __init__(
        self,
        journal: Producer,
        sender: Sender,
        waiting: Waiting,
        answered: Answered,
        *,
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._journal = journal
        self._sender = sender
        self._waiting = waiting
        self._answered = answered
        self._wall = wall
        self._clock = clock
        self._circuits: dict[tuple[str, str, str], Circuit] = {}
        self._quick: dict[Route, Circuit] = {}  # is it asked by who can't wait for long? A lane's success says nothing of that

    async def send(self, endpoint: Endpoint, events: Sequence[Event]) -> None:
        """Tell events of one product, in order per key. On return each was taken, or is kept, or is a dead letter; raises
        JournalDown: then send them again, what was taken comes twice."""
        if not events:
            return
        route, circuit = (events[0].product, endpoint.name), self.circuit(events[0].product, endpoint)
        quick = self._quick.setdefault(route, Circuit(clock=self._clock))
        at_once = circuit.closed and not quick.wait()
        reason = "" if at_once else "the endpoint is away, or slow"
        now = [event for event in events if at_once and not self._waiting.holds(route, event.key)]
        told_now, behind, entries = {event.id for event in now}, set[str](), list[Entry]()
        turn = _Turn(self._clock)
        for batch in batches(now, endpoint.batch):
            keys = {event.key for event in batch.events}
            if circuit.closed and not quick.wait() and not keys & behind and not turn.over():
                verdict = await self._live(endpoint, batch, circuit, quick, turn)
                if verdict.outcome is Outcome.TAKEN:
                    entries += self.taken(endpoint, batch, verdict)
                    continue
                reason = verdict.reason
            behind |= keys
            told_now -= {event.id for event in batch.events}
        reason = reason or ("more than can be told at once" if turn.over() else "events before it wait")
        await self._keep(route, [event for event in events if event.id not in told_now], reason, entries)

    async def _live(self, endpoint: Endpoint, batch: Batch, circuit: Circuit, quick: Circuit, turn: _Turn) -> Verdict:
        """One request of who has an event; `quick` learns of it, too."""
        began, left = self._clock(), turn.left()
        verdict = await self.post(endpoint, batch, circuit, within=min(endpoint.timeout, left))
        turn.took(left - turn.left())
        if verdict.outcome is Outcome.TAKEN:
            quick.taken()
        elif verdict.outcome is Outcome.AWAY:
            quick.failed(began)
        return verdict

    def circuit(self, product: str, endpoint: Endpoint) -> Circuit:
        """Of an endpoint; another URL is another one."""
        if len(self._circuits) > MAX_CIRCUITS:
            self._circuits = {key: circuit for key, circuit in self._circuits.items() if not circuit.closed}
            self._quick = {}
        return self._circuits.setdefault((product, endpoint.name, endpoint.url), Circuit(clock=self._clock))

    async def post(self, endpoint: Endpoint, batch: Batch, circuit: Circuit, *, within: float) -> Verdict:
        """One request; the circuit learns of it."""
        began = self._clock()
        verdict = await self._sender.post(endpoint, batch, within=within)
        if verdict.outcome is Outcome.AWAY:
            circuit.failed(began, verdict.retry_after)
            log.warning("webhook away", product=batch.events[0].product, endpoint=endpoint.name, reason=verdict.reason)
        else:
            circuit.taken()
        return verdict

    def taken(self, endpoint: Endpoint, batch: Batch, verdict: Verdict) -> list[Entry]:
        """What is to be produced for events that were taken: the replies to those that want one."""
        told.labels("taken").inc(len(batch.events))
        entries = []
        for event in batch.events:
            if not event.data.get("wants_reply"):
                continue
            try:
                reply = reply_of(verdict, event.id)
                if reply is not None:
                    entries.append(self._answered(event, reply))
            except ValueError as error:
                entries.append(self.letter(endpoint.name, Lost(event, f"no reply: {error}")))
        return entries

    def letter(self, endpoint: str, lost: Lost) -> Entry:
        """The dead letter of an event."""
        event, item, now = lost.event, lost.item, int(self._wall() * 1000)
        told.labels("dead").inc()
        log.warning("event is a dead letter", product=event.product, endpoint=endpoint, id=event.id, reason=lost.reason)
        client = event.data.get("client")
        record = DeadLetter(
            topic=names.RETRIES,
            partition=item.partition if item else -1,
            offset=item.offset if item else -1,
            reason=f"webhook {endpoint}: {lost.reason}"[:500],
            at_ms=now,
            key=names.retry_key(event.product, endpoint, event.id).encode(),
            value=codec.encode(_kept(event, endpoint, now, lost.reason))[: 128 * 1024],
            id=event.id,
            client=client if isinstance(client, str) else None,
            product=event.product,
        )
        return Entry(names.DEAD, event.product, record)

    async def _keep(self, route: Route, later: Sequence[Event], reason: str, entries: Sequence[Entry]) -> None:
        room, now = self._waiting.room(route), int(self._wall() * 1000)
        kept = [Entry(names.RETRIES, names.retry_key(*route, each.id), _kept(each, route[1], now, reason), by=each.key)
                for each in later[:room]]  # fmt: skip
        lost = [self.letter(route[1], Lost(event, "too many events wait for it")) for event in later[room:]]
        places = await self._journal.produce([*kept, *lost, *entries])
        for event, place in zip(later[:room], places, strict=False):
            self._waiting.add(route, Item(event.id, event.key, place.partition, place.offset, now))
        told.labels("kept").inc(len(kept))
        waits.set(len(self._waiting))


def _kept(event: Event, endpoint: str, now_ms: int, reason: str) -> Retry:
    return Retry(
        id=event.id,
        product=event.product,
        endpoint=endpoint,
        type=event.type,
        key=event.key,
        at_ms=event.at_ms,
        data=msgspec.json.encode(event.data),
        since_ms=now_ms,
        reason=reason[:200],
    )


def event_of(retry: Retry) -> Event:
    """The event that waits; raises ValueError where its data is no JSON object."""
    data = msgspec.json.decode(retry.data)
    if not isinstance(data, dict):
        raise ValueError("its data is no JSON object")
    return Event(retry.id, retry.type, retry.product, retry.key, retry.at_ms, data)
