"""The broadcast worker: owns the jobs of its partitions of `push.broadcasts`.

A broadcast's offset is committed only after the job was claimed in `push.jobs`, a transition's only after the job's record has
it: so no job is forgotten, none is started twice, and whoever owns it next finds it in the same state.
Whoever is given a partition reads `push.jobs` of it to the end, claims every job there that is not over under a new term, and
goes on from its cursor; whoever loses it stops at once. All jobs of a product lie in one partition, so one owner paces them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final
from uuid import uuid4

import structlog
from msgspec.structs import replace
from prometheus_client import Counter

from infra.documents import Product
from infra.journal import Entry, Journal, Position
from infra.lifecycle import end
from infra.settings import KafkaSettings
from schemas import codec, names
from schemas.broadcasts import Broadcast, JobRecord, Transition
from schemas.codes import PLACES
from schemas.jobs import JobState, NotAllowed
from schemas.partition import partition_of
from workers.broadcast import life as joblife
from workers.broadcast.cursor import first_cursors
from workers.broadcast.fold import UNNUMBERED, Folded, fold, number_of, read_broadcasts, read_jobs
from workers.broadcast.job import Claim, JobBase, Shared, Tools
from workers.broadcast.listrun import ListRun
from workers.broadcast.pace import Pace, Pressure
from workers.broadcast.run import JobRun
from workers.runner import Dead, Incoming

MAX_OPEN: Final = 1_000
"""Broadcasts of one product that are not over, drafts and scheduled ones included; more are refused."""
MAX_OVER: Final = 10_000
"""Jobs that are over and whose last command is remembered, for each partition."""
REMEMBERED_MS: Final = 31 * 24 * 3600 * 1000
"""How long after its end a job's id is kept, so that its command is not started again: longer than commands are."""

log = structlog.get_logger("broadcast")
claimed = Counter("longwire_broadcast_claims_total", "Jobs claimed", ["kind"])
repeated = Counter("longwire_broadcast_repeats_total", "Commands of a job that is known already")
commands = Counter("longwire_broadcast_commands_total", "Transitions obeyed", ["action"])


class Refused(ValueError):
    """A command that can't become a job; the text says why and what to do."""


@dataclass(slots=True)
class _Owned:
    """One partition while it is ours. `over`: jobs that ended here → the offset of the last command that they obeyed."""

    known: set[str] = field(default_factory=set)
    products: dict[str, Shared] = field(default_factory=dict)
    runs: dict[str, JobBase] = field(default_factory=dict)
    over: dict[str, int] = field(default_factory=dict)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def open_of(self, product: str) -> int:
        """How many jobs of a product are not over."""
        return sum(run.record.product == product for run in self.runs.values())


