"""Hints from delivery to rooms: one batch a room at a time in flight order, two tries, then it lets go.

A hint that is lost costs the client one sync, so nothing here waits for a room, and nothing here is durable. Queues are bounded
in number and bytes: a room that does not keep up loses hints, counted, and so does one that is dead as far as its leases tell.
"""

from __future__ import annotations

import asyncio
import collections
from collections import deque
from collections.abc import Callable
from typing import Final

import msgspec
from prometheus_client import Counter

from infra.bus import Bus, BusError
from infra.register import SessionView
from infra.wire import MAX_BYTES, MAX_ITEMS, MAX_UNANSWERED, VERSION, Hint, HintResult, Reply, Request, size_of
from schemas import names

QUEUE: Final = 20_000
"""Hints that wait for one room, at most."""
QUEUE_BYTES: Final = 4 * 1024 * 1024
"""Their bytes, at most."""
TOTAL_BYTES: Final = 64 * 1024 * 1024
"""Bytes that wait for all rooms together, at most: many may stall at once."""
TRIES: Final = 2
TIMEOUT: Final = 1.0

sent = Counter("longwire_hints_total", "Hints by what became of them", ["outcome"])


class _RoomQueue:
    """What waits for one room, and how many batches are unanswered."""

    def __init__(self) -> None:
        self.waiting: deque[tuple[int, Hint]] = deque()
        self.bytes = 0
        self.unanswered: set[asyncio.Task[None]] = set()

    def take(self) -> list[Hint]:
        """What fits one batch."""
        batch: list[Hint] = []
        size = 0
        while self.waiting and len(batch) < MAX_ITEMS and (not batch or size + self.waiting[0][0] <= MAX_BYTES):
            more, hint = self.waiting.popleft()
            size += more
            batch.append(hint)
        self.bytes -= size
        return batch


class HintSender:
    """Sends hints in the order they came, in batches, at most `MAX_UNANSWERED` of them unanswered a room."""

    def __init__(self, bus: Bus, *, instance: str, dead: Callable[[str, int], bool]) -> None:
        """`dead(room, epoch)`: this boot of a room gives no sign of life. It routes only: what is stored is stored."""
        self._bus = bus
        self._dead = dead
        self._bytes = 0
        self._instance = instance
        self._seq = 0
        self._scheduled = False
        self._rooms: dict[str, _RoomQueue] = {}
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(Reply[HintResult]).decode

    async def start(self) -> None:
        """Nothing to start: batches go as hints come."""

    async def stop(self) -> None:
        """Wait a moment for what is in flight, then let go."""
        tasks = [task for queue in self._rooms.values() for task in queue.unanswered]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=TIMEOUT)
            for task in late:
                task.cancel()
        self._rooms.clear()
        self._bytes = 0

    def is_dead(self, session: SessionView) -> bool:
        """Does the session's room give no sign of life?"""
        return self._dead(session.room, session.epoch)

    def add(self, session: SessionView, hint: Hint) -> None:
        """Queue a hint for the room of a session; it leaves with the next `flush()`."""
        if self.is_dead(session):
            sent.labels("dead room").inc()
            return
        queue = self._rooms.setdefault(session.room, _RoomQueue())
        size = size_of(hint.message)
        if len(queue.waiting) >= QUEUE or queue.bytes + size > QUEUE_BYTES or self._bytes + size > TOTAL_BYTES:
            sent.labels("overflow").inc()
            return
        queue.waiting.append((size, hint))
        queue.bytes += size
        self._bytes += size

    def flush(self) -> None:
        """Send what waits, at the end of the loop's turn: batches of several partitions end together, and one request has all."""
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        """As far as the rooms answer; what is left goes on as answers come. Idle rooms are forgotten."""
        self._scheduled = False
        for room in list(self._rooms):
            queue = self._rooms[room]
            if queue.waiting:
                self._pump(room, queue)
            elif not queue.unanswered:
                del self._rooms[room]

    def _pump(self, room: str, queue: _RoomQueue) -> None:
        while queue.waiting and len(queue.unanswered) < MAX_UNANSWERED:
            before = queue.bytes
            task = asyncio.ensure_future(self._send(room, queue.take()))
            self._bytes -= before - queue.bytes
            queue.unanswered.add(task)
            task.add_done_callback(lambda done: self._answered(room, queue, done))

    def _answered(self, room: str, queue: _RoomQueue, task: asyncio.Task[None]) -> None:
        queue.unanswered.discard(task)
        if not task.cancelled():
            self._pump(room, queue)

    async def _send(self, room: str, batch: list[Hint]) -> None:
        self._seq += 1
        data = self._encode(Request(VERSION, self._instance, self._seq, batch, brief=True))
        for _ in range(TRIES):
            try:
                reply = self._decode(await self._bus.request(names.room_push(room), data, timeout=TIMEOUT))
            except (BusError, msgspec.MsgspecError):
                continue
            if not reply.error:
                self._count(batch, reply)
                return
        sent.labels("let go").inc(len(batch))

    @staticmethod
    def _count(batch: list[Hint], reply: Reply[HintResult]) -> None:
        """What became of them; of none of them anything is said where all were written."""
        if not reply.items:
            sent.labels("written").inc(len(batch))
        for outcome, count in collections.Counter(result.outcome for result in reply.items).items():
            sent.labels(outcome).inc(count)
