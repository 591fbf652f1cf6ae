"""The composition roots of the workers, one function each: build the parts, start them in order, run until told to stop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final
from uuid import uuid4

from infra import VERSION
from infra.bus import Bus
from infra.journal import Journal
from infra.keeper import Keeper
from infra.lifecycle import Lifecycle, Part
from infra.register import Register
from infra.rooms import Rooms
from infra.settings import Settings
from infra.telemetry import InternalListener, configure_logging
from schemas import names
from workers.runner import Handler, Holds, Runner

NATS_DOWN: Final = "the connection to NATS is down"
NOT_JOINED: Final = "the consumer group has not answered yet"


class _Process:
    """What every worker has: a life, NATS, the keeper, Kafka, and an internal listener that is started first."""

    def __init__(self, name: str, settings: Settings) -> None:
        configure_logging(settings.telemetry, process=name)
        self.name = name
        self.instance = f"{name}-{uuid4().hex[:12]}"
        self.settings = settings
        self.life = Lifecycle(name)
        self.bus = Bus(settings.nats, name=name, version=VERSION, fail=self.life.fail)
        self.keeper = Keeper(self.bus, disk=settings.data / name, refill=True, fail=self.life.fail)
        self.journal = Journal(settings.kafka, name=name)

    def runner(self, topic: str, group: str, handler: Handler, *, holds: Holds = lambda partition: None) -> Runner:
        """The consumer of a topic, as a member of a group."""
        return Runner(
            self.settings.kafka,
            self.journal,
            topic=topic,
            group=group,
            handler=handler,
            name=self.name,
            fail=self.life.fail,
            holds=holds,
        )

    async def run(self, *parts: tuple[str, Part], ready: Callable[[], str] = lambda: "") -> int:
        """Start the common parts, then these, and live; `ready()` says why work is not admitted yet, or ""."""
        internal = InternalListener(
            self.settings.telemetry, process=self.name, ready=lambda: ready() if self.bus.connected else NATS_DOWN
        )
        common: tuple[tuple[str, Part], ...] = (
            ("internal listener", internal),
            ("bus", self.bus),
            ("keeper", self.keeper),
            ("journal", self.journal),
        )
        for name, part in (*common, *parts):
            self.life.add(name, part)
        return await self.life.run(ready=internal.report)


async def saver(settings: Settings) -> int:
    """Run a saver: the answers to rooms; returns the exit status."""
    from workers.saver.saver import Saver
    from workers.saver.sweep import Sweep

    process = _Process("saver", settings)
    register = Register(settings.redis)
    answers = Saver(process.bus, process.journal, register, process.keeper)
    keeper = process.keeper
    rooms = Rooms(process.bus, dead_after=lambda: keeper.policy.lease_dead_after, fail=process.life.fail)
    sweep = Sweep(register, process.journal, keeper, rooms, instance=process.instance, fail=process.life.fail)
    return await process.run(("register", register), ("saver", answers), ("rooms", rooms), ("sweep", sweep))


async def delivery(settings: Settings) -> int:
    """Run a delivery worker: `push.messages` and own queues into the register, hints to rooms; returns the exit status."""
    from infra.queues import OwnQueues
    from workers.delivery.delivery import Delivery
    from workers.delivery.handover import HandOver
    from workers.delivery.hints import HintSender
    from workers.delivery.paced import PacedRunner
    from workers.delivery.queues import Queues
    from workers.saver.recovery import Recovery

    process = _Process("delivery", settings)
    register = Register(settings.redis)
    keeper = process.keeper
    rooms = Rooms(process.bus, dead_after=lambda: keeper.policy.lease_dead_after, fail=process.life.fail)
    hints = HintSender(process.bus, instance=process.instance, dead=rooms.dead)
    own = OwnQueues(process.journal)
    handler = Delivery(process.journal, register, keeper, hints, queues=own)
    runner = process.runner(names.MESSAGES, names.DELIVERY_GROUP, handler)

    def consumer(product: str) -> PacedRunner:
        return PacedRunner(
            settings.kafka,
            process.journal,
            topic=names.queue_topic(product),
            group=names.queue_group(product),
            handler=Delivery(process.journal, register, process.keeper, hints, queue=product),
            name=f"{process.name}-{product}",
            fail=process.life.fail,
            queue=lambda: process.keeper.queue_of(product),
        )

    queues = Queues(settings.kafka, process.keeper, own, consumer, fail=process.life.fail)
    recovery = Recovery(
        settings.kafka,
        bus=process.bus,
        journal=process.journal,
        keeper=keeper,
        register=register,
        runner=runner,
        queues=queues.runners,
        name=process.instance,
        fail=process.life.fail,
    )
    handover = HandOver(process.journal, register, runner, fail=process.life.fail)

    def ready() -> str:
        if not runner.joined:
            return NOT_JOINED
        return "" if recovery.open else "Redis is not ready: what it lost is folded again from Kafka"

    parts = (
        ("register", register),
        ("rooms", rooms),
        ("hints", hints),
        ("queues", queues),
        ("runner", runner),
        ("recovery", recovery),
        ("hand-over", handover),
    )
    return await process.run(*parts, ready=ready)


async def broadcast(settings: Settings) -> int:
    """Run a broadcast worker: jobs from `push.broadcasts`, slice by slice to rooms; returns the exit status."""
    from infra.audiences import Audiences
    from workers.broadcast.health import HealthProbes
    from workers.broadcast.job import Tools
    from workers.broadcast.owner import Broadcasts
    from workers.broadcast.receiptcount import ReceiptCounts
    from workers.broadcast.unreached import JobFallback
    from workers.outside import Outside

    process = _Process("broadcast", settings)
    keeper = process.keeper
    rooms = Rooms(process.bus, dead_after=lambda: keeper.policy.lease_dead_after, fail=process.life.fail)
    outside = Outside(settings.outside)
    probes = HealthProbes(keeper, outside)
    audiences = Audiences(settings.kafka, process.journal.partitions, name=process.instance)
    receipts = ReceiptCounts(settings.kafka, process.journal.partitions, fail=process.life.fail)
    fallbacks = JobFallback(settings.kafka, process.journal, Register(settings.redis))
    tools = Tools(process.bus, process.journal, keeper, rooms, probes, audiences, receipts, fallbacks)
    handler = Broadcasts(settings.kafka, tools, fail=process.life.fail)
    runner = process.runner(names.BROADCASTS, names.BROADCAST_GROUP, handler)
    parts = (("rooms", rooms), ("outside", outside), ("receipts", receipts), ("fallbacks", fallbacks), ("runner", runner))
    return await process.run(*parts, ready=lambda: "" if runner.joined else NOT_JOINED)


async def coordinator(settings: Settings) -> int:
    """Run a coordinator: uplinks into Kafka, from there to the products' services and webhooks, fallbacks to theirs, what they
    are told of clients, users and messages, and issuers' key sets; returns the exit status."""
    from infra.register.told import ToldIndex
    from workers.callbacks.asked import Asked
    from workers.callbacks.receipts import ReceiptCallbacks
    from workers.callbacks.status import Patience, StatusCallbacks
    from workers.coordinator.egress import Hooks, Services
    from workers.coordinator.fallback import Webhooks
    from workers.coordinator.ingress import Ingress
    from workers.coordinator.replies import replying
    from workers.jwks import KeySets
    from workers.outside import Outside
    from workers.webhooks import Lanes, Outbox, Sender, Shelf, Waiting

    process = _Process("coordinator", settings)
    bus, journal, keeper = process.bus, process.journal, process.keeper
    outside, waiting, fail = Outside(settings.outside), Waiting(), process.life.fail
    shelf = Shelf(settings.kafka, journal.partitions, waiting, fail=fail)
    outbox = Outbox(journal, Sender(outside), waiting, replying(lambda: keeper.products))
    lanes = Lanes(journal, outbox, waiting, shelf, keeper, fail=fail)
    services = Services(bus, journal, keeper, Hooks(outbox, shelf, lanes, keeper))
    runner = process.runner(names.UPLINK, names.COORDINATOR_GROUP, services)
    ingress = Ingress(bus, journal, keeper, fail=fail)
    fallbacks = process.runner(names.FALLBACK, names.FALLBACK_GROUP, Webhooks(keeper, outside))
    told, asked = ToldIndex(Register(settings.redis)), Asked(keeper)
    callbacks = StatusCallbacks(told, outbox, shelf, asked)
    status = process.runner(names.STATUS, names.STATUS_GROUP, callbacks, holds=callbacks.floor)
    receipts = process.runner(names.RECEIPTS, names.RECEIPTS_GROUP, ReceiptCallbacks(outbox, shelf, asked))
    key_sets = KeySets(keeper, outside, fail=fail)
    runners = (runner, fallbacks, status, receipts)
    parts = (
        ("outside", outside),
        ("what waits", shelf),
        ("lanes", lanes),
        ("ingress", ingress),
        ("runner", runner),
        ("fallbacks", fallbacks),
        ("told", told),
        ("status", status),
        ("patience", Patience(callbacks, status, fail=fail)),
        ("receipts", receipts),
        ("key sets", key_sets),
    )
    return await process.run(*parts, ready=lambda: "" if all(each.joined for each in runners) else NOT_JOINED)
