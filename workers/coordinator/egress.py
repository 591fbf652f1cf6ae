"""Egress: consumes `push.uplink`, tells the product's webhooks, and asks its NATS service for each uplink whose type the product
lists in `services`.

The request on `app.{product}.{type}` is one JSON object (UTF-8)::

    {"id", "product", "type", "realm", "client", "user" | null, "payload_base64", "content_type" | null,
     "properties": {name: value}, "qos", "room", "received_ms", "wants_reply"}

and the answer's bytes, as they are, become a message for the client at QoS 1 if the device asked for a reply (MQTT Response
Topic), with its Correlation Data. Copies of one `id` are asked once, unless a hand-over of the partition lies between them; a
batch that is handled again is asked again; the order of requests is free. A service that can't handle an uplink answers with
the header `Nats-Service-Error-Code` (as NATS micro does). Whoever does not answer in `ATTEMPTS` attempts costs a dead letter
with the reason, so one product's dead service does not hold up the others; the uplink itself stays in `push.uplink`.

A *webhook* gets each uplink that it asks for as an event `uplink.received`, whose `data` is the same object with `group` and
`correlation_base64`; `wants_reply` is true only for the one whose answer counts: the service's where the type has one, else the
first webhook's in the product's document.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

from prometheus_client import Counter

from infra.bus import BusDown, BusError
from infra.documents import Endpoint, Product
from infra.journal import Entry
from schemas import codec, names
from schemas.records import PushMessage, Uplink
from workers.coordinator.replies import envelope, event_of, reply_to
from workers.once import Producer, Recent, digest_of, repeats
from workers.runner import Dead, Incoming, Retryable
from workers.webhooks import Event

ATTEMPTS: Final = 3
BACKOFF_S: Final = (0.1, 0.4)
IN_FLIGHT: Final = 128
"""Requests that wait for the answer of one service (product, type), in one batch."""

T = TypeVar("T")

served = Counter("longwire_coordinator_served_total", "Uplinks by what their service made of them", ["outcome"])
attempted = Counter("longwire_coordinator_failed_attempts_total", "Requests to services that failed", ["reason"])


class Products(Protocol):
    """The products as they are now (infra.keeper.Keeper)."""

    @property
    def products(self) -> Mapping[str, Product]:
        """Products by name."""

    @property
    def current(self) -> bool:
        """Is a product that is not there known not to exist?"""


class Requester(Protocol):
    """How services are asked (infra.bus.Bus)."""

    async def request(self, subject: str, payload: bytes, *, timeout: float | None = None) -> bytes:
        """The answer; raises BusDown if our own connection is down, else another BusError."""


@dataclass(frozen=True, slots=True)
class _Taken:
    """A record with its uplink, or why it is none."""

    record: Incoming
    digest: bytes
    uplink: Uplink | None = None
    why: str = ""


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What became of one record: a reply to produce, a dead letter, or neither (no service, no reply wanted)."""

    reply: PushMessage | None = None
    dead: Dead | None = None


class _Route:
    """One service's requests in one batch. `away` once an uplink has used up its attempts: the others get one each."""

    def __init__(self, subject: str, timeout: float) -> None:
        self.subject = subject
        self.timeout = timeout
        self.away = False
        self.places = asyncio.Semaphore(IN_FLIGHT)


class _Away(Exception):
    """A service that did not answer an uplink."""


class Outbox(Protocol):
    """Where events go (workers.webhooks.Outbox)."""

    async def send(self, endpoint: Endpoint, events: Sequence[Event]) -> None:
        """Tell them, or keep them; raises JournalDown."""


class Kept(Protocol):
    """What was kept before (workers.webhooks.Shelf)."""

    async def caught_up(self) -> None:
        """Return when it is known; raises JournalDown."""


class Owner(Protocol):
    """Who tells what is kept (workers.webhooks.Lanes)."""

    def own(self, partitions: frozenset[int]) -> None:
        """Of these partitions, from now on."""


class Hooks:
    """The webhooks' half: who has a partition of `push.uplink` has the one of `push.retries` with its number, too."""

    def __init__(self, outbox: Outbox, kept: Kept, owner: Owner, products: Products) -> None:
        self._outbox = outbox
        self._kept = kept
        self._owner = owner
        self._products = products

    async def own(self, partitions: frozenset[int]) -> None:
        """These are ours; raises JournalDown while it is not known what was kept before."""
        if partitions:
            await self._kept.caught_up()
        self._owner.own(partitions)

    async def tell(self, uplinks: Sequence[Uplink]) -> None:
        """Tell each to whom it is for, side by side; raises JournalDown."""
        told: dict[tuple[str, str], tuple[Endpoint, list[Event]]] = {}
        for uplink in uplinks:
            product = self._products.products.get(uplink.product)
            wanted = uplink.wants_reply and product is not None and uplink.type not in product.services
            for endpoint in product.webhooks if product is not None else ():
                if endpoint.takes(uplink.type):
                    event = event_of(uplink, wants_reply=wanted)
                    told.setdefault((uplink.product, endpoint.name), (endpoint, []))[1].append(event)
                    wanted = False
        await _all(self._outbox.send(endpoint, events) for endpoint, events in told.values())


