"""Unicast driven by hand: hints for a room, in batches and four unanswered, as `workers/delivery/hints.py` has them.

What they name was never stored: the numbers are ours, and no page may be asked for. So every hint has to be written at once.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Final

import msgspec

from bench.load import Failed
from infra import wire
from infra.bus import Bus
from infra.settings import NatsSettings
from schemas import names

FIRST_SESSION: Final = 1
"""The number of a client's session that connected once, to a new register."""
WITHIN: Final = 15.0


class Hints:
    """To the clients of one room. Use as a context manager. Call `prepare`, then `send`."""

    def __init__(self, url: str, room: str, product: str, clients: Sequence[str]) -> None:
        self._subject = names.room_push(room)
        self._product = product
        self._keys = [names.client_key(names.DEFAULT_REALM, client) for client in clients]
        self._runner = asyncio.Runner()
        self._bus = Bus(NatsSettings(url=url), name="bench", version="0.1.0")
        self._encode = wire.encoder().encode
        self._decode = msgspec.msgpack.Decoder(wire.Reply[wire.HintResult]).decode
        self._n = 0
        self._seq = 0
        self._batches: list[bytes] = []

    def __enter__(self) -> Hints:
        self._runner.run(self._bus.start())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._runner.run(self._bus.stop())
        self._runner.close()

    def prepare(self, size: int, each: int) -> int:
        """`each` messages of `size` bytes for every client, one client after the other and in another order each time; returns
        how many that are."""
        hints = [hint for _ in range(each) for hint in self._one_each(size)]
        self._batches = [self._batch(batch) for batch in batches(hints)]
        return len(hints)

    def send(self) -> None:
        """Send what was prepared; returns when all is answered. Raises Failed if one was not written, BusError."""
        outcomes = self._runner.run(self._send_all())
        if set(outcomes) - {"written"}:
            raise Failed(f"hints were answered: {dict(outcomes)}")

    def _one_each(self, size: int) -> Iterator[wire.Hint]:
        self._n += 1
        for key in random.sample(self._keys, len(self._keys)):
            message = wire.Downlink(f"bench-{self._n}-{key.rpartition('-')[2]}", self._n, b"x" * size)
            yield wire.Hint(key, FIRST_SESSION, self._product, message)

    def _batch(self, hints: list[wire.Hint]) -> bytes:
        self._seq += 1
        return self._encode(wire.Request(wire.VERSION, "bench", self._seq, hints, brief=True))

    async def _send_all(self) -> Counter[str]:
        outcomes: Counter[str] = Counter()
        waiting = iter(self._batches)

        async def send_in_turn() -> None:
            for batch in waiting:
                reply = self._decode(await self._bus.request(self._subject, batch, timeout=WITHIN))
                outcomes.update(result.outcome for result in reply.items)  # of none where all were written

        await asyncio.gather(*(send_in_turn() for _ in range(wire.MAX_UNANSWERED)))
        return outcomes


def batches(hints: Sequence[wire.Hint]) -> Iterator[list[wire.Hint]]:
    """As many in each as a request may have, by number and bytes."""
    batch: list[wire.Hint] = []
    size = 0
    for hint in hints:
        more = wire.size_of(hint.message)
        if batch and (len(batch) == wire.MAX_ITEMS or size + more > wire.MAX_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(hint)
        size += more
    if batch:
        yield batch
