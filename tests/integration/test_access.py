"""Access lists on a real NATS and Kafka: by the API of one center, in a live room at once, and with two centers side by side."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import mqtt5
import pytest_asyncio
from core import TopicReader, eventually, unique

from infra.bus import Bus
from infra.documents import ACCESS, Access, Rules
from infra.journal import Journal
from infra.keeper import Keeper
from infra.settings import Settings
from schemas import names
from schemas.broadcasts import Audit
from tests.unit.center_world import KEY
from tests.unit.center_world import World as Center
from tests.unit.live_room import PING, connect, live
from workers.center import app
from workers.center.operating.access_change import AccessWriter
from workers.center.ports import AccessChange


@asynccontextmanager
async def a_keeper(settings: Settings, disk: Path) -> AsyncIterator[Keeper]:
    bus = Bus(settings.nats, name="test-access", version="0.0.1")
    await bus.start()
    keeper = Keeper(bus, disk=disk)
    await keeper.start()
    try:
        yield keeper
    finally:
        await keeper.stop()
        await bus.stop()


@asynccontextmanager
async def a_journal(settings: Settings) -> AsyncIterator[Journal]:
    journal = Journal(settings.kafka, name="test-access")
    await journal.start()
    try:
        yield journal
    finally:
        await journal.stop()


@pytest_asyncio.fixture(autouse=True)
async def _no_lists(settings: Settings, tmp_path: Path) -> AsyncIterator[None]:
    """None before a test, none for those that come after it."""
    async with a_keeper(settings, tmp_path / "clean") as keeper:
        await keeper.remove(ACCESS)
        yield
        await keeper.remove(ACCESS)


def denied(client: str) -> AccessChange:
    return AccessChange(target="deny", add=Rules(clients=(client,)), by="ann")


async def test_given_a_connected_client_when_it_is_denied_by_the_api_then_it_has_to_go_at_once_and_others_stay(
    settings: Settings, tmp_path: Path
) -> None:
    async with (
        a_keeper(settings, tmp_path / "center") as here,
        a_keeper(settings, tmp_path / "room") as there,
        a_journal(settings) as journal,
        TopicReader(settings, names.AUDIT).open() as audit,
        live() as room,
    ):
        there.on_change.append(lambda: room.world.room.load(there.access))
        parts = replace(Center().parts, documents=here, access=AccessWriter(here, journal))
        transport = httpx.ASGITransport(app.build(parts, version="0.0.0"))
        attacker, bystander = unique("phone"), unique("phone")
        clients = [await room.client(connect(name)) for name in (attacker, bystander)]
        for client in clients:
            assert isinstance(await client.packet(), mqtt5.ConnAckPacket)
        async with httpx.AsyncClient(transport=transport, base_url="http://center", headers={"X-API-Key": KEY}) as http:
            body = {"list": "deny", "add": {"patterns": [f"{attacker[:-1]}?"]}, "by": "ann", "reason": "a flood"}
            begun = time.monotonic()
            answer = await http.post("/v1/access", json=body)
            end = await clients[0].packet()
            assert time.monotonic() - begun < 3
            assert answer.status_code == 200
            assert isinstance(end, mqtt5.DisconnectPacket)
            assert int(end.reason_code) == 0x98
            back = await (await room.client(connect(attacker))).packet()
            assert isinstance(back, mqtt5.ConnAckPacket)
            assert int(back.reason_code) >= 0x80
            clients[1].writer.write(PING)
            assert isinstance(await clients[1].packet(), mqtt5.PingRespPacket)
            await eventually(lambda: here.access.deny.patterns, what="the lists in center")
            assert (await http.get("/v1/access")).json() == answer.json()

            lifted = await http.post("/v1/access", json={"list": "deny", "remove": body["add"], "by": "bob"})
            assert lifted.status_code == 200
            await eventually(lambda: there.access == Access(), what="no lists")
            again = await (await room.client(connect(attacker))).packet()
            assert isinstance(again, mqtt5.ConnAckPacket)
            assert int(again.reason_code) == 0

        def audits() -> list[Audit]:
            return [item for item in audit.records if isinstance(item, Audit) and attacker[:-1] in item.after]

        found = await eventually(lambda: audits() if len(audits()) == 2 else [], what="the audit")
    assert [(item.action, item.by, item.reason) for item in found] == [
        ("deny", "ann (key operator)", "a flood"),
        ("deny", "bob (key operator)", None),
    ]


async def test_given_two_centers_when_changes_come_at_once_then_none_is_lost(settings: Settings, tmp_path: Path) -> None:
    async with (
        a_keeper(settings, tmp_path / "1") as one,
        a_keeper(settings, tmp_path / "2") as two,
        a_journal(settings) as journal,
    ):
        writers = [AccessWriter(keeper, journal) for keeper in (one, two)]
        asked = [unique("c") for _ in range(20)]
        for number in range(0, len(asked), 2):
            await asyncio.gather(*(writer.change(denied(asked[number + at])) for at, writer in enumerate(writers)))
        many = [unique("c") for _ in range(20)]
        await asyncio.gather(*(writers[0].change(denied(name)) for name in many))  # in one center they wait for each other
        found, _ = await one.latest(ACCESS)
        assert isinstance(found, Access)
        assert set(found.deny.clients) == {*asked, *many}
        await eventually(lambda: two.access == found, what="the lists in the other")
