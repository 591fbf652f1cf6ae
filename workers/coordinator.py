"""The coordinator: what devices send, into Kafka, and from there to the products' services and back.

*Ingress*: rooms ask `coordinator.uplink`; the answer is `ok` only when Kafka has the record, so a device's PUBACK means that. A
repeat of what this coordinator has taken lately is answered without another record (workers/once.py). A copy may still be in
`push.uplink` where the repeat reached another coordinator, or Kafka's answer was lost: readers know it by its id.

*Egress*: consumes `push.uplink` and asks the product's NATS service for each uplink whose type the product lists in `services`.
The request on `app.{product}.{type}` is one JSON object (UTF-8)::

    {"id", "product", "type", "realm", "client", "user" | null, "payload_base64", "content_type" | null,
     "properties": {name: value}, "qos", "room", "received_ms", "wants_reply"}

and the answer's bytes, as they are, become a message for the client at QoS 1 if the device asked for a reply (MQTT Response
Topic), with its Correlation Data. Copies of one `id` are asked once, unless a hand-over of the partition lies between them; a
batch that is handled again is asked again; the order of requests is free. A service that can't handle an uplink answers with
the header `Nats-Service-Error-Code` (as NATS micro does). Whoever does not answer in `ATTEMPTS` attempts costs a dead letter
with the reason, so one product's dead service does not hold up the others; the uplink itself stays in `push.uplink`.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final, Protocol

import msgspec
import structlog
from prometheus_client import Counter

from infra.bus import Bus, BusDown, BusError
from infra.documents import Product
from infra.journal import Entry, JournalDown
from infra.lifecycle import Awake, Loops
from infra.wire import OK, UplinkItem, UplinkResult
from schemas import codec, names
from schemas.codes import MAX_PAYLOAD, MAX_PROPERTIES, MAX_PROPERTIES_BYTES
from schemas.records import PushMessage, Uplink
from workers.once import Once, Producer, Recent, digest_of, repeats
from workers.responder import respond
from workers.runner import Dead, Incoming

ATTEMPTS: Final = 3
BACKOFF_S: Final = (0.1, 0.4)
IN_FLIGHT: Final = 128
"""Requests that wait for the answer of one service (product, type), in one batch."""
MAX_CORRELATION: Final = 1024
STOPPED: Final = 2.5
"""Seconds after which rooms ask another coordinator, about."""

REFUSED: Final = "refused"
NOT_AUTHORIZED: Final = 0x87
TOPIC_NAME_INVALID: Final = 0x90
QUOTA_EXCEEDED: Final = 0x97
IMPLEMENTATION_SPECIFIC: Final = 0x83

log = structlog.get_logger("coordinator")
taken = Counter("longwire_coordinator_uplinks_total", "Uplinks by what was answered", ["status"])
served = Counter("longwire_coordinator_served_total", "Uplinks by what their service made of them", ["outcome"])
attempted = Counter("longwire_coordinator_failed_attempts_total", "Requests to services that failed", ["reason"])


class Products(Protocol):
    """The products as they are now (infra.keeper.Keeper)."""

    @property
    def products(self) -> Mapping[str, Product]:
        """Products by name."""


class Requester(Protocol):
    """How services are asked (infra.bus.Bus)."""

    async def request(self, subject: str, payload: bytes, *, timeout: float | None = None) -> bytes:
        """The answer; raises BusDown if our own connection is down, else another BusError."""


# --- ingress -----------------------------------------------------------------------------------------------------------


class Ingress:
    """Answers rooms' uplinks: what is good is produced together, and answered when Kafka has all of it."""

    def __init__(
        self,
        bus: Bus,
        journal: Producer,
        products: Products,
        *,
        awake: Awake | None = None,
        clock: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        fail: Callable[[str], None] = lambda reason: None,
    ) -> None:
        """`clock`: milliseconds since the epoch, for `Uplink.received_ms`."""
        self._bus = bus
        self._awake = awake or Awake(within=STOPPED)
        self._loops = Loops(fail)
        self._once = Once(journal)
        self._products = products
        self._clock = clock

    async def start(self) -> None:
        """Serve `coordinator.uplink`."""
        self._loops.start("awake", self._awake.run())
        subject, queue = names.COORDINATOR_UPLINK, names.COORDINATOR_QUEUE
        await respond(self._bus, "uplink", subject=subject, queue=queue, item=UplinkItem, handle=self.take)

    async def stop(self) -> None:
        """Let go of what Kafka has not answered; the bus ends the endpoint."""
        await self._loops.stop()
        await self._once.stop()

    async def take(self, items: Sequence[UplinkItem]) -> list[UplinkResult]:
        """One result an item, in order; raises JournalDown: then none is answered, and the room repeats the batch.

        What lay here while we were stopped is refused so: the rooms have asked another coordinator meanwhile.
        """
        if not self._awake.tick():
            raise JournalDown("this coordinator was stopped for a while")
        results = [refusal(item, self._products.products) for item in items]
        now = self._clock()
        good = [item for item, result in zip(items, results, strict=True) if result is None]
        await self._once.produce({digest_of(item.product, item.key, item.id): _entry(item, now) for item in good})
        answers = [result or UplinkResult(OK) for result in results]
        for answer in answers:
            taken.labels(answer.status).inc()
        return answers


def _entry(item: UplinkItem, now_ms: int) -> Entry:
    record = uplink_of(item, now_ms)
    return Entry(names.UPLINK, record.client, record)


