"""Ingress: rooms ask `coordinator.uplink`; the answer is `ok` only when Kafka has the record, so a device's PUBACK means that.

A repeat of what this coordinator has taken lately is answered without another record (workers/once.py). A copy may still be in
`push.uplink` where the repeat reached another coordinator, or Kafka's answer was lost: readers know it by its id.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

from prometheus_client import Counter

from infra.bus import Bus
from infra.documents import Product
from infra.journal import Entry, JournalDown
from infra.lifecycle import Awake, Loops
from infra.wire import OK, UplinkItem, UplinkResult
from schemas import names
from schemas.codes import MAX_PROPERTIES, MAX_PROPERTIES_BYTES
from schemas.records import Uplink
from workers.once import Once, Producer, digest_of
from workers.responder import respond

MAX_CORRELATION: Final = 1024
STOPPED: Final = 2.5
"""Seconds after which rooms ask another coordinator, about."""

REFUSED: Final = "refused"
NOT_AUTHORIZED: Final = 0x87
TOPIC_NAME_INVALID: Final = 0x90
QUOTA_EXCEEDED: Final = 0x97
IMPLEMENTATION_SPECIFIC: Final = 0x83

taken = Counter("longwire_coordinator_uplinks_total", "Uplinks by what was answered", ["status"])


class Products(Protocol):
    """The products as they are now (infra.keeper.Keeper)."""

    @property
    def products(self) -> Mapping[str, Product]:
        """Products by name."""


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
    product = products[item.product]
    if product.unknown_types == "refuse" and not product.knows(item.type):
        return _refused(TOPIC_NAME_INVALID, f"product {item.product} has no uplinks of type {item.type}")
    return _oversize(item, product)


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
