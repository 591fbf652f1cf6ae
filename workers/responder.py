"""The other shared skeleton: a worker that answers batches from rooms, as a member of a NATS queue group.

Decode, check the bounds, handle, answer with one result an item. What is retryable is answered as such, and the room asks again;
a batch that does not decode is refused and counted. Nothing is remembered: a repeat is harmless by the scripts' own rules.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, TypeVar

import msgspec
import structlog
from prometheus_client import Counter

from infra.bus import Bus
from infra.journal import JournalDown
from infra.register import RegisterDown
from infra.wire import MAX_BYTES, MAX_ITEMS, VERSION, Reply, Request

RETRYABLE: Final = (JournalDown, RegisterDown)
CONCURRENCY: Final = 8

log = structlog.get_logger("responder")
answered = Counter("longwire_responder_items_total", "Items answered", ["endpoint"])
refused = Counter("longwire_responder_refused_total", "Batches that did not decode or were out of bounds", ["endpoint"])
deferred = Counter("longwire_responder_deferred_total", "Batches that the sender was asked to repeat", ["endpoint", "reason"])

I = TypeVar("I")  # noqa: E741
O = TypeVar("O")  # noqa: E741


class BadBatch(ValueError):
    """A batch that is not of the wire's form; it is answered as failed."""


async def respond(
    bus: Bus,
    name: str,
    *,
    subject: str,
    queue: str,
    item: type[I],
    handle: Callable[[Sequence[I]], Awaitable[list[O]]],
    plain: O | None = None,
) -> None:
    """Serve `subject` with `handle(items) -> results` (same order and number). Who asked for it is not told of results that are
    all `plain`."""
    decoder = msgspec.msgpack.Decoder(Request[item])  # type: ignore[valid-type]
    encoder = msgspec.msgpack.Encoder()

    async def answer(data: bytes) -> bytes:
        request = _decode(decoder, data, name)
        try:
            results = await handle(request.items)
        except RETRYABLE as error:
            deferred.labels(name, type(error).__name__).inc()
            return encoder.encode(Reply(request.seq, [], f"{type(error).__name__}: {error}"[:200]))
        answered.labels(name).inc(len(results))
        if request.brief and plain is not None and results.count(plain) == len(results):
            results = []
        return encoder.encode(Reply(request.seq, results))

    await bus.serve(name, subject, answer, queue=queue, concurrency=CONCURRENCY)


def _decode(decoder: msgspec.msgpack.Decoder[Any], data: bytes, name: str) -> Request[Any]:
    reason = ""
    if len(data) > MAX_BYTES:
        reason = f"{len(data)} bytes, more than {MAX_BYTES}"
    else:
        try:
            request: Request[Any] = decoder.decode(data)
            if request.version != VERSION:
                reason = f"version {request.version}, this worker speaks {VERSION}"
            elif len(request.items) > MAX_ITEMS:
                reason = f"{len(request.items)} items, more than {MAX_ITEMS}"
        except msgspec.MsgspecError as error:
            reason = str(error)
    if reason:
        refused.labels(name).inc()
        raise BadBatch(f"{name}: {reason}")
    return request