def refusal(item: UplinkItem, products: Mapping[str, Product]) -> UplinkResult | None:
    """Why an uplink can't be taken, now or ever, with the PUBACK reason code that says so (MQTT 5 §3.4.2.1); None if it can."""
    try:
        names.product(item.product)
        names.uplink_type(item.type)
    except names.BadName as error:
        return _refused(TOPIC_NAME_INVALID, str(error))
    if item.product not in products:
        return _refused(NOT_AUTHORIZED, f"product {item.product} is not configured")
    try:
        _check_names(item)
    except names.BadName as error:
        return _refused(IMPLEMENTATION_SPECIFIC, str(error))
    return _oversize(item, products[item.product])


def _check_names(item: UplinkItem) -> None:
    realm, client = names.split_client_key(item.key)
    names.realm(realm)
    names.client(client)
    names.message_id(item.id)
    if item.user:
        names.user(item.user)
    if item.group:
        names.group(item.group)


def _oversize(item: UplinkItem, product: Product) -> UplinkResult | None:
    bounds = (
        ("payload bytes", len(item.payload), product.max_payload),
        ("correlation data bytes", len(item.correlation or b""), MAX_CORRELATION),
        ("content type characters", len(item.content_type), 128),
        ("user properties", len(item.properties), MAX_PROPERTIES),
        ("user property bytes", sum(len(k.encode()) + len(v.encode()) for k, v in item.properties), MAX_PROPERTIES_BYTES),
        ("QoS", item.qos, 1),
    )
    for what, given, bound in bounds:
        if given > bound:
            return _refused(QUOTA_EXCEEDED, f"{what}: {given}, more than {bound}")
    return None


def _refused(code: int, reason: str) -> UplinkResult:
    return UplinkResult(REFUSED, code, reason[:200])


def uplink_of(item: UplinkItem, now_ms: int) -> Uplink:
    """The record of an uplink. Of user properties with one name, the last one counts."""
    realm, client = names.split_client_key(item.key)
    return Uplink(
        id=item.id,
        product=item.product,
        realm=realm,
        client=client,
        user=item.user or None,
        type=item.type,
        payload=item.payload,
        qos=item.qos,
        group=item.group or None,
        correlation=item.correlation,
        wants_reply=item.wants_reply,
        content_type=item.content_type or None,
        properties=dict(item.properties),
        room=item.room,
        received_ms=now_ms,
    )


# --- egress ------------------------------------------------------------------------------------------------------------


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


class Services:
    """The runner's handler for `push.uplink`: asks the services, side by side, and produces the replies in the uplinks' order."""

    def __init__(self, bus: Requester, journal: Producer, products: Products) -> None:
        self._bus = bus
        self._journal = journal
        self._products = products
        self._handled: dict[int, Recent] = {}

    async def assigned(self, partitions: frozenset[int]) -> None:
        """What was handled before is not known here."""
        self._handled |= {partition: Recent() for partition in partitions}

    async def revoked(self, partitions: frozenset[int]) -> None:
        """Forget their ids: another goes on from here."""
        for partition in partitions:
            self._handled.pop(partition, None)

    async def handle(self, partition: int, records: Sequence[Incoming]) -> list[Dead]:
        """Ask for all records; raises BusDown or JournalDown: then all are asked again, with the same reply ids."""
        routes: dict[str, _Route] = {}
        handled = self._handled.setdefault(partition, Recent())
        uplinks = _first_of_each((_decoded(record) for record in records), handled)
        outcomes = await _all(self._one(each, routes) for each in uplinks)
        replies = [outcome.reply for outcome in outcomes if outcome.reply is not None]
        await self._journal.produce([Entry(names.MESSAGES, reply.client or "", reply) for reply in replies])
        for each in uplinks:
            handled.add(each.digest)
        return [outcome.dead for outcome in outcomes if outcome.dead is not None]

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


async def _all(calls: Iterable[Coroutine[Any, Any, _Outcome]]) -> list[_Outcome]:
    """The outcomes, in order. The first failure ends the others: the batch is handled again as a whole."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(call) for call in calls]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]


def envelope(uplink: Uplink) -> bytes:
    """The request to a service: the JSON object that the module describes."""
    return msgspec.json.encode(
        {
            "id": uplink.id,
            "product": uplink.product,
            "type": uplink.type,
            "realm": uplink.realm,
            "client": uplink.client,
            "user": uplink.user,
            "payload_base64": base64.b64encode(uplink.payload).decode(),
            "content_type": uplink.content_type,
            "properties": uplink.properties,
            "qos": uplink.qos,
            "room": uplink.room,
            "received_ms": uplink.received_ms,
            "wants_reply": uplink.wants_reply,
        }
    )


def reply_id(uplink: Uplink) -> str:
    """The id of an uplink's reply: the same for every repeat, so it is stored once."""
    source = "\0".join((uplink.realm, uplink.client, uplink.product, uplink.id))
    return f"re-{sha256(source.encode()).hexdigest()[:40]}"


def reply_to(uplink: Uplink, answer: bytes, product: Product) -> PushMessage:
    """The message that carries a service's answer; raises ValueError if it is out of the product's bounds."""
    bound = min(product.max_payload, MAX_PAYLOAD)
    if len(answer) > bound:
        raise ValueError(f"the service's answer has {len(answer)} bytes; product {product.name} allows {bound}")
    message = PushMessage(
        id=reply_id(uplink),
        product=uplink.product,
        client=uplink.client,
        realm=uplink.realm,
        payload=answer,
        group=uplink.group,
        correlation=uplink.correlation,
    )
    message.check()
    return message
