"""Own queues on real brokers: their pace, their pause, and what is moved to them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import pytest_asyncio
from aiokafka.admin import AIOKafkaAdminClient
from core import Core, TopicReader, eventually, unique
from msgspec.structs import replace

from infra.documents import Queue, product_key
from infra.journal import apply_topics
from infra.ops import again, queues
from infra.settings import Settings
from schemas import names
from schemas.broadcasts import Audit
from schemas.codes import State
from schemas.records import DeadLetter, PushMessage, Receipt
from workers.center.operating.switch import Switch
from workers.center.ports import QueueChange
from workers.center.web.problems import Problem

CLIENTS = 10


@pytest_asyncio.fixture(scope="module")
async def core(settings: Settings) -> AsyncIterator[Core]:
    running = Core(settings)
    await running.start()
    yield running
    topics = sorted(await running.journal.topics(f"{names.MESSAGES}."))
    await running.stop()
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka.bootstrap)
    await admin.start()
    await admin.delete_topics(topics)  # other modules' workers would consume them
    await admin.close()


def message(product: str, client: str, number: int, **more: object) -> PushMessage:
    return PushMessage(id=f"{client}-{number}", product=product, client=client, payload=b"%d" % number, **more)  # type: ignore[arg-type]


async def total(core: Core, clients: list[str], product: str) -> int:
    return sum([await core.pending(client, product) for client in clients])


async def has(core: Core, clients: list[str], product: str, count: int) -> bool:
    return await total(core, clients, product) == count


async def page(core: Core, client: str, product: str) -> list[int]:
    device = await (await core.room()).connect(client)
    return [int(item.payload) for item in (await device.bind(product, limit=1000)).page.items]


@asynccontextmanager
async def receipts(core: Core) -> AsyncIterator[TopicReader]:
    async with TopicReader(core.settings, names.RECEIPTS).open() as reader:
        yield reader


def moved(reader: TopicReader, product: str) -> list[Receipt]:
    return [item for item in reader.records if isinstance(item, Receipt) and (item.product, item.state) == (product, State.MOVED)]


async def test_given_500_messages_at_rate_100_when_another_product_pushes_then_its_own_are_there_at_once(core: Core) -> None:
    large, other, clients = await core.queued(rate=100), await core.product(), [unique("c") for _ in range(CLIENTS)]
    began = time.monotonic()
    await core.push_own(large, *[message(large, client, i) for i in range(500 // CLIENTS) for client in clients])
    await core.push(*[message(other, client, i) for i in range(10) for client in clients])
    await eventually(lambda: has(core, clients, other, 10 * CLIENTS), within=2, what="the other product's messages")
    counts: list[tuple[float, int]] = []

    async def all_there() -> bool:
        counts.append((time.monotonic() - began, await total(core, clients, large)))
        return counts[-1][1] == 500

    await eventually(all_there, what="the large product's messages")
    assert 3.8 < counts[-1][0] < 7
    assert all(count <= 100 * at + 100 for at, count in counts)  # the rate, and one burst
    assert [await page(core, client, large) for client in clients] == [list(range(50))] * CLIENTS


async def test_given_a_paused_queue_then_nothing_comes_and_when_resumed_all_come_in_order(core: Core) -> None:
    product, clients = await core.queued(rate=1000, paused=True), [unique("c") for _ in range(CLIENTS)]
    await core.push_own(product, *[message(product, client, i) for i in range(20) for client in clients])
    await asyncio.sleep(1.5)
    assert await total(core, clients, product) == 0
    began = time.monotonic()
    await core.queue(product, rate=1000)
    await eventually(lambda: has(core, clients, product, 20 * CLIENTS), within=3, what="all messages")
    assert time.monotonic() - began < 2
    assert [await page(core, client, product) for client in clients] == [list(range(20))] * CLIENTS


async def test_given_a_running_queue_when_paused_then_it_stands_within_a_second_and_a_new_rate_holds(core: Core) -> None:
    product, clients = await core.queued(rate=50), [unique("c") for _ in range(CLIENTS)]
    await core.push_own(product, *[message(product, client, i) for i in range(40) for client in clients])
    await eventually(lambda: _some(core, clients, product), what="the first messages")
    await core.queue(product, rate=50, paused=True)
    await asyncio.sleep(1)
    stood = await total(core, clients, product)
    await asyncio.sleep(1)
    assert await total(core, clients, product) == stood < 400
    await core.queue(product, rate=100_000)
    await eventually(lambda: has(core, clients, product, 400), within=3, what="the rest")


async def _some(core: Core, clients: list[str], product: str) -> bool:
    return await total(core, clients, product) > 0


async def test_given_records_in_the_shared_topic_then_they_are_moved_once_with_their_first_accept_time(core: Core) -> None:
    product, client, user = await core.queued(rate=1000), unique("c"), unique("u")
    await (await (await core.room()).connect(client)).bind(product, user=user)
    async with receipts(core) as reader, TopicReader(core.settings, names.queue_topic(product)).open() as own:
        await core.push(message(product, client, 1), replace(message(product, client, 2), client=None, user=user))
        await eventually(lambda: has(core, [client], product, 2), what="both messages")
        await eventually(lambda: len(moved(reader, product)) == 2, what="two receipts")
        assert {(item.id, item.client) for item in moved(reader, product)} == {(f"{client}-1", client), (f"{client}-2", user)}
        copies = await eventually(lambda: own.raw if len(own.raw) == 3 else [], what="two moved, and one expanded again")
    first = {item.id: item.accepted_ms for item in own.records if isinstance(item, PushMessage)}
    assert all(accepted and accepted <= copy.timestamp for accepted, copy in zip(first.values(), copies, strict=False))
    assert sorted(copy.key.decode() for copy in copies) == sorted([client, user, client])
    assert await core.pending(client, product) == 2


async def test_given_a_repeated_move_then_the_message_is_stored_once(core: Core) -> None:
    product, client = await core.queued(rate=1000), unique("c")
    await core.push(message(product, client, 1), message(product, client, 1))
    await core.push_own(product, message(product, client, 1), message(product, client, 2))
    await eventually(lambda: has(core, [client], product, 2), what="both messages")
    await core.handled()
    assert sorted(await page(core, client, product)) == [1, 2]


async def test_given_a_queue_that_was_switched_off_then_what_is_in_it_comes_and_the_shared_topic_serves_again(core: Core) -> None:
    product, client = await core.queued(rate=1, paused=True), unique("c")
    await core.push_own(product, *[message(product, client, i) for i in range(5)])
    await core.queue(product)
    await eventually(lambda: has(core, [client], product, 5), what="what was in the queue")
    async with receipts(core) as reader:
        await core.push(message(product, client, 5))
        await eventually(lambda: has(core, [client], product, 6), what="the message of the shared topic")
        assert moved(reader, product) == []


async def test_given_another_products_record_in_an_own_queue_then_it_is_a_dead_letter_with_the_reason(core: Core) -> None:
    product, other, client = await core.queued(rate=1000), await core.product(), unique("c")
    async with TopicReader(core.settings, names.DEAD).open() as dead:
        await core.push_own(product, message(other, client, 1), message(product, client, 2))
        [letter] = await eventually(lambda: [r for r in dead.records if isinstance(r, DeadLetter) and r.client == client])
    assert letter.reason == f"it is for product {other}, in the own queue of {product}"
    assert letter.topic == names.queue_topic(product)
    await eventually(lambda: has(core, [client], product, 1), what="the message after it")
    assert await core.pending(client, other) == 0


async def test_given_a_document_that_asks_for_a_queue_then_its_topic_has_the_partitions_of_the_shared_one(core: Core) -> None:
    product = await core.queued(rate=1000)
    topics = await core.journal.topics(names.MESSAGES)
    assert topics[names.queue_topic(product)] == topics[names.MESSAGES]


async def test_given_messages_in_both_topics_when_replayed_then_each_is_looked_at_once(core: Core) -> None:
    product, client, since = await core.queued(rate=1000), unique("c"), int(time.time() * 1000) - 1000
    await core.push(message(product, client, 1))
    await core.push_own(product, message(product, client, 2))
    await eventually(lambda: has(core, [client], product, 2), what="both messages")
    wanted = again.Wanted(since=since, client=client, everything=True)
    found = await again.replay(core.settings.kafka, wanted, dry_run=True, rate=100)
    assert (found.matched, found.produced) == (2, 2)


async def test_given_two_workers_when_one_comes_then_the_rate_holds_over_both(core: Core) -> None:
    product, clients = await core.queued(rate=100), [unique("c") for _ in range(CLIENTS)]
    second = core._consumer(product)
    began = time.monotonic()
    await core.push_own(product, *[message(product, client, i) for i in range(20) for client in clients])
    await second.start()
    try:
        await eventually(second.owned, what="a part of the partitions")
        await core.push_own(product, *[message(product, client, i) for i in range(20, 40) for client in clients])
        counts: list[tuple[float, int]] = []
        handled: set[int] = set()  # partitions: each assignment begins anew

        async def all_there() -> bool:
            handled.update(second.positions())
            counts.append((time.monotonic() - began, await total(core, clients, product)))
            return counts[-1][1] == 40 * CLIENTS

        await eventually(all_there, what="all messages")
        assert all(count <= 100 * at + 100 for at, count in counts)
        assert handled, "of what came after it was there, a part is its own"
    finally:
        await second.stop()
    assert [await page(core, client, product) for client in clients] == [list(range(40))] * CLIENTS


# --- switched by center, looked at by the commands ---------------------------------------------------------------------


async def test_given_a_change_by_center_then_the_topic_is_there_it_is_audited_and_every_process_has_it(
    core: Core,
) -> None:
    product, switch = await core.product(ttl_s=77), Switch(core.settings.kafka, core.keeper, core.journal)
    async with TopicReader(core.settings, names.AUDIT).open() as audit:
        for change in (
            QueueChange(action="rate", rate=5, by="ann", reason="sale"),
            QueueChange(action="pause", by="bob"),
            QueueChange(action="pause", by="bob"),  # changes nothing
        ):
            await switch.change(product, change)
        assert names.queue_topic(product) in await core.journal.topics(names.MESSAGES)
        await eventually(lambda: core.keeper.queue_of(product) == Queue(rate=5, paused=True), what="the document")
        found = await eventually(lambda: audits(audit, product) if len(audits(audit, product)) >= 2 else [], what="the audit")
    assert [(item.action, item.by, item.reason, item.before, item.after) for item in found] == [
        ("rate", "ann", "sale", "off", "5/s"),
        ("pause", "bob", None, "5/s", "5/s, paused"),
    ]
    assert core.keeper.products[product].ttl_s == 77
    with pytest.raises(Problem, match="not in the keeper"):
        await switch.change("nobodys-product", QueueChange(action="rate", rate=5, by="ann"))


def audits(reader: TopicReader, product: str) -> list[Audit]:
    return [item for item in reader.records if isinstance(item, Audit) and item.product == product]


async def test_given_a_document_that_was_changed_meanwhile_then_the_older_one_is_not_written_over_it(core: Core) -> None:
    product = await core.product()
    document, revision = await core.keeper.read(product_key(product))
    await core.queue(product, rate=5)
    assert not await core.keeper.replace(product_key(product), document, revision)
    assert (await core.keeper.read(product_key(product)))[0] == core.keeper.products[product]


async def test_given_a_paused_queue_then_its_lag_is_shown_and_what_is_switched_off_drains(core: Core) -> None:
    product, clients = await core.queued(rate=1000), [unique("c") for _ in range(CLIENTS)]
    await core.push_own(product, *[message(product, client, 1) for client in clients])
    await eventually(lambda: has(core, clients, product, CLIENTS), what="the first of each")
    await core.queue(product, rate=1000, paused=True)
    await asyncio.sleep(1)
    await core.push_own(product, *[message(product, client, 2) for client in clients])
    document = {"product": product, "rate": 1000, "paused": True}

    async def lag(documents: list[dict[str, object]]) -> dict[str, object]:
        rows = await queues.with_lag(core.settings.kafka.bootstrap, documents)
        return next(row for row in rows if row["product"] == product)

    async def behind() -> dict[str, object] | None:
        found = await lag([document])
        return found if found["lag"] == CLIENTS else None

    found = await eventually(behind, what="the lag")
    assert f"{product}: paused, 1,000 messages/s, {CLIENTS} not delivered yet" in queues.queue_text(found)
    assert sum(row["lag"] for row in found["partitions"]) == CLIENTS
    assert "off, drains" in queues.queues_text([await lag([])])
    assert product in (await queues.switched_on(core.settings.nats) or [])


async def test_given_own_queues_when_topics_are_applied_then_theirs_are_made_too_and_a_repeat_finds_them(core: Core) -> None:
    product = unique("p")
    for outcome in ("created", "exists"):
        assert dict(await apply_topics(core.settings.kafka, [product]))[names.queue_topic(product)] == outcome
