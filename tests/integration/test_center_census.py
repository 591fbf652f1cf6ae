"""What center reads of Kafka and asks of rooms: the dry run's numbers and the audit, on real brokers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from core import unique

from infra.bus import Bus
from infra.journal import Entry, Journal
from infra.settings import Settings
from infra.wire import Control, ControlReply, Estimate, JobContent
from schemas import names
from schemas.broadcasts import Audit
from schemas.partition import Shares
from schemas.records import ClientProduct, ClientRecord
from workers.center.campaigns.census import Census
from workers.center.operating.trail import Trail

pytestmark = pytest.mark.xdist_group("local-brokers")


@pytest_asyncio.fixture(scope="module")
async def bus(settings: Settings) -> AsyncIterator[Bus]:
    part = Bus(settings.nats, name="test-census", version="0.0.0")
    await part.start()
    yield part
    await part.stop()


@pytest_asyncio.fixture(scope="module")
async def journal(settings: Settings) -> AsyncIterator[Journal]:
    part = Journal(settings.kafka, name="test-census")
    await part.start()
    yield part
    await part.stop()


def content(product: str, **more: Any) -> JobContent:
    return JobContent("j", (-1, -1), product, more.pop("groups", []), b"", 60_000, 1, include_new=True, **more)


async def register(journal: Journal, product: str, count: int) -> None:
    """`count` clients, every second of them in group `even`, each written twice: the last record counts."""
    entries = []
    for groups_too in (False, True):
        for number in range(count):
            client, groups = f"c{number}", ("even",) if groups_too and number % 2 == 0 else ()
            bind = ClientProduct(user=None, groups=groups, attrs={"n": str(number)}, qos=1, first_bind_ms=1)
            record = ClientRecord(realm="main", client=client, product=product, bind=bind)
            entries.append(Entry(names.CLIENTS, f"main:{client} {product}", record, by=client))
    entries.append(Entry(names.CLIENTS, f"main:c0 {product}", None, by="c0"))
    await journal.produce(entries)


async def test_given_a_registry_then_each_client_counts_once_as_it_is_now(settings: Settings, bus: Bus, journal: Journal) -> None:
    product, other = unique("p"), unique("p")
    await register(journal, product, 60)
    await register(journal, other, 10)
    census = Census(bus, settings.kafka, journal.partitions)
    everyone = await census.known(content(product))
    assert (everyone.clients, everyone.meant, everyone.exact) == (59, 59, True)
    assert (await census.known(content(product, groups=["even"]))).meant == 29
    assert (await census.known(content(product, segment='n == "7"'))).meant == 1
    sampled = await census.known(content(product, sample_bp=5000))
    shares = Shares("")
    assert (sampled.clients, sampled.exact) == (59, True)
    assert sampled.meant == sum(shares.of(f"main:c{number}") < 5000 for number in range(1, 60))


async def test_given_more_records_than_are_read_then_the_numbers_are_scaled_up(
    settings: Settings, bus: Bus, journal: Journal
) -> None:
    product = unique("p")
    await register(journal, product, 300)
    most = 60 * settings.kafka.partitions
    found = await Census(bus, settings.kafka, journal.partitions, most=most).known(content(product))
    assert not found.exact
    assert found.clients > 299 / 4


async def test_given_rooms_then_each_tells_its_own_and_one_that_is_silent_has_a_reason(settings: Settings, bus: Bus) -> None:
    rooms = {unique("census"): 5, unique("census"): None, unique("census"): 7}
    decoder, seen = msgspec.msgpack.Decoder(Control), []

    for room, persons in list(rooms.items()):
        if persons is None:
            continue

        async def answer(data: bytes, persons: int = persons) -> bytes:
            order = decoder.decode(data)
            assert isinstance(order, Estimate)
            seen.append(order.content)
            return msgspec.msgpack.encode(ControlReply("ok" if persons == 5 else "refused", persons=persons))

        await bus.serve(room, names.room_control(room), answer)
    found = await Census(bus, settings.kafka, _none).online(list(rooms), content("shop", groups=["vip"]))
    assert [each.room for each in found] == list(rooms)
    assert [(each.persons, each.error) for each in found] == [(5, None), (None, "no answer: NoResponders"), (None, "refused")]
    assert [each.groups for each in seen] == [["vip"], ["vip"]]


async def test_given_an_audit_then_it_has_the_jobs_own_records_in_order(settings: Settings, journal: Journal) -> None:
    product = unique("p")
    for subject, action in (("j1", "pause"), ("j2", "pause"), ("j1", "resume")):
        record = Audit(product=product, subject=subject, action=action, by="ann", at_ms=1, before="a", after="b")
        await journal.produce([Entry(names.AUDIT, product, record)])
    page = await Trail(settings.kafka, journal.partitions).of(product, "j1")
    assert [each.action for each in page.records] == ["pause", "resume"]
    assert page.whole
    assert (await Trail(settings.kafka, journal.partitions).of(product, "nothing")).records == []


async def _none(topic: str) -> int:
    raise AssertionError(topic)
