"""An uplink's id, on its way through a coordinator: one record and one request, however often it is repeated."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from journal_twin import JournalTwin
from test_coordinator_core import SHOP, BusTwin, Documents, echo, incoming, item, uplink

from infra.bus import Bus
from infra.journal import Entry, JournalDown, Position
from infra.lifecycle import Awake
from infra.settings import NatsSettings
from workers.coordinator.egress import Services
from workers.coordinator.ingress import Ingress
from workers.once import Once, Recent
from workers.runner import Retryable


class SlowJournal(JournalTwin):
    """Acknowledges when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on = asyncio.Event()

    async def produce(self, entries: Any, *, timeout: float | None = None) -> list[Position]:
        await self.go_on.wait()
        return await super().produce(entries)


def ingress(journal: JournalTwin) -> Ingress:
    return Ingress(Bus(NatsSettings(), name="t", version="0.0.0"), journal, Documents(), clock=lambda: 1)


# --- ingress -----------------------------------------------------------------------------------------------------------


async def test_given_a_repeat_when_kafka_has_it_then_it_is_answered_and_not_produced_again() -> None:
    journal = JournalTwin()
    taker = ingress(journal)
    for _ in range(2):
        assert [answer.status for answer in await taker.take([item(), item(id="u-2")])] == ["ok", "ok"]
    assert [record.id for record in journal.records] == ["u-1", "u-2"]  # type: ignore[union-attr]


async def test_given_one_id_of_two_clients_or_products_then_they_are_two_uplinks() -> None:
    journal = JournalTwin()
    await ingress(journal).take([item(), item(key="eu:phone-2"), item(key="us:phone-1")])
    assert len(journal.entries) == 3


async def test_given_one_id_twice_in_a_batch_then_both_are_answered_and_one_is_produced() -> None:
    journal = JournalTwin()
    assert [answer.status for answer in await ingress(journal).take([item(), item()])] == ["ok", "ok"]
    assert len(journal.entries) == 1


async def test_given_a_repeat_while_the_first_is_under_way_then_it_waits_for_it() -> None:
    journal = SlowJournal()
    taker = ingress(journal)
    takes = [asyncio.ensure_future(taker.take([item()])) for _ in range(2)]
    await asyncio.sleep(0.01)
    assert not any(take.done() for take in takes)
    journal.go_on.set()
    assert [[answer.status for answer in answers] for answers in await asyncio.gather(*takes)] == [["ok"], ["ok"]]
    assert len(journal.entries) == 1


async def test_given_kafka_is_slow_then_the_asker_is_told_and_its_repeat_finds_what_was_written() -> None:
    journal = SlowJournal()
    once = Once(journal, within=0.01)
    entry = {b"d": Entry("t", "k", None)}
    for _ in range(2):
        with pytest.raises(JournalDown):
            await once.produce(entry)
    journal.go_on.set()
    await asyncio.sleep(0.01)
    await once.produce(entry)
    assert len(journal.entries) == 1


async def test_given_kafka_is_down_then_a_repeat_is_produced_when_it_is_back() -> None:
    journal = JournalTwin()
    journal.down = True
    taker = ingress(journal)
    with pytest.raises(JournalDown):
        await taker.take([item()])
    journal.down = False
    await taker.take([item()])
    assert len(journal.entries) == 1


async def test_given_a_coordinator_that_stops_then_nothing_of_it_goes_on() -> None:
    journal = SlowJournal()
    taker = ingress(journal)
    take = asyncio.ensure_future(taker.take([item()]))
    await asyncio.sleep(0.01)
    await taker.stop()
    with pytest.raises(asyncio.CancelledError):
        await take


async def test_given_a_coordinator_that_was_stopped_then_what_lay_there_is_left_to_others() -> None:
    journal, now = JournalTwin(), [0.0]
    awake = Awake(within=2.5, settle=1.0, clock=lambda: now[0])
    taker = Ingress(Bus(NatsSettings(), name="t", version="0.0.0"), journal, Documents(), awake=awake, clock=lambda: 1)
    await taker.take([item()])
    now[0] = 30.0
    for _ in range(2):
        with pytest.raises(JournalDown):
            await taker.take([item(id="u-2")])
        now[0] += 0.5
    await taker.take([item(id="u-3")])
    assert [record.id for record in journal.records] == ["u-1", "u-3"]  # type: ignore[union-attr]


def test_given_more_ids_than_are_remembered_then_the_oldest_goes() -> None:
    recent = Recent(2)
    for digest in (b"a", b"b", b"c"):
        recent.add(digest)
    assert [digest in recent for digest in (b"a", b"b", b"c")] == [False, True, True]


# --- egress ------------------------------------------------------------------------------------------------------------


async def test_given_copies_in_the_log_then_the_service_is_asked_once() -> None:
    bus, journal = BusTwin({"app.shop.echo": echo}), JournalTwin()
    services = Services(bus, journal, Documents())
    await services.assigned(frozenset({0}))
    assert await services.handle(0, [incoming(1, uplink()), incoming(2, uplink())]) == []
    assert await services.handle(0, [incoming(3, uplink()), incoming(4, uplink(id="u-2"))]) == []
    assert (len(bus.asked), len(journal.entries)) == (2, 2)


async def test_given_a_batch_that_failed_then_its_uplinks_are_asked_again() -> None:
    bus, journal = BusTwin({"app.shop.echo": echo}), JournalTwin()
    services = Services(bus, journal, Documents())
    journal.down = True
    with pytest.raises(JournalDown):
        await services.handle(0, [incoming(1, uplink())])
    journal.down = False
    await services.handle(0, [incoming(1, uplink())])
    assert (len(bus.asked), len(journal.entries)) == (2, 1)


async def test_given_a_partition_that_went_away_and_came_back_then_its_copies_are_asked_again() -> None:
    bus, journal = BusTwin({"app.shop.echo": echo}), JournalTwin()
    services = Services(bus, journal, Documents())
    await services.assigned(frozenset({0}))
    await services.handle(0, [incoming(1, uplink())])
    await services.revoked(frozenset({0}))
    await services.handle(0, [incoming(1, uplink())])
    assert len(bus.asked) == 2


async def test_given_a_product_that_is_missing_while_the_keeper_is_away_then_its_uplinks_are_handled_again() -> None:
    bus, documents = BusTwin({"app.shop.echo": echo}), Documents({}, current=False)
    services = Services(bus, JournalTwin(), documents)
    with pytest.raises(Retryable, match="product shop is not known"):
        await services.handle(0, [incoming(1, uplink())])
    documents.products["shop"] = SHOP
    await services.handle(0, [incoming(1, uplink())])
    assert bus.asked == ["app.shop.echo"]


async def test_given_a_product_that_is_known_not_to_exist_then_nobody_is_asked() -> None:
    bus = BusTwin({"app.shop.echo": echo})
    assert await Services(bus, JournalTwin(), Documents({})).handle(0, [incoming(1, uplink())]) == []
    assert bus.asked == []


async def test_given_records_that_are_no_uplinks_then_each_is_a_dead_letter_of_its_own() -> None:
    services = Services(BusTwin(), JournalTwin(), Documents())
    letters = await services.handle(0, [incoming(1, b"x"), incoming(2, b"x")])
    assert [letter.record.offset for letter in letters] == [1, 2]
