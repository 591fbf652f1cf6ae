"""The composition roots of the workers, one function each: build the parts, start them in order, run until told to stop."""

from __future__ import annotations

from typing import Final
from uuid import uuid4

from infra.bus import Bus
from infra.journal import Journal
from infra.keeper import Keeper
from infra.lifecycle import Lifecycle
from infra.register import Register
from infra.settings import Settings
from infra.telemetry import InternalListener, configure_logging
from schemas import names

VERSION: Final = "0.1.0"
NATS_DOWN: Final = "the connection to NATS is down"


def _instance(name: str) -> str:
    """Names this boot of a worker in what it sends to rooms."""
    return f"{name}-{uuid4().hex[:12]}"


async def saver(settings: Settings) -> int:
    """Run a saver: the answers to rooms; returns the exit status."""
    from workers.saver import Saver

    name = "saver"
    configure_logging(settings.telemetry, process=name)
    life = Lifecycle(name)
    bus = Bus(settings.nats, name=name, version=VERSION, fail=life.fail)
    journal = Journal(settings.kafka, name=name)
    register = Register(settings.redis)
    internal = InternalListener(settings.telemetry, process=name, ready=lambda: "" if bus.connected else NATS_DOWN)
    life.add("internal listener", internal)
    life.add("journal", journal)
    life.add("register", register)
    life.add("bus", bus)
    life.add("saver", Saver(bus, journal, register, instance=_instance(name)))
    return await life.run(ready=internal.report)


async def delivery(settings: Settings) -> int:
    """Run a delivery worker: `push.messages` into the register, and hints to rooms; returns the exit status."""
    from workers.delivery import Delivery
    from workers.hints import HintSender
    from workers.runner import Runner

    name = "delivery"
    configure_logging(settings.telemetry, process=name)
    life = Lifecycle(name)
    bus = Bus(settings.nats, name=name, version=VERSION, fail=life.fail)
    keeper = Keeper(bus, disk=settings.data / name, fail=life.fail)
    journal = Journal(settings.kafka, name=name)
    register = Register(settings.redis)
    hints = HintSender(bus, instance=_instance(name))
    runner = Runner(
        settings.kafka,
        journal,
        topic=names.MESSAGES,
        group=names.DELIVERY_GROUP,
        handler=Delivery(journal, register, keeper, hints),
        name=name,
        fail=life.fail,
    )

    def ready() -> str:
        if not bus.connected:
            return NATS_DOWN
        return "" if runner.joined else "the consumer group has not answered yet"

    internal = InternalListener(settings.telemetry, process=name, ready=ready)
    life.add("internal listener", internal)
    life.add("bus", bus)
    life.add("keeper", keeper)
    life.add("journal", journal)
    life.add("register", register)
    life.add("hints", hints)
    life.add("runner", runner)
    return await life.run(ready=internal.report)


async def coordinator(settings: Settings) -> int:
    """Run a coordinator: uplinks into Kafka, and from Kafka to the products' services; returns the exit status."""
    from workers.coordinator import Ingress, Services
    from workers.runner import Runner

    name = "coordinator"
    configure_logging(settings.telemetry, process=name)
    life = Lifecycle(name)
    bus = Bus(settings.nats, name=name, version=VERSION, fail=life.fail)
    keeper = Keeper(bus, disk=settings.data / name, fail=life.fail)
    journal = Journal(settings.kafka, name=name)
    runner = Runner(
        settings.kafka,
        journal,
        topic=names.UPLINK,
        group=names.COORDINATOR_GROUP,
        handler=Services(bus, journal, keeper),
        name=name,
        fail=life.fail,
    )

    def ready() -> str:
        if not bus.connected:
            return NATS_DOWN
        return "" if runner.joined else "the consumer group has not answered yet"

    internal = InternalListener(settings.telemetry, process=name, ready=ready)
    life.add("internal listener", internal)
    life.add("bus", bus)
    life.add("keeper", keeper)
    life.add("journal", journal)
    life.add("ingress", Ingress(bus, journal, keeper))
    life.add("runner", runner)
    return await life.run(ready=internal.report)


async def broadcast(settings: Settings) -> int:
    """Run a broadcast worker: jobs from `push.broadcasts`, slice by slice to rooms; returns the exit status."""
    from infra.rooms import Rooms
    from workers.broadcast import Broadcasts
    from workers.jobrun import Tools
    from workers.runner import Runner

    name = "broadcast"
    configure_logging(settings.telemetry, process=name)
    life = Lifecycle(name)
    bus = Bus(settings.nats, name=name, version=VERSION, fail=life.fail)
    keeper = Keeper(bus, disk=settings.data / name, fail=life.fail)
    rooms = Rooms(bus, dead_after=lambda: keeper.policy.lease_dead_after, fail=life.fail)
    journal = Journal(settings.kafka, name=name)
    runner = Runner(
        settings.kafka,
        journal,
        topic=names.BROADCASTS,
        group=names.BROADCAST_GROUP,
        handler=Broadcasts(settings.kafka, Tools(bus, journal, keeper, rooms), fail=life.fail),
        name=name,
        fail=life.fail,
    )

    def ready() -> str:
        if not bus.connected:
            return NATS_DOWN
        return "" if runner.joined else "the consumer group has not answered yet"

    internal = InternalListener(settings.telemetry, process=name, ready=ready)
    life.add("internal listener", internal)
    life.add("bus", bus)
    life.add("keeper", keeper)
    life.add("rooms", rooms)
    life.add("journal", journal)
    life.add("runner", runner)
    return await life.run(ready=internal.report)
