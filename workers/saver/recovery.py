"""What makes Redis an index: a shard that was emptied, restarted or promoted is folded again from Kafka before it is used.

Every delivery worker tends the shards: each second it writes the beat with its positions where a shard is open; where one has a
new incarnation it begins a generation (a record in `push.register`, whose offset is the number) and folds the partitions that
are its own, of `push.messages` and of each own queue. With the last one, whoever folded it, the shard opens, and rooms are told
to register their sessions again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import structlog
from prometheus_client import Counter, Gauge

from infra.bus import Bus, BusError
from infra.journal import Entry, Journal, JournalDown
from infra.keeper import Keeper
from infra.lifecycle import Loops, end
from infra.queues import OwnQueues
from infra.register import Marker, Register, RegisterDown, Shard
from infra.register.fold import Fold, incarnate
from infra.register.marker import OPEN, Incarnation, part
from infra.settings import KafkaSettings
from schemas import names
from schemas.records import ShardRecord
from workers.runner import Runner
from workers.saver.refold import Refold

BEAT: Final = 1.0
FOLDS_AT_ONCE: Final = 2
"""Partitions that one worker folds side by side."""

log = structlog.get_logger("recovery")
folds = Counter("longwire_register_folds_total", "Partitions folded into a shard", ["outcome"])
ready = Gauge("longwire_register_ready", "1 where the shard is open", ["shard"])


@dataclass(slots=True)
class _Folding:
    """The folds of one incarnation of a shard, by the part of the log."""

    incarnation: Incarnation
    since: float
    tasks: dict[str, asyncio.Task[None]]


class Recovery:
    """Tends the register's shards for the partitions that this worker owns."""

    def __init__(
        self,
        settings: KafkaSettings,
        *,
        bus: Bus,
        journal: Journal,
        keeper: Keeper,
        register: Register,
        runner: Runner,
        queues: Mapping[str, Runner],
        name: str,
        fail: Callable[[str], None],
    ) -> None:
        """`runner` consumes `push.messages`, `queues` the own queues, by product: as they are at each look."""
        self._settings = settings
        self._bus = bus
        self._journal = journal
        self._keeper = keeper
        self._register = register
        self._runner = runner
        self._queues = queues
        self._own = OwnQueues(journal)
        self._name = name
        self._loops = Loops(fail)
        self._folding: dict[str, _Folding] = {}
        self._places = asyncio.Semaphore(FOLDS_AT_ONCE)
        self._closed: set[str] = set()

    @property
    def open(self) -> bool:
        """Was every shard open when it was last looked at?"""
        return bool(self._register.shards.all) and all(shard.incarnation for shard in self._register.shards.all)

    async def start(self) -> None:
        """Begin to tend."""
        self._loops.start("recovery", self._run())

    async def stop(self) -> None:
        """End, and give up folds under way: another worker begins them anew."""
        await self._loops.stop()
        await end(task for folding in self._folding.values() for task in folding.tasks.values())

    async def _run(self) -> None:
        while True:
            shards = self._register.shards.all
            pauses = await asyncio.gather(*(self._tended(shard) for shard in shards))
            await asyncio.sleep(min(pauses, default=BEAT))

    async def _tended(self, shard: Shard) -> float:
        try:
            return await self._tend(shard)
        except (RegisterDown, JournalDown, BusError) as error:
            ready.labels(shard.name).set(0)
            await self._register.shards.refresh()
            log.warning("shard not tended", shard=shard.name, reason=str(error)[:200])
            return BEAT / 2

    def _runners(self) -> dict[str, Runner]:
        """Every consumer of this worker, by its queue."""
        return {"": self._runner, **self._queues}

    def _positions(self) -> dict[str, int]:
        return {
            part(partition, queue): offset
            for queue, runner in self._runners().items()
            for partition, offset in runner.positions().items()
        }

    async def _tend(self, shard: Shard) -> float:
        """Look at one shard and do what is next; returns seconds until the next look."""
        run_id, marker, beaten = await shard.beat(self._positions())
        if marker is None or marker.incarnation.run_id != run_id:
            await self._begin(shard, run_id, marker)
            return 0.0
        if shard.incarnation is not None and shard.incarnation != marker.incarnation:
            shard.forget()
        if marker.state == OPEN:
            await self._open_here(shard)
            return BEAT if beaten else 0.0
        ready.labels(shard.name).set(0)
        self._fold_mine(shard, marker)
        return BEAT / 4

    async def _begin(self, shard: Shard, run_id: str, marker: Marker | None) -> None:
        shard.forget()
        record = ShardRecord(shard=shard.name, run_id=run_id, by=self._name, at_ms=int(time.time() * 1000))
        [position] = await self._journal.produce([Entry(names.REGISTER, shard.name, record)])
        await incarnate(shard, run_id, marker, position.offset + 1)
        log.warning("register closed: folding Kafka into it", shard=shard.name, address=shard.address, emptied=marker is None)

    async def _open_here(self, shard: Shard) -> None:
        """This process uses it from now on; the first call would see to it as well."""
        if shard.incarnation is None:
            await shard.evaluate([])
        self._folding.pop(shard.name, None)
        ready.labels(shard.name).set(1)

    # --- folding -------------------------------------------------------------------------------------------------------

    def _fold_mine(self, shard: Shard, marker: Marker) -> None:
        folding = self._folding.get(shard.name)
        if folding is None or folding.incarnation != marker.incarnation:
            for task in folding.tasks.values() if folding else ():
                task.cancel()
            folding = self._folding[shard.name] = _Folding(marker.incarnation, time.monotonic(), {})
        mine = {
            part(partition, queue): (queue, partition)
            for queue, runner in self._runners().items()
            for partition in runner.owned()
        }
        for name in mine.keys() - marker.folded:
            if name not in folding.tasks or folding.tasks[name].done():
                folding.tasks[name] = asyncio.create_task(self._fold(shard, marker, *mine[name], folding.since))

    async def _fold(self, shard: Shard, marker: Marker, queue: str, partition: int, since: float) -> None:
        began, name = time.monotonic(), part(partition, queue)
        try:
            async with self._places:
                opened = await self._folded(shard, marker, queue, partition, since)
            folds.labels("done").inc()
            log.info("partition folded", shard=shard.name, partition=name, seconds=round(time.monotonic() - began, 2))
            if opened:
                log.warning("register open", shard=shard.name, generation=marker.incarnation.generation)
                await self._bus.publish(names.REGISTER_OPENED, shard.name.encode())
        except (RegisterDown, JournalDown, BusError) as error:
            folds.labels("failed").inc()
            log.warning("fold failed, begins anew", shard=shard.name, partition=name, reason=str(error)[:200])
        except Exception:
            folds.labels("failed").inc()
            log.exception("fold failed, begins anew", shard=shard.name, partition=name)

    async def _folded(self, shard: Shard, marker: Marker, queue: str, partition: int, since: float) -> bool:
        fold, runner = Fold(shard, marker), self._runners()[queue]
        await fold.begin()

        async def handled() -> int:
            return await runner.position(partition)

        refold = Refold(
            self._settings,
            fold,
            partition,
            handled=handled,
            journal=self._journal,
            register=self._register,
            keeper=self._keeper,
            queue=queue,
        )
        # A batch that was stored in the last incarnation may still be on its way to `handled`: it is waited for.
        end = await refold.run()
        while not runner.resting(partition, since) or await handled() > end:
            await asyncio.sleep(0.05)
            end = await refold.go_on()
        # Asked after the shard was closed: of a queue that comes later nothing was stored in the last incarnation.
        queues = await self._own.refresh()
        return await fold.done(part(partition, queue), await self._journal.partitions(names.MESSAGES), end, queues)