class Services:
    """The runner's handler for `push.uplink`: asks the services, side by side, and produces the replies in the uplinks' order."""

    def __init__(self, bus: Requester, journal: Producer, products: Products, hooks: Hooks | None = None) -> None:
        """`hooks`: tells webhooks beside it."""
        self._bus = bus
        self._hooks = hooks
        self._journal = journal
        self._products = products
        self._handled: dict[int, Recent] = {}

    async def assigned(self, partitions: frozenset[int]) -> None:
        """What was handled before is not known here."""
        self._handled |= {partition: Recent() for partition in partitions}
        if self._hooks is not None:
            await self._hooks.own(frozenset(self._handled))

    async def revoked(self, partitions: frozenset[int]) -> None:
        """Forget their ids: another goes on from here."""
        for partition in partitions:
            self._handled.pop(partition, None)
        if self._hooks is not None:
            await self._hooks.own(frozenset(self._handled))

    async def handle(self, partition: int, records: Sequence[Incoming]) -> list[Dead]:
        """Ask for all records; raises BusDown, JournalDown or Retryable: then all are asked again, with the same reply ids."""
        routes: dict[str, _Route] = {}
        handled = self._handled.setdefault(partition, Recent())
        uplinks = _first_of_each((_decoded(record) for record in records), handled)
        self._know({each.uplink.product for each in uplinks if each.uplink is not None})
        told: Coroutine[Any, Any, None] = self._tell([each.uplink for each in uplinks if each.uplink is not None])
        asked: Coroutine[Any, Any, list[_Outcome]] = _all(self._one(each, routes) for each in uplinks)
        outcomes = (await _all([asked, told]))[0] or []
        replies = [outcome.reply for outcome in outcomes if outcome.reply is not None]
        await self._journal.produce([Entry(names.MESSAGES, reply.client or "", reply) for reply in replies])
        for each in uplinks:
            handled.add(each.digest)
        return [outcome.dead for outcome in outcomes if outcome.dead is not None]

    def _know(self, products: Iterable[str]) -> None:
        """Raises Retryable where it is not known whether there is such a product: nobody asks for uplinks of one that is not."""
        missing = sorted(name for name in products if name not in self._products.products)
        if missing and not self._products.current:
            raise Retryable(f"product {missing[0]} is not known, and the keeper was not read lately")

    async def _tell(self, uplinks: Sequence[Uplink]) -> None:
        if self._hooks is not None:
            await self._hooks.tell(uplinks)

    async def _one(self, taken: _Taken, routes: dict[str, _Route]) -> _Outcome:
        record, uplink = taken.record, taken.uplink
        if uplink is None:
            served.labels("undecodable").inc()
            return _Outcome(dead=Dead(record, taken.why))
        product = self._products.products.get(uplink.product)
        if product is None or uplink.type not in product.services:
            served.labels("no-service").inc()
            return _Outcome()
        subject = names.service_subject(product.name, uplink.type)
        route = routes.setdefault(subject, _Route(subject, product.service_timeout))
        try:
            answer = await self._ask(route, envelope(uplink))
            reply = reply_to(uplink, answer, product) if uplink.wants_reply else None
        except (_Away, ValueError) as error:
            served.labels("dead").inc()
            return _Outcome(dead=Dead(record, str(error), uplink.id, uplink.client, uplink.product))
        served.labels("replied" if reply else "answered").inc()
        return _Outcome(reply=reply)

    async def _ask(self, route: _Route, request: bytes) -> bytes:
        async with route.places:
            reason = ""
            for attempt in range(ATTEMPTS):
                try:
                    return await self._bus.request(route.subject, request, timeout=route.timeout)
                except BusDown:
                    raise  # our own connection: the service is not to blame, and the batch is handled again
                except BusError as error:
                    reason = f"{type(error).__name__}: {error}"
                    attempted.labels(type(error).__name__).inc()
                if route.away or attempt == ATTEMPTS - 1:
                    break
                await asyncio.sleep(BACKOFF_S[attempt])
            route.away = True
            raise _Away(f"service {route.subject} did not answer in {attempt + 1} attempts: {reason}"[:400])


def _decoded(record: Incoming) -> _Taken:
    try:
        uplink = codec.decode_as(Uplink, record.value or b"")
    except codec.Undecodable as error:
        return _Taken(record, b"%d" % record.offset, why=str(error))
    key = names.client_key(uplink.realm, uplink.client)
    return _Taken(record, digest_of(uplink.product, key, uplink.id), uplink)


def _first_of_each(uplinks: Iterable[_Taken], handled: Recent) -> list[_Taken]:
    """Without the copies: of what was handled before (its dead letter counts too), and within the batch."""
    found: dict[bytes, _Taken] = {}
    for each in uplinks:
        if each.digest in handled or each.digest in found:
            repeats.labels("egress").inc()
        else:
            found[each.digest] = each
    return list(found.values())


async def _all(calls: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """The outcomes, in order. The first failure ends the others: the batch is handled again as a whole."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(call) for call in calls]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]