class Broadcasts:
    """The handler of the shared runner (`workers.runner.Handler`)."""

    def __init__(self, settings: KafkaSettings, tools: Tools, *, fail: Callable[[str], None]) -> None:
        self._settings = settings
        self._tools = tools
        self._journal: Journal = tools.journal
        self._fail = fail
        self._born = time.monotonic()
        self._owned: dict[int, _Owned] = {}

    # --- commands -----------------------------------------------------------------------------------------------------

    async def handle(self, partition: int, records: Sequence[Incoming]) -> list[Dead]:
        """Claim a job for every new broadcast, and obey every transition. Raises JournalDown: the batch comes again."""
        owned = self._owned.setdefault(partition, _Owned())
        partitions = await self._journal.partitions(names.BROADCASTS)
        dead: list[Dead] = []
        fresh: dict[str, tuple[JobRecord, Broadcast]] = {}
        for record in records:
            try:
                command = _decoded(record)
                if isinstance(command, Transition):
                    await self._start(partition, list(fresh.values()), frozenset(), kind="new")
                    fresh = {}
                    await self._obey(owned, command, record.offset)
                elif command.id in owned.known or command.id in fresh:
                    repeated.inc()
                else:
                    fresh[command.id] = self._first_record(owned, record, command, partitions, len(fresh)), command
            except (codec.Undecodable, Refused, NotAllowed) as error:
                dead.append(Dead(record, str(error)))
        await self._start(partition, list(fresh.values()), frozenset(), kind="new")
        return dead

    async def _obey(self, owned: _Owned, command: Transition, offset: int) -> None:
        run = owned.runs.get(command.job)
        if run is not None:
            if run.record.product != command.product:
                raise Refused(f"product {command.product} has no broadcast {command.job}")
            await run.obey(command, offset)
            commands.labels(command.action).inc()
        elif offset <= owned.over.get(command.job, -1):
            repeated.inc()
        elif command.job in owned.known:
            raise Refused(f"broadcast {command.job} is over: it can't {command.action}")
        else:
            raise Refused(f"product {command.product} has no broadcast {command.job}")

    def _first_record(self, owned: _Owned, record: Incoming, broadcast: Broadcast, partitions: int, more: int) -> JobRecord:
        product = self._product_of(broadcast)
        belongs = partition_of(product.name, partitions)
        if belongs != record.partition:
            text = f"broadcasts of {product.name} belong to partition {belongs}, not {record.partition}: key them by the product"
            raise Refused(text)
        if owned.open_of(product.name) + more >= MAX_OPEN:
            raise Refused(f"product {product.name} has {MAX_OPEN} broadcasts that are not over: cancel some")
        source = (record.partition, record.offset)
        first = joblife.first(broadcast, product, source=source, accepted_ms=record.timestamp_ms)
        if first.state == JobState.SCHEDULED and first.started_ms <= record.timestamp_ms:
            rooms = first_cursors(self._tools.rooms, product.name) if broadcast.audience is None else ()
            return replace(first, state=JobState.RUNNING, rooms=rooms)
        return first

    def _product_of(self, broadcast: Broadcast) -> Product:
        product = self._tools.keeper.products.get(broadcast.product)
        if product is None:
            raise Refused(f"product {broadcast.product} is not known: put products.{broadcast.product} into the keeper")
        if len(broadcast.payload) > product.max_payload:
            raise Refused(f"payload has {len(broadcast.payload)} bytes, more than the product's {product.max_payload}")
        if broadcast.rate > product.rate:
            raise Refused(f"rate {broadcast.rate} is more than the product's {product.rate}")
        return product

    # --- ownership ----------------------------------------------------------------------------------------------------

    async def assigned(self, partitions: frozenset[int]) -> None:
        """Fold the jobs of these partitions and go on with those that are not over. Raises Retryable or JournalDown."""
        await self._check_partitions()
        await self._see_leases()
        jobs = fold(await read_jobs(self._settings, partitions))
        going = [item.record for item in jobs.values() if not joblife.over(item.record)]
        contents = await read_broadcasts(self._settings, [_source(record) for record in going])
        for partition in partitions:
            await self._stop(self._owned.pop(partition, None))
            self._owned[partition] = _Owned()
        await self._forget([item for item in jobs.values() if _forgettable(item)])
        for job, item in jobs.items():
            self._owned[item.partition].known.add(job)
            if joblife.over(item.record):
                self._owned[item.partition].over[job] = item.record.applied
                continue
            content = contents.get(_source(item.record))
            if content is None:
                log.error("broadcast has lost its content, it ends", job=job, product=item.record.product)
                await self._give_up(item)
                continue
            await self._start(item.partition, [(item.record, content)], item.keys, kind="taken-over")

    async def revoked(self, partitions: frozenset[int]) -> None:
        """Stop at once: the jobs belong to somebody else."""
        await asyncio.gather(*(self._stop(self._owned.pop(partition, None)) for partition in partitions))

    async def _start(
        self, partition: int, jobs: list[tuple[JobRecord, Broadcast]], old_keys: frozenset[str], *, kind: str
    ) -> None:
        """Claim jobs, and run them once Kafka has the claims."""
        keys = [names.job_claim_key(record.job, uuid4().hex) for record, _ in jobs]
        entries = [Entry(names.JOBS, key, record, by=record.product) for key, (record, _) in zip(keys, jobs, strict=True)]
        positions = await self._journal.produce(entries)
        owned = self._owned.get(partition)
        if owned is None:  # revoked meanwhile: the next owner folds the claims
            return
        for key, position, (record, content) in zip(keys, positions, jobs, strict=True):
            claimed.labels(kind).inc()
            owned.known.add(record.job)
            claim = Claim(_numbered(record, position), position.offset, content, old_keys | {key})
            log.info("broadcast claimed", job=record.job, product=record.product, term=claim.term, kind=kind, rate=record.rate)
            self._run(owned, claim)

    def _run(self, owned: _Owned, claim: Claim) -> None:
        now = time.monotonic()
        shared = owned.products.get(claim.record.product)
        if shared is None:
            document = self._tools.keeper.products.get(claim.record.product)
            pace = Pace(document.rate if document is not None else claim.record.rate, now)
            shared = owned.products[claim.record.product] = Shared(pace, asyncio.Semaphore(PLACES), Pressure())
            self._watch_health(owned, claim.record.product, shared.pressure)
        kind = JobRun if claim.content.audience is None else ListRun
        run = owned.runs[claim.record.job] = kind(claim, self._tools, shared, wall_ms=int(time.time() * 1000), now=now)
        task = asyncio.ensure_future(run.run())
        owned.tasks.add(task)
        task.add_done_callback(lambda done: self._ended(owned, claim.record.job, done))

    def _watch_health(self, owned: _Owned, product: str, pressure: Pressure) -> None:
        def moving() -> bool:
            return any(run.moving() for run in owned.runs.values() if run.record.product == product)

        task = asyncio.ensure_future(self._tools.probes.watch(product, pressure, moving))
        owned.tasks.add(task)
        task.add_done_callback(lambda done: self._check(owned, f"health of {product}", done))

    def _ended(self, owned: _Owned, job: str, task: asyncio.Task[None]) -> None:
        run = owned.runs.pop(job, None)
        if run is not None:
            owned.over[job] = run.record.applied
            while len(owned.over) > MAX_OVER:
                del owned.over[next(iter(owned.over))]
        self._check(owned, f"broadcast {job}", task)

    def _check(self, owned: _Owned, what: str, task: asyncio.Task[None]) -> None:
        owned.tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("task failed", what=what, exc_info=error)
            self._fail(f"{what}: {type(error).__name__}: {error}")

    async def _stop(self, owned: _Owned | None) -> None:
        await end(owned.tasks if owned is not None else ())

    async def _give_up(self, item: Folded) -> None:
        """The last word on a job that can't go on."""
        record = replace(item.record, state=JobState.EXPIRED)
        claim = names.job_claim_key(record.job, uuid4().hex)
        entries = [Entry(names.JOBS, claim, record, by=record.product)]
        await self._journal.produce(entries + [Entry(names.JOBS, key, None, by=record.product) for key in sorted(item.keys)])

    async def _forget(self, jobs: Iterable[Folded]) -> None:
        """Remove what is left of jobs that ended long ago."""
        entries = [Entry(names.JOBS, key, None, by=item.record.product) for item in jobs for key in sorted(item.keys)]
        for at in range(0, len(entries), 1_000):
            await self._journal.produce(entries[at : at + 1_000])

    async def _check_partitions(self) -> None:
        jobs, commands = await self._journal.partitions(names.JOBS), await self._journal.partitions(names.BROADCASTS)
        if jobs != commands:
            raise RuntimeError(
                f"{names.JOBS} has {jobs} partitions, {names.BROADCASTS} {commands}: they must have the same number"
            )

    async def _see_leases(self) -> None:
        """A process that has just begun knows no room until each has sent a lease; a job that began now would plan with none."""
        interval = self._tools.keeper.policy.lease_interval
        await asyncio.sleep(max(0.0, self._born + interval + 1.0 - time.monotonic()))


def _decoded(record: Incoming) -> Broadcast | Transition:
    """A record of the topic; raises Undecodable."""
    data = record.value or b""
    if codec.holds(Transition, data):
        return codec.decode_as(Transition, data)
    return codec.decode_as(Broadcast, data)


def _source(record: JobRecord) -> tuple[int, int]:
    return record.source_partition, record.source_offset


def _forgettable(item: Folded) -> bool:
    return joblife.over(item.record) and item.record.expires_ms + REMEMBERED_MS < time.time() * 1000


def _numbered(record: JobRecord, position: Position) -> JobRecord:
    if number_of(record) != UNNUMBERED:
        return record
    return replace(record, number_partition=position.partition, number_offset=position.offset)
