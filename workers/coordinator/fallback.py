"""Products' webhooks for what is in `push.fallback`: the products that name one need no Kafka consumer of their own.

One POST has up to `BATCH` records of one product, as one JSON object (UTF-8)::

    {"product", "records": [{"id", "realm", "client", "user" | null, "payload_base64", "content_type" | null,
     "properties": {name: value}, "accepted_ms", "reason"}]}

2xx takes all of them; anything else, a redirect too, is tried again with pauses, and after `ATTEMPTS` attempts each record is a
dead letter with the reason. A webhook that used them up gets one attempt a batch for `AWAY_S`: it must not hold up the others.
The offset is committed only after the answer or the dead letters, so a record may be posted twice, with the same id.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

import msgspec
import structlog
from prometheus_client import Counter

from infra.documents import Product
from schemas import codec
from schemas.records import Fallback
from workers.outside import NoAnswer, Outside
from workers.runner import Dead, Incoming, Retryable

BATCH: Final = 100
BATCH_BYTES: Final = 1024 * 1024
"""Payload bytes in one POST, about; one record always fits."""
ATTEMPTS: Final = 4
BACKOFF_S: Final = (0.5, 2.0, 8.0)
TIMEOUT: Final = 10.0
"""Seconds for one attempt, from the connection to the end of the answer."""
ANSWER_BYTES: Final = 64 * 1024
"""What is read of an answer, at most: only its status counts, and read to its end the connection can be used again."""
AWAY_S: Final = 30.0

log = structlog.get_logger("fallback")
posted = Counter("longwire_fallback_records_total", "Records of push.fallback by what their webhook made of them", ["outcome"])
attempted = Counter("longwire_fallback_failed_attempts_total", "POSTs to webhooks that failed")


class Products(Protocol):
    """The products as they are now (infra.keeper.Keeper)."""

    @property
    def products(self) -> Mapping[str, Product]:
        """Products by name."""

    @property
    def current(self) -> bool:
        """Is a product that is not there known not to exist?"""


@dataclass(frozen=True, slots=True)
class Taken:
    """A record with what it holds."""

    source: Incoming
    record: Fallback


class Webhooks:
    """The runner's handler for `push.fallback`."""

    def __init__(
        self,
        products: Products,
        outside: Outside,
        *,
        backoff: Sequence[float] = BACKOFF_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._products = products
        self._outside = outside
        self._backoff = backoff
        self._clock = clock
        self._away: dict[str, float] = {}  # product → when its webhook gets all attempts again

    async def assigned(self, partitions: frozenset[int]) -> None:
        """Nothing is kept between batches that another would need."""

    async def revoked(self, partitions: frozenset[int]) -> None:
        """Nothing is kept between batches that another would need."""

    async def handle(self, partition: int, records: Sequence[Incoming]) -> list[Dead]:
        """Post what has a webhook, the products side by side; returns the dead letters. Raises Retryable."""
        letters: list[Dead] = []
        routes: dict[tuple[str, str], list[Taken]] = {}
        for source in records:
            try:
                record = codec.decode_as(Fallback, source.value or b"")
            except codec.Undecodable as error:
                letters.append(Dead(source, str(error)))
                continue
            url = self._url_of(record.product)
            if url is not None:
                routes.setdefault((record.product, url), []).append(Taken(source, record))
        for refused in await asyncio.gather(*(self._product(*route, taken) for route, taken in routes.items())):
            letters += refused
        return letters

    def _url_of(self, name: str) -> str | None:
        product = self._products.products.get(name)
        if product is None and not self._products.current:
            raise Retryable(f"product {name} is not known, and the keeper was not read lately")
        if product is None or product.fallback_webhook is None:
            posted.labels("no webhook").inc()
            return None
        return product.fallback_webhook

    async def _product(self, name: str, url: str, taken: list[Taken]) -> list[Dead]:
        """One product's batches, in order."""
        letters: list[Dead] = []
        for batch in batches_of(taken):
            reason = await self._deliver(name, url, body_of(name, batch))
            posted.labels("dead" if reason else "taken").inc(len(batch))
            if reason:
                log.warning("fallback webhook failed", product=name, records=len(batch), reason=reason)
                letters += [_dead(each, reason) for each in batch]
        return letters

    async def _deliver(self, name: str, url: str, body: bytes) -> str:
        """Post one batch; "" if it was taken, else why not."""
        attempts = 1 if self._away.get(name, 0.0) > self._clock() else ATTEMPTS
        for attempt in range(attempts):
            reason = await self._attempt(url, body)
            if not reason:
                self._away.pop(name, None)
                return ""
            attempted.inc()
            if attempt < attempts - 1:
                await asyncio.sleep(self._backoff[attempt])
        self._away[name] = self._clock() + AWAY_S
        where = urlsplit(url).netloc  # the rest of it may hold a secret
        return f"the webhook at {where} did not take it in {attempts} attempts: {reason}"[:400]

    async def _attempt(self, url: str, body: bytes) -> str:
        headers = {"Content-Type": "application/json"}
        try:
            answer = await self._outside.ask("POST", url, body=body, headers=headers, most=ANSWER_BYTES, within=TIMEOUT)
        except NoAnswer as error:
            return str(error)
        return "" if answer.good else f"it answered {answer.status}"


def batches_of(taken: Sequence[Taken]) -> list[list[Taken]]:
    """In order, each within `BATCH` records and `BATCH_BYTES`."""
    batches: list[list[Taken]] = []
    size = 0
    for each in taken:
        size += len(each.record.payload)
        if not batches or len(batches[-1]) >= BATCH or size > BATCH_BYTES:
            batches.append([])
            size = len(each.record.payload)
        batches[-1].append(each)
    return batches


def body_of(product: str, batch: Sequence[Taken]) -> bytes:
    """The request's body, as the module describes it."""
    return msgspec.json.encode({"product": product, "records": [_shown(each.record) for each in batch]})


def _shown(record: Fallback) -> dict[str, Any]:
    return {
        "id": record.id,
        "realm": record.realm,
        "client": record.client,
        "user": record.user,
        "payload_base64": base64.b64encode(record.payload).decode(),
        "content_type": record.content_type,
        "properties": record.properties,
        "accepted_ms": record.accepted_ms,
        "reason": record.reason,
    }


def _dead(each: Taken, reason: str) -> Dead:
    record = each.record
    return Dead(each.source, reason, record.id, record.client, record.product, record.realm)
