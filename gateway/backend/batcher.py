"""Requests of many clients, sent as batches: one `Batcher` for each NATS subject.

A batch leaves at the end of the loop's turn, while fewer than `MAX_UNANSWERED` are under way; otherwise items gather. What is
not answered (timeout, nobody there, `retry`) is asked again after a backoff with full jitter: every request is idempotent.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Generic, Protocol, TypeVar

import msgspec
import structlog

from gateway import metrics
from gateway.ports import Done
from infra.bus import BusError
from infra.lifecycle import end
from infra.wire import MAX_BYTES, MAX_ITEMS, MAX_UNANSWERED, RETRY, Reply, encoder, reply_decoder, request_of

NEVER: Final = math.inf
BACKOFF: Final = (0.1, 3.0)
"""Seconds before the second try, doubled for each further one, and the most."""
HEADROOM: Final = 1024
"""Bytes of a batch that are its own: version, sender, number, array headers."""

ITEM_COST: Final = 512
"""Bytes that an item takes beside its own: 420 to 570 were measured, with 40,000 items of each kind that wait."""

log = structlog.get_logger("batcher")

I = TypeVar("I", bound=msgspec.Struct)  # noqa: E741
O = TypeVar("O", bound="HasStatus")  # noqa: E741


class HasStatus(Protocol):
    """A result of the wire."""

    @property
    def status(self) -> str:
        """`retry` means: ask again."""


class Ask(Generic[O]):
    """One item on its way. It is encoded once, however often it is sent."""

    __slots__ = ("_done", "cancelled", "data", "expires", "sent", "tries")

    def __init__(self, data: bytes, done: Done[O], expires: float) -> None:
        self.data = data
        self.expires = expires
        self.tries = 0
        self.sent = False
        self.cancelled = False
        self._done: Done[O] | None = done

    def cancel(self) -> None:
        """See `gateway.ports.Ask`."""
        self.cancelled = True
        if not self.sent:
            self.finish(None)

    def finish(self, result: O | None) -> None:
        """Tell whoever waits, once. What it raises is ours to log: the other items of the batch have their own results."""
        done, self._done = self._done, None
        if done is not None:
            try:
                done(result)
            except Exception:
                log.exception("result not taken")

    @property
    def over(self) -> bool:
        """Already finished."""
        return self._done is None


class Batcher(Generic[I, O]):
    """Batches to `subject`. `limit`: items that may wait, at most; the oldest is given up for a new one beyond it."""

    def __init__(
        self,
        request: Callable[[str, bytes], Awaitable[bytes]],
        subject: str,
        result: type[O],
        *,
        sender: str,
        limit: int,
        give_up: float = NEVER,
        plain: O | None = None,
        told: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        backoff: tuple[float, float] = BACKOFF,
    ) -> None:
        """`give_up`: seconds after which an item is no longer repeated; `plain`: the result of each item where the answer names
        none; `told()`: after items were finished, once a batch; `backoff`: seconds before the second try, and before any,
        at most."""
        self._request = request
        self._subject = subject
        self._sender = sender
        self._limit = limit
        self._give_up = give_up
        self._plain = plain
        self._told = told
        self._clock = clock
        self._backoff, self._backoff_cap = backoff
        self._decoder = reply_decoder(result)
        self._encode = encoder().encode
        self._waiting: deque[Ask[O]] = deque()
        self._later: dict[asyncio.TimerHandle, list[Ask[O]]] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._scheduled = False
        self._stopped = False
        self._seq = 0
        self.bytes = 0
        """Bytes of all items that are not finished."""
        self.items = 0
        self.idle = asyncio.Event()
        """Set while nothing waits and nothing is under way."""
        self.idle.set()

    def ask(self, item: I, done: Done[O]) -> Ask[O]:
        """Send an item with the next batch; `done` gets its result, at once (None) where it is larger than a batch may be."""
        ask: Ask[O] = Ask(self._encode(item), done, NEVER if self._give_up == NEVER else self._clock() + self._give_up)
        size = len(ask.data)
        if not self.items:
            self.idle.clear()
        self.items += 1
        self.bytes += size
        if size > MAX_BYTES - HEADROOM:
            log.error("a request that no batch can carry is given up", subject=self._subject, bytes=size)
            self._lose(ask)
            return ask
        if self.items > self._limit:
            self._make_place()
        self._waiting.append(ask)
        if not self._scheduled:
            self._schedule()
        return ask

    @property
    def weight(self) -> int:
        """Bytes of memory that all items that are not finished take, about."""
        return self.bytes + ITEM_COST * self.items

    async def stop(self) -> None:
        """Stop asking; whatever waits is given up."""
        self._stopped = True
        await end(self._running)
        for handle in self._later:
            handle.cancel()

    # --- batches -------------------------------------------------------------------------------------------------------

    def _schedule(self) -> None:
        if not self._scheduled and not self._stopped and self._waiting and len(self._running) < MAX_UNANSWERED:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._start)

    def _start(self) -> None:
        self._scheduled = False
        while not self._stopped and len(self._running) < MAX_UNANSWERED and (batch := self._take()):
            task = asyncio.ensure_future(self._send(batch))
            self._running.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("batch failed", subject=self._subject, exc_info=error)
        self._schedule()

    def _take(self) -> list[Ask[O]]:
        batch: list[Ask[O]] = []
        size = HEADROOM
        while self._waiting and len(batch) < MAX_ITEMS:
            ask = self._waiting[0]
            if batch and size + len(ask.data) > MAX_BYTES:
                break
            self._waiting.popleft()
            if ask.over:
                self._finish([ask], [None])
                continue
            size += len(ask.data)
            ask.sent = True  # from here on it may be answered: to cancel it is to wait for that
            batch.append(ask)
        return batch

    async def _send(self, batch: list[Ask[O]]) -> None:
        self._seq += 1
        seq = self._seq
        metrics.batches.labels(self._subject).inc()
        try:
            body = request_of(self._sender, seq, [ask.data for ask in batch], brief=self._plain is not None)
            reply: Reply[O] = self._decoder.decode(await self._request(self._subject, body))
            reason = reply.error and "asked to"
        except (BusError, msgspec.MsgspecError) as error:
            reason = type(error).__name__
        except BaseException:
            self._again(batch, "failed")
            raise
        if reason:
            self._again(batch, reason)
        elif reply.seq == seq and not reply.items and self._plain is not None:
            self._finish(batch, [self._plain] * len(batch))
            self._told()
        elif reply.seq == seq and len(reply.items) == len(batch):
            self._conclude(batch, reply.items)
        else:
            self._again(batch, "mismatch")

    def _conclude(self, batch: list[Ask[O]], results: list[O]) -> None:
        answered = [(ask, result) for ask, result in zip(batch, results, strict=True) if result.status != RETRY]
        self._finish([ask for ask, _ in answered], [result for _, result in answered])
        self._told()
        if len(answered) < len(batch):
            self._again([ask for ask, result in zip(batch, results, strict=True) if result.status == RETRY], RETRY)

    def _finish(self, asks: list[Ask[O]], results: Sequence[O | None]) -> None:
        """These are over: they take no place any more, and then whoever waits is told."""
        self.items -= len(asks)
        self.bytes -= sum([len(ask.data) for ask in asks])
        for ask, result in zip(asks, results, strict=True):
            ask.finish(result)
        if not self.items:
            self.idle.set()

    # --- again, or never -----------------------------------------------------------------------------------------------

    def _again(self, asks: list[Ask[O]], reason: str) -> None:
        now = self._clock()
        kept = []
        for ask in asks:
            ask.sent = False
            ask.tries += 1
            if ask.cancelled:
                self._finish([ask], [None])
            elif now >= ask.expires:
                self._lose(ask)
            else:
                kept.append(ask)
        self._told()
        metrics.retries.labels(self._subject, reason).inc(len(kept))
        if kept:
            self._wait(kept)

    def _wait(self, asks: list[Ask[O]]) -> None:
        fewest = min(ask.tries for ask in asks)
        ceiling = min(self._backoff_cap, self._backoff * 2.0 ** min(8, fewest))
        delay = ceiling * random.uniform(0.5, 1.0)

        def back() -> None:
            self._later.pop(handle)
            self._waiting.extendleft(reversed(asks))
            self._schedule()

        handle = asyncio.get_running_loop().call_later(delay, back)
        self._later[handle] = asks

    def _make_place(self) -> None:
        """The oldest that is not under way is given up: also one that waits to be asked again, as all do while nobody answers."""
        if self._later:
            handle, asks = next(iter(self._later.items()))
            oldest = asks.pop(0)
            if not asks:
                handle.cancel()
                del self._later[handle]
            self._lose(oldest)
        elif self._waiting:
            self._lose(self._waiting.popleft())

    def _lose(self, ask: Ask[O]) -> None:
        metrics.lost.labels(self._subject).inc()
        self._finish([ask], [None])
