"""The saver's sweep: what no room and no client touches any more is ended, and told.

Sessions of rooms that have been dead for `policy.sweep_grace` are removed by compare (room, epoch, generation, number) and their
clients reported offline: soon after a room's death, and once in `policy.sweep_interval` all of them. Then, too, what has expired
in queues that nobody touched. Any number of savers may sweep at once; each shard is walked by one of them at a time, as far as
a note in Redis tells, and nothing hangs on that note.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from typing import Final

import structlog
from prometheus_client import Counter

from infra.journal import Entry, Journal, JournalDown
from infra.keeper import Keeper
from infra.lifecycle import Loops
from infra.register import Register, RegisterDown, SessionView, Shard
from infra.rooms import Rooms
from schemas import names
from schemas.codes import Status
from schemas.records import StatusEvent
from workers.owed import pay

LOOK_EVERY: Final = 2.0
NOTE_MS: Final = 60_000
SESSION_KEYS: Final = "s:{*"
PENDING_KEYS: Final = "q:{*"

log = structlog.get_logger("sweep")
swept = Counter("longwire_saver_swept_total", "Sessions of dead rooms that the sweep ended")
expired = Counter("longwire_saver_expired_total", "Messages whose expiry the sweep noticed")

Boot = tuple[str, int]
"""(room, epoch)."""


class Sweep:
    """The loop of one saver."""

    def __init__(
        self,
        register: Register,
        journal: Journal,
        keeper: Keeper,
        rooms: Rooms,
        *,
        instance: str,
        fail: Callable[[str], None],
    ) -> None:
        self._register = register
        self._journal = journal
        self._keeper = keeper
        self._rooms = rooms
        self._instance = instance
        self._loops = Loops(fail)
        self._done: set[Boot] = set()
        self._next = 0.0

    async def start(self) -> None:
        """Begin; the first walk over everything comes once a dead room would have been noticed."""
        self._next = time.monotonic() + self._grace()
        self._loops.start("sweep", self._run())

    async def stop(self) -> None:
        """End; a walk under way is begun anew by whoever is next."""
        await self._loops.stop()

    def _grace(self) -> float:
        policy = self._keeper.policy
        return policy.lease_dead_after + policy.sweep_grace

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY * random.uniform(0.8, 1.2))
            try:
                await self._look()
            except (RegisterDown, JournalDown) as error:
                log.warning("sweep put off", reason=str(error)[:200])

    async def _look(self) -> None:
        dead = self._rooms.silent(self._grace())
        fresh = dead - self._done
        everything = time.monotonic() >= self._next
        if not fresh and not everything:
            return
        shards = self._register.shards.all
        walked = [await self._walked(shard, everything) for shard in shards]
        self._done = (self._done & dead) | fresh
        if everything and all(walked):
            self._next = time.monotonic() + self._keeper.policy.sweep_interval * random.uniform(0.9, 1.1)

    async def _walked(self, shard: Shard, everything: bool) -> bool:
        """Walk a shard, unless another saver does so now."""
        note = shard.marker_key + ":sweep"
        [mine] = await shard.pipe([("SET", note, self._instance, "NX", "PX", NOTE_MS)])
        if not mine:
            return True
        try:
            async for keys in self._register.walk(shard, SESSION_KEYS):
                await self._end_dead([key[3:-1] for key in keys])
            if everything:
                async for keys in self._register.walk(shard, PENDING_KEYS):
                    await self._expire(keys)
        finally:
            await shard.pipe([("DEL", note)])
        return True

    async def _end_dead(self, clients: Sequence[str]) -> None:
        sessions = await self._register.sessions(clients)
        grace = self._grace()
        dead = [
            (key, session)
            for key, session in zip(clients, sessions, strict=True)
            if session is not None and self._rooms.silent_for(session.room, session.epoch) >= grace
        ]
        # Told first: removed and not told would be silent for ever. One that just returned has a higher number.
        await self._journal.produce([_offline(key, session) for key, session in dead])
        await self._register.sweep(dead)
        swept.inc(len(dead))

    async def _expire(self, keys: Sequence[str]) -> None:
        queues = []
        for key in keys:
            client, _, product = key[3:].rpartition("}:")
            queues.append((client, product))
        owed = await self._register.expire(queues)
        expired.inc(sum(item.state == "expired" for item in owed))
        await pay(self._journal, self._register, owed)


def _offline(key: str, session: SessionView) -> Entry:
    realm, client = names.split_client_key(key)
    event = StatusEvent(
        realm=realm,
        client=client,
        event=Status.OFFLINE,
        generation=session.generation,
        session=session.number,
        room=session.room,
        epoch=session.epoch,
        at_ms=int(time.time() * 1000),
        reason="room lost",
    )
    return Entry(names.STATUS, client, event)
