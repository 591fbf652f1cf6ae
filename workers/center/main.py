"""The composition root of `pushctl run center`."""

from __future__ import annotations

from typing import Final

import structlog

from infra import VERSION
from infra.audiences import Audiences
from infra.bus import Bus, BusDown
from infra.journal import Journal
from infra.keeper import Keeper
from infra.lifecycle import EXIT_FAILED, Lifecycle
from infra.mirror import Mirror
from infra.queues import OwnQueues
from infra.register import Register
from infra.register.idempotency import IdempotencyKeys
from infra.register.limits import SharedLimits
from infra.revocations import Revocations
from infra.rooms import Rooms
from infra.settings import Settings
from infra.telemetry import InternalListener, configure_logging
from infra.tokens import Verifier
from schemas import names
from workers.center import app
from workers.center.callers.approval import Secrets
from workers.center.callers.keycheck import NoKey
from workers.center.callers.keyring import MirroredKeys
from workers.center.callers.keysmith import KeySmith
from workers.center.callers.lastused import LastUsed
from workers.center.callers.limits import Limits
from workers.center.callers.oidc import ApiTokens
from workers.center.campaigns.census import Census
from workers.center.campaigns.jobs import JobIndex, JobMirror
from workers.center.devices.kick import Kicks
from workers.center.devices.unbind import Unbinds
from workers.center.dispatch.askers import Askers
from workers.center.dispatch.regions import Regions
from workers.center.operating.access_change import AccessWriter
from workers.center.operating.drains import Drains
from workers.center.operating.revoker import Revoker
from workers.center.operating.shelf import Shelf
from workers.center.operating.switch import Switch
from workers.center.operating.trail import Trail
from workers.center.ports import Parts
from workers.center.readiness import Readiness
from workers.center.unicast.confirm import Confirmations
from workers.center.unicast.sightings import Sightings
from workers.center.web.server import HttpServer
from workers.center.web.streams import Streams
from workers.outside import Outside
from workers.webhooks import Sender

NAME: Final = "center"

log = structlog.get_logger("center")


async def main(settings: Settings) -> int:
    """Run the HTTP API until it is told to stop; returns the exit status."""
    configure_logging(settings.telemetry, process=NAME)
    life = Lifecycle(NAME)
    bus = Bus(settings.nats, name=NAME, version=VERSION, fail=life.fail)
    keeper = Keeper(bus, disk=settings.data / NAME, refill=True, fail=life.fail)
    rooms = Rooms(bus, dead_after=lambda: keeper.policy.lease_dead_after, fail=life.fail)
    journal = Journal(settings.kafka, name=NAME)
    register = Register(settings.redis)
    index = JobIndex()
    jobs = Mirror(bus, names.KV_JOBS, on_change=index.take, needed=False, fail=life.fail)
    readiness = Readiness({"kafka": journal.ping, "nats": lambda: _connected(bus), "redis": register.ping}, fail=life.fail)
    revocations = Revocations(bus, disk=settings.data / NAME, refill=True, fail=life.fail)
    keys, used = MirroredKeys(bus, disk=settings.data / NAME, fail=life.fail), LastUsed(register, fail=life.fail)
    tokens, streams = Verifier(revocations.revoked), Streams()
    keeper.on_change.append(lambda: tokens.load(keeper.issuers, keeper.key_sets))
    api_tokens = ApiTokens()
    keeper.on_change.append(lambda: api_tokens.load(keeper.api_issuers, keeper.key_sets))
    outside = Outside(settings.outside)
    parts = Parts(
        journal=journal,
        documents=keeper,
        rooms=rooms,
        clients=register,
        pending=register,
        confirmations=Confirmations(bus),
        kicks=Kicks(bus),
        unbinds=Unbinds(bus),
        drains=Drains(bus, journal),
        tokens=tokens,
        keys=IdempotencyKeys(register),
        log=Sightings(settings.kafka, journal.partitions),
        standings=register,
        jobs=JobMirror(bus, jobs, index),
        audiences=Audiences(settings.kafka, journal.partitions, name=NAME),
        topics=OwnQueues(journal),
        switch=Switch(settings.kafka, keeper, journal),
        hooks=Sender(outside),
        revocations=Revoker(bus, journal, revocations.revoked),
        access=AccessWriter(keeper, journal),
        shelf=Shelf(keeper, journal),
        health=readiness,
        census=Census(bus, settings.kafka, journal.partitions),
        trail=Trail(settings.kafka, journal.partitions),
        streams=streams,
        askers=Askers(
            lambda: keeper.policy,
            lambda: keeper.access,
            balancers=map(str, settings.center.balancers),
            regions=Regions(
                {str(network): region for network, region in settings.center.regions.items()},
                settings.center.geo,
                settings.center.geo_regions,
            ),
        ),
        ring=keys.ring,
        api_tokens=api_tokens,
        api_keys=KeySmith(bus, journal, keys.ring, used),
        used=used.note,
        approvals=Secrets(bus),
        limits=Limits(SharedLimits(register)),
        api_key=settings.center.api_key.get_secret_value(),
    )
    try:
        application = app.build(parts, version=VERSION)
    except NoKey as error:
        log.error("not started", process=NAME, reason=str(error))
        return EXIT_FAILED
    server = HttpServer(application, host=settings.center.host, port=settings.center.port, fail=life.fail)
    internal = InternalListener(settings.telemetry, process=NAME, ready=readiness.reason)

    life.add("internal listener", internal)
    life.add("bus", bus)
    life.add("keeper", keeper)
    life.add("revocations", revocations)
    life.add("api keys", keys)
    life.add("rooms", rooms)
    life.add("jobs", jobs)
    life.add("journal", journal)
    life.add("register", register)
    life.add("last used", used)
    life.add("readiness", readiness)
    life.add("outside", outside)
    life.add("http", server)
    life.add("streams", streams)
    return await life.run(ready=lambda: internal.report(url=server.url))


async def _connected(bus: Bus) -> None:
    if not bus.connected:
        raise BusDown("the connection to NATS is down")
