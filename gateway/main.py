"""The composition root of a gateway process: one room."""

from __future__ import annotations

import asyncio
import os
import resource
import time
from contextlib import suppress

import structlog

from gateway import compiled, metrics
from gateway.admission.memory import limit, resident
from gateway.admission.revoking import Revoking
from gateway.backend.lease import LeaseKeeper
from gateway.backend.neighbours import addresses
from gateway.backend.saver_link import SaverLink
from gateway.backend.uplink_link import UplinkLink
from gateway.broadcast.fanout import FanOut
from gateway.broadcast.sender import choose
from gateway.door import Door, Endpoints
from gateway.edge.certificates import Certificates
from gateway.edge.front import Front
from gateway.evacuation import Evacuation
from gateway.host import Host
from gateway.room import Room
from infra import VERSION
from infra.bus import Bus
from infra.keeper import Keeper
from infra.labels import POOL
from infra.lifecycle import Lifecycle
from infra.revocations import Revocations
from infra.settings import STOP_BESIDE_DRAIN, Settings
from infra.telemetry import InternalListener, configure_logging
from infra.tokens import Verifier
from infra.wire import RoomEntry
from schemas import names

log = structlog.get_logger("room")


async def main(settings: Settings) -> int:
    """Run a room until it is told to stop; returns the exit status."""
    room_id = names.room(settings.room.id or f"r-{os.urandom(4).hex()}")
    epoch = time.time_ns() // 1_000_000
    name = f"gateway-{room_id}"
    configure_logging(settings.telemetry, process=name)
    _raise_descriptor_limit()
    life = Lifecycle(name, stop_within=settings.room.drain + STOP_BESIDE_DRAIN)
    bus = Bus(settings.nats, name="gateway", version=VERSION, fail=life.fail)
    keeper = Keeper(bus, disk=settings.data / name, fail=life.fail)
    revocations = Revocations(bus, disk=settings.data / name, fail=life.fail)
    verifier = Verifier(revocations.revoked)
    keeper.on_change.append(lambda: verifier.load(keeper.issuers, keeper.key_sets))
    sender = f"{room_id}:{epoch}"
    may_have = settings.room.max_memory or limit()
    saver = SaverLink(bus.request, sender=sender)
    uplinks = UplinkLink(bus.request, sender=sender)
    writer = choose(settings.room.sender)
    fanout = FanOut(
        clock=time.monotonic,
        wall=time.time,
        watch=lambda client: room.watch(client),  # noqa: PLW0108 - the room is built below
        sender=writer,
    )
    host = Host(
        room=room_id,
        epoch=epoch,
        saver=saver,
        fanout=fanout,
        clock=time.monotonic,
        policy=lambda: keeper.policy,
        products=lambda: keeper.products,
    )
    room = Room(
        room=room_id,
        epoch=epoch,
        settings=settings.room,
        host=host,
        verifier=verifier,
        uplinks=uplinks,
        fanout=fanout,
        sender=writer,
        clock=time.monotonic,
        wall=time.time,
        later=asyncio.get_running_loop().call_later,
        memory=lambda: resident() / may_have,
    )
    keeper.on_change.append(lambda: room.load(keeper.access))

    revocations.on_change.append(Revoking(room, revocations.revoked, later=asyncio.get_running_loop().call_later).changed)

    def entry() -> RoomEntry:
        own = front.own
        return RoomEntry(room_id, epoch, own.host, own.port, settings.room.labels, internal.url, front.endpoints)

    def ready() -> str:
        if not bus.connected:
            return "the connection to NATS is down"
        if room.gate.short_of_memory:
            return "short of memory"
        return "draining" if room.draining else ""

    internal = InternalListener(settings.telemetry, process=name, ready=ready)
    certificates = Certificates(settings.room.tls, fail=life.fail) if settings.room.tls.certificates else None
    front = Front(room, certificates)
    lease = LeaseKeeper(bus, room, entry, fail=life.fail)

    async def elsewhere() -> dict[str, list[str]]:
        pool = settings.room.labels.get(POOL, "")
        return await addresses(bus, room=room_id, pool=pool, lease_interval=keeper.policy.lease_interval)

    evacuation = Evacuation(room, lease, elsewhere=elsewhere, fail=life.fail)
    door = Door(room, saver, lease, front, elsewhere=elsewhere, fail=life.fail)
    life.add("internal listener", internal)
    life.add("bus", bus)
    life.add("keeper", keeper)
    life.add("revocations", revocations)
    life.add("saver link", saver)
    life.add("uplink link", uplinks)
    life.add("evacuation", evacuation)
    life.add("endpoints", Endpoints(bus, room, evacuation))
    if certificates is not None:
        life.add("certificates", certificates)
    life.add("door", door)
    kind = {"sender": writer.name, "compiled": _is_compiled(settings.room.compiled)}
    log.info("room", room=room_id, **kind)
    return await life.run(
        ready=lambda: internal.report(
            room=room_id, host=settings.room.host, port=front.ports[0], ports=front.ports, reader=front.reader, **kind
        )
    )


def _is_compiled(wanted: str) -> bool:
    """Does the room run compiled? Counted, and where it was to and cannot any more: told."""
    does = compiled.compiled()
    metrics.compiled.set(does)
    if wanted == "auto" and not does and compiled.built():
        log.warning("the room runs interpreted: what was compiled is of other sources, Python or libraries")
    return does


def _raise_descriptor_limit() -> None:
    """A descriptor for each client: the soft limit is often 1,024."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with suppress(ValueError, OSError):  # some systems name a hard limit that they then refuse
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
