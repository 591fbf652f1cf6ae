"""Notices and pulls on real brokers: what the register keeps of them, and what settles them (docs/guarantees.md, U13)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from core import Core, Device, TopicReader, eventually, unique

from infra.register.calls import PAGE_BYTES
from infra.settings import Settings
from infra.wire import NOTICED, Ack, ConfirmItem, DisconnectItem, PullItem
from schemas import names
from schemas.records import DeadLetter, PushMessage, Receipt

pytestmark = pytest.mark.xdist_group("local-brokers")


@pytest_asyncio.fixture(scope="module")
async def core(settings: Settings) -> AsyncIterator[Core]:
    made = Core(settings)
    await made.start()
    yield made
    await made.stop()


def notice(product: str, client: str, message_id: str, payload: bytes = b"body", **more: Any) -> PushMessage:
    return PushMessage(id=message_id, product=product, client=client, payload=payload, mode="pull", **more)


async def pulled(core: Core, device: Device, product: str, message_id: str) -> Any:
    [result] = await core.saver.pull([PullItem(device.key, device.generation, device.number, product, message_id)])
    return result


async def test_given_a_notice_then_hint_and_page_have_its_size_and_a_pull_its_body(core: Core) -> None:
    product, client = await core.product(), unique("c")
    room = await core.room()
    device = await room.connect(client)
    await device.bind(product)
    await core.push(notice(product, client, "m1", b"x" * 1000, pull_after_ms=250))
    [hint] = await eventually(lambda: room.hints, what="the hint")
    assert (hint.message.payload, hint.message.size, hint.message.pull_after_ms) == (b"", 1000, 250)
    [item] = (await device.sync(product)).pages[0].items
    assert (item.payload, item.size, item.n) == (b"", 1000, 1)
    result = await pulled(core, device, product, "m1")
    assert (result.status, result.message.payload, result.message.size) == ("ok", b"x" * 1000, -1)
    assert (await pulled(core, device, product, "m2")).status == "gone"


async def test_given_a_notice_that_a_session_has_then_only_the_next_session_gets_it_again(core: Core) -> None:
    product, client = await core.product(), unique("c")
    room = await core.room()
    device = await room.connect(client)
    await device.bind(product)
    await core.push(notice(product, client, "m1"), notice(product, client, "m2"))
    await eventually(lambda: len(room.hints) == 2, what="the hints")
    page = (await device.sync(product, acks=[Ack(product, "m1", NOTICED)])).pages[0]
    assert [item.id for item in page.items] == ["m2"]
    assert await core.pending(client, product) == 2
    assert [item.id for item in (await device.bind(product)).page.items] == ["m2"]
    again = await room.connect(client)
    assert [item.id for item in (await again.bind(product)).page.items] == ["m1", "m2"]
    assert (await pulled(core, device, product, "m1")).status == "superseded"


async def test_given_a_client_that_cannot_pull_then_pages_have_the_bodies_and_no_notice_is_skipped(core: Core) -> None:
    product, client = await core.product(), unique("c")
    await core.push(
        notice(product, client, "m1", b"1" * 1000), PushMessage(id="m2", product=product, client=client, payload=b"2")
    )
    await eventually(lambda: core.pending(client, product), what="the messages")
    room = await core.room()
    device = await room.connect(client)
    page = (await device.bind(product, whole=True)).page
    assert [(item.id, item.payload, item.size, item.or_notice) for item in page.items] == [
        ("m1", b"1" * 1000, -1, False),
        ("m2", b"2", -1, False),
    ]
    [page] = (await device.sync(product, acks=[Ack(product, "m1", NOTICED)], whole=True)).pages
    assert [(item.id, item.payload) for item in page.items] == [("m1", b"1" * 1000), ("m2", b"2")]
    [page] = (await device.sync(product, acks=[Ack(product, "m2", "acked")], window=["m1"], whole=True)).pages
    assert page.items == []


async def test_given_large_bodies_that_lie_apart_then_a_page_of_them_is_bounded_by_their_bytes(core: Core) -> None:
    product, client = await core.product(), unique("c")
    room = await core.room()
    device = await room.connect(client)
    await device.bind(product, whole=True)
    sent = [f"m{number:02}" for number in range(40)]
    await core.push(*(notice(product, client, each, each.encode() * 5_000) for each in sent))
    await eventually(lambda: len(room.hints) == len(sent), what="the hints")
    seen: list[str] = []
    pages = 0
    while len(seen) < len(sent):
        [page] = (await device.sync(product, window=seen, limit=64, whole=True)).pages
        pages += 1
        assert page.items
        assert sum(len(item.payload) for item in page.items) <= PAGE_BYTES
        assert all(item.payload == item.id.encode() * 5_000 for item in page.items)
        assert page.more is (len(seen) + len(page.items) < len(sent))
        seen += [item.id for item in page.items]
    assert seen == sent
    assert pages > 1


async def test_given_a_pulled_body_when_acknowledged_then_nothing_of_it_is_left(core: Core) -> None:
    product, client = await core.product(), unique("c")
    room = await core.room()
    device = await room.connect(client)
    await device.bind(product)
    async with TopicReader(core.settings, names.RECEIPTS).open() as receipts:
        await core.push(notice(product, client, "m1"))
        await eventually(lambda: room.hints, what="the hint")
        await device.sync(product, acks=[Ack(product, "m1", NOTICED)])
        await device.sync(product, acks=[Ack(product, "m1", "acked")])
        await eventually(lambda: receipts.records, what="the receipt")
        await asyncio.sleep(0.1)
        found = [record for record in receipts.records if isinstance(record, Receipt) and record.client == client]
    assert [record.state for record in found] == ["acked"]  # a notice has none
    shard = core.register.shards.of(names.session_key(device.key))
    [left] = await shard.pipe([("HLEN", names.bodies_key(device.key, product))])
    assert left == 0


async def test_given_a_collapse_key_when_a_notice_is_replaced_then_its_body_goes_too(core: Core) -> None:
    product, client = await core.product(), unique("c")
    await core.push(notice(product, client, "m1", collapse_key="k"), notice(product, client, "m2", collapse_key="k"))
    await eventually(lambda: core.pending(client, product), what="the message")
    room = await core.room()
    device = await room.connect(client)
    [item] = (await device.bind(product)).page.items
    assert item.id == "m2"
    assert (await pulled(core, device, product, "m1")).status == "gone"
    [left] = await core.register.shards.of(names.session_key(device.key)).pipe([("HKEYS", names.bodies_key(device.key, product))])
    assert sorted(left) == [b"m2", b"m2/"]


async def test_given_http_when_confirmed_then_it_is_settled_with_a_receipt_and_only_what_is_pending_is(core: Core) -> None:
    product, client = await core.product(), unique("c")
    key = names.client_key("main", client)
    async with TopicReader(core.settings, names.RECEIPTS).open() as receipts:
        await core.push(notice(product, client, "m1"), PushMessage(id="m2", product=product, client=client, payload=b"whole"))
        await eventually(lambda: _is(core.pending(client, product), 2), what="the messages")
        page = await core.register.peek(key, product, 10)
        assert [(item.id, item.body.mode, item.body.size) for item in page.items] == [("m1", "pull", 4), ("m2", "push", 5)]
        assert (await core.register.peek(key, product, 1)).more
        items = [ConfirmItem(key, Ack(product, each, "acked", "http")) for each in ("m1", "m2", "m3")]
        assert [result.status for result in await core.saver.confirm(items)] == ["ok", "ok", "gone"]
        assert [result.status for result in await core.saver.confirm(items)] == ["gone", "gone", "gone"]
        found = await eventually(
            lambda: [r for r in receipts.records if isinstance(r, Receipt) and r.client == client][1:], what="the receipts"
        )
    assert [(record.id, record.detail) for record in found] == [("m2", "http")]
    assert await core.pending(client, product) == 0


async def test_given_a_notice_that_nobody_ever_acknowledged_when_parked_then_its_body_is_in_the_dead_letter(core: Core) -> None:
    product, client = await core.product(), unique("c")
    room = await core.room()
    device = await room.connect(client)
    await device.bind(product)
    await core.push(notice(product, client, "m1", b"the whole body"))
    await eventually(lambda: room.hints, what="the hint")
    policy = core.keeper.policy
    core.keeper.policy = policy.model_copy(update={"park_after_connections": 2, "park_after": 0.001})
    try:
        async with TopicReader(core.settings, names.DEAD).open() as dead:
            for _ in range(2):
                device = await room.connect(client)  # a repeat of the same end counts nothing
                key, room_id, epoch, _, generation, number = device.where()
                gone = DisconnectItem(key, room_id, epoch, generation, number, "test", [], [], [(product, "m1")], 1)
                await core.saver.disconnect([gone])
                await asyncio.sleep(0.01)
            letters = await eventually(
                lambda: [r for r in dead.records if isinstance(r, DeadLetter) and r.client == client], what="the dead letter"
            )
    finally:
        core.keeper.policy = policy
    assert b"the whole body" in (letters[0].value or b"")


async def test_given_large_bodies_when_pulled_together_then_an_answer_stays_within_its_bytes(core: Core) -> None:
    product, client = await core.product(max_payload=65_536), unique("c")
    await core.push(*(notice(product, client, f"m{n}", b"x" * 60_000) for n in range(8)))
    await eventually(lambda: _is(core.pending(client, product), 8), what="the messages")
    key = names.client_key("main", client)
    results = await core.saver.pull([PullItem(key, 0, 0, product, f"m{n}") for n in range(8)])
    assert [result.status for result in results] == ["ok"] * 4 + ["retry"] * 4


async def _is(value: Any, wanted: int) -> bool:
    return bool(await value == wanted)
