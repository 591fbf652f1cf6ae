"""Unicast through Kafka and Redis: order, replay, acks, expansion, and what ends without an ack. The room is the test."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import msgspec
import pytest_asyncio
from aiokafka import AIOKafkaProducer
from core import Core, Device, TopicReader, eventually, unique

from infra.journal import Entry
from infra.register import Holding, Stored, StoreItem, StoreMessage
from infra.settings import Settings
from infra.wire import (
    ELSEWHERE,
    MAX_BYTES,
    VERSION,
    Ack,
    Bind,
    BindItem,
    ConnectItem,
    Control,
    DisconnectItem,
    Kick,
    Reply,
    Request,
    SettledJob,
    SyncItem,
    SyncResult,
    UnbindItem,
)
from schemas import codec, names
from schemas.codes import State
from schemas.partition import partition_of
from schemas.records import DeadLetter, PushMessage, Receipt


@pytest_asyncio.fixture(scope="module")
async def core(settings: Settings) -> AsyncIterator[Core]:
    running = Core(settings)
    await running.start()
    yield running
    await running.stop()


def message(product: str, client: str, number: int, **more: object) -> PushMessage:
    return PushMessage(id=f"{client}-{number}", product=product, client=client, payload=b"%d" % number, **more)  # type: ignore[arg-type]


async def test_given_an_offline_client_when_it_binds_then_it_gets_everything_in_order(core: Core) -> None:
    product, client, room = await core.product(), unique("c"), await core.room()
    await core.push(*[message(product, client, i) for i in range(50)])
    await eventually(lambda: _has_pending(core, client, product, 50), what="50 pending")

    device = await room.connect(client)
    first = await device.bind(product, limit=32)
    assert [item.id for item in first.page.items] == [f"{client}-{i}" for i in range(32)]
    assert [item.n for item in first.page.items] == list(range(1, 33))
    assert first.page.more
    assert first.page.n == 50

    acks = [Ack(product, item.id, State.ACKED) for item in first.page.items]
    rest = await device.sync(product, acks=acks)
    assert [item.id for item in rest.pages[0].items] == [f"{client}-{i}" for i in range(32, 50)]
    assert not rest.pages[0].more
    assert await core.pending(client, product) == 18


async def test_given_a_dead_room_when_a_message_comes_then_it_is_stored_all_the_same_and_no_hint_is_sent(core: Core) -> None:
    product, client, room = await core.product(), unique("c"), await core.room()
    device = await room.connect(client)
    await device.bind(product)
    core.dead_rooms.add(room.id)
    await core.push(message(product, client, 1))
    await core.handled()
    assert await core.pending(client, product) == 1
    core.dead_rooms.clear()
    await core.push(message(product, client, 2))
    await eventually(lambda: room.hints, what="a hint")
    assert [each.message.id for each in room.hints] == [f"{client}-2"]


async def test_given_a_connect_that_was_delayed_when_the_client_is_elsewhere_by_then_then_it_takes_nothing(core: Core) -> None:
    product, client = await core.product(), unique("c")
    home, late, new = await core.room(), await core.room(), await core.room()
    await home.connect(client)
    key = names.client_key("main", client)
    first = ConnectItem(key, late.id, late.epoch, 1)
    [found] = await core.saver.connect([first])
    assert found.status == ELSEWHERE
    take_over = ConnectItem(key, late.id, late.epoch, 1, (found.generation, found.number), found.now_ms + 300)
    await asyncio.sleep(0.5)  # a Redis that stalled, or a saver that was stopped; the room has given it up
    assert (await core.saver.connect([take_over]))[0].status == ELSEWHERE

    device = await new.connect(client)
    for delayed in (first, take_over, msgspec.structs.replace(take_over, until_ms=found.now_ms + 60_000)):
        [answer] = await core.saver.connect([delayed])
        assert (answer.status, answer.number) == (ELSEWHERE, device.number)
    assert (await device.bind(product)).status == "ok"
    assert (await device.sync(product)).status == "ok"


async def _has_pending(core: Core, client: str, product: str, count: int) -> bool:
    return await core.pending(client, product) == count


async def test_given_an_online_client_when_a_message_is_stored_then_its_room_gets_one_hint_with_the_next_number(
    core: Core,
) -> None:
    product, client, room = await core.product(), unique("c"), await core.room()
    device = await room.connect(client)
    assert (await device.bind(product)).page.n == 0
    await core.push(message(product, client, 1), message(product, client, 2))
    await eventually(lambda: len(room.hints) == 2, what="two hints")
    assert [(hint.number, hint.message.n, hint.message.id) for hint in room.hints] == [
        (device.number, 1, f"{client}-1"),
        (device.number, 2, f"{client}-2"),
    ]


async def test_given_acks_when_synced_then_receipts_are_in_kafka_and_a_repeat_is_harmless(core: Core) -> None:
    product, client, room = await core.product(), unique("c"), await core.room()
    async with TopicReader(core.settings, names.RECEIPTS).open() as receipts:
        await core.push(message(product, client, 1))
        device = await room.connect(client)
        await device.bind(product)
        await eventually(lambda: _has_pending(core, client, product, 1))
        ack = Ack(product, f"{client}-1", State.ACKED)
        for _ in range(2):
            assert (await device.sync(product, acks=[ack])).status == "ok"
        assert await core.pending(client, product) == 0
        found = await eventually(lambda: [r for r in receipts.records if isinstance(r, Receipt) and r.client == client])
        assert found[0].state == State.ACKED


async def test_given_a_settled_id_when_it_is_produced_again_then_it_is_not_stored(core: Core) -> None:
    product, client, room = await core.product(), unique("c"), await core.room()
    await core.push(message(product, client, 1))
    await eventually(lambda: _has_pending(core, client, product, 1))
    device = await room.connect(client)
    await device.bind(product)
    await device.sync(product, acks=[Ack(product, f"{client}-1", State.ACKED)])
    await core.push(message(product, client, 1), message(product, client, 2))
    await eventually(lambda: _has_pending(core, client, product, 1))
    page = (await device.sync(product)).pages[0]
    assert [item.id for item in page.items] == [f"{client}-2"]


async def test_given_ids_in_the_window_when_synced_then_the_page_leaves_them_out(core: Core) -> None:
    product, client, room = await core.product(), unique("c"), await core.room()
    await core.push(*[message(product, client, i) for i in range(3)])
    await eventually(lambda: _has_pending(core, client, product, 3))
    device = await room.connect(client)
    await device.bind(product)
    page = (await device.sync(product, window=[f"{client}-0", f"{client}-2"])).pages[0]
    assert [item.id for item in page.items] == [f"{client}-1"]
    full = (await device.sync(product, limit=0)).pages[0]
    assert full.items == []
    assert full.more


async def test_given_a_message_for_a_user_then_each_of_its_clients_has_it_once(core: Core) -> None:
    product, user, room = await core.product(), unique("u"), await core.room()
    clients = [unique("c") for _ in range(3)]
    for client in clients:
        await (await room.connect(client)).bind(product, user=user)
    push = PushMessage(id=unique("m"), product=product, user=user, payload=b"x")
    await core.push(push, push)
    for client in clients:
        await eventually(lambda c=client: _has_pending(core, c, product, 1), what="the user's message")
    other = await room.connect(clients[0])
    page = (await other.bind(product, user=user)).page
    assert [item.id for item in page.items] == [push.id]


async def test_given_a_user_without_clients_then_its_message_is_a_dead_letter(core: Core) -> None:
    product, user = await core.product(), unique("u")
    async with TopicReader(core.settings, names.DEAD).open() as dead:
        await core.push(PushMessage(id=unique("m"), product=product, user=user))
        [letter] = await eventually(lambda: [r for r in dead.records if isinstance(r, DeadLetter) and r.product == product])
        assert user in letter.reason


async def test_given_another_partitioner_then_the_client_has_the_message_once(core: Core) -> None:
    product, client = await core.product(), unique("c")
    right = partition_of(client, core.settings.kafka.partitions)
    wrong = (right + 1) % core.settings.kafka.partitions
    producer = AIOKafkaProducer(bootstrap_servers=core.settings.kafka.bootstrap)
    await producer.start()
    try:
        value = codec.encode(message(product, client, 1))
        await producer.send_and_wait(names.MESSAGES, value, key=b"anything", partition=wrong)
    finally:
        await producer.stop()
    await eventually(lambda: _has_pending(core, client, product, 1))


async def test_given_bytes_that_are_no_record_then_they_are_a_dead_letter_and_the_rest_goes_on(core: Core) -> None:
    product, client = await core.product(), unique("c")
    partition = partition_of(client, core.settings.kafka.partitions)
    producer = AIOKafkaProducer(bootstrap_servers=core.settings.kafka.bootstrap)
    async with TopicReader(core.settings, names.DEAD).open() as dead:
        await producer.start()
        try:
            garbage = client.encode()
            await producer.send_and_wait(names.MESSAGES, garbage, key=client.encode(), partition=partition)
            await producer.send_and_wait(
                names.MESSAGES, codec.encode(message(product, client, 1)) + b"!", key=client.encode(), partition=partition
            )
        finally:
            await producer.stop()
        await core.push(message(product, client, 2))
        await eventually(lambda: _has_pending(core, client, product, 1))
        letters = await eventually(lambda: _two_letters(dead, client))
        assert letters[0].value == garbage
        assert "header" in letters[0].reason
        assert "follow" in letters[1].reason


def _two_letters(dead: TopicReader, client: str) -> list[DeadLetter]:
    found = [r for r in dead.records if isinstance(r, DeadLetter) and r.key == client.encode()]
    return found if len(found) == 2 else []


async def test_given_an_unknown_product_then_the_message_is_a_dead_letter_with_the_reason(core: Core) -> None:
    await core.product()
    client = unique("c")
    async with TopicReader(core.settings, names.DEAD).open() as dead:
        await core.push(message("nobodys-product", client, 1))
        [letter] = await eventually(lambda: [r for r in dead.records if isinstance(r, DeadLetter) and r.client == client])
        assert letter.reason == "unknown product nobodys-product"


async def test_given_a_full_queue_then_the_lowest_class_and_oldest_is_evicted_with_a_receipt(core: Core) -> None:
    product, client, room = await core.product(max_pending=3), unique("c"), await core.room()
    async with TopicReader(core.settings, names.RECEIPTS).open() as receipts:
        await core.push(
            message(product, client, 1, priority=2),
            message(product, client, 2, priority=2),
            message(product, client, 3),
            message(product, client, 4, priority=0),
            message(product, client, 5),
        )
        device = await room.connect(client)
        gone = await eventually(lambda: _ended(receipts, client, State.EVICTED, 2), what="two evictions")
        assert gone == [f"{client}-1", f"{client}-2"]
        page = (await device.bind(product)).page
        assert [item.id for item in page.items] == [f"{client}-4", f"{client}-3", f"{client}-5"]


async def test_given_a_collapse_key_then_a_newer_message_replaces_the_pending_one(core: Core) -> None:
    product, client, room = await core.product(), unique("c"), await core.room()
    async with TopicReader(core.settings, names.RECEIPTS).open() as receipts:
        await core.push(*[message(product, client, i, collapse_key="score") for i in range(3)])
        assert await eventually(lambda: _ended(receipts, client, State.REPLACED, 2)) == [f"{client}-0", f"{client}-1"]
        page = (await (await room.connect(client)).bind(product)).page
        assert [item.id for item in page.items] == [f"{client}-2"]


async def test_given_a_short_ttl_when_it_has_passed_then_the_message_is_expired_with_a_receipt(core: Core) -> None:
    product, client, room = await core.product(), unique("c"), await core.room()
    async with TopicReader(core.settings, names.RECEIPTS).open() as receipts:
        await core.push(message(product, client, 1, ttl_s=1), message(product, client, 2))
        await eventually(lambda: _has_pending(core, client, product, 2))
        device = await room.connect(client)

        async def only_the_second() -> bool:
            return [item.id for item in (await device.bind(product)).page.items] == [f"{client}-2"]

        await eventually(only_the_second, what="the expiry")
        assert await eventually(lambda: _ended(receipts, client, State.EXPIRED, 1)) == [f"{client}-1"]


def _ended(receipts: TopicReader, client: str, state: State, count: int) -> list[str]:
    found = [r.id for r in receipts.records if isinstance(r, Receipt) and r.client == client and r.state == state]
    return sorted(set(found)) if len(set(found)) >= count else []


async def test_given_a_client_that_connects_elsewhere_then_the_old_session_is_superseded(core: Core) -> None:
    product, client, old, new = await core.product(), unique("c"), await core.room(), await core.room()
    before = await old.connect(client)
    await before.bind(product)
    after = await new.connect(client)
    assert after.number == before.number + 1
    assert (await before.sync(product)).status == "superseded"
    assert (await after.bind(product)).status == "ok"
    assert (await after.sync(product)).status == "ok"


async def test_given_a_repeated_connect_then_it_has_the_same_number(core: Core) -> None:
    client, room = unique("c"), await core.room()
    first = await room.connect(client)
    room.connections -= 1
    assert (await room.connect(client)).number == first.number


async def test_given_a_lost_session_when_synced_then_it_is_registered_again_with_its_binds(core: Core) -> None:
    product, client, room = await core.product(), unique("c"), await core.room()
    device = await room.connect(client)
    await device.bind(product)
    await core.register.shards.of(device.key).pipe([("DEL", names.session_key(device.key))])
    assert (await device.sync(product)).status == "ok"
    view = await core.register.show(device.key)
    assert view is not None
    assert view.session is not None
    assert (view.session.number, list(view.binds)) == (device.number, [product])


async def test_given_a_session_that_ends_then_the_register_says_when_it_left_until_it_is_bound_again(core: Core) -> None:
    bound, other, client, room = await core.product(), await core.product(), unique("c"), await core.room()
    device = await room.connect(client)
    await device.bind(bound)
    assert await _left(core, device, bound, other) == {}
    began_ms = time.time() * 1000
    await core.saver.disconnect([_end(device)])
    left = await _left(core, device, bound, other)
    assert list(left) == [bound]
    assert began_ms - 1000 < left[bound] < time.time() * 1000 + 1000
    await core.saver.disconnect([_end(device)])  # its answer was lost
    assert await _left(core, device, bound, other) == left

    again = await room.connect(client)
    await again.bind(bound)
    assert await _left(core, device, bound, other) == {}
    await core.register.shards.of(device.key).pipe([("DEL", names.session_key(device.key))])  # Redis loses it: nobody knows
    assert await _left(core, device, bound, other) == {}


async def test_given_an_end_that_is_late_or_of_who_unbound_then_nothing_says_that_it_left(core: Core) -> None:
    product, client, room, elsewhere = await core.product(), unique("c"), await core.room(), await core.room()
    before = await room.connect(client)
    await before.bind(product)
    device = await elsewhere.connect(client)
    await device.bind(product)
    await core.saver.disconnect([_end(before)])
    view = await core.register.show(device.key, [product])
    assert view is not None
    assert view.session is not None
    await core.saver.unbind([_leave(device, product)])
    await core.saver.disconnect([_end(device)])
    assert await _left(core, device, product) == {}
    [kept] = await core.register.shards.of(device.key).pipe([("EXISTS", names.first_bind_key(device.key, product))])
    assert kept == 0


async def test_given_a_bind_then_who_has_it_is_told_while_connected_and_after_and_one_without_a_session_can_be_forgotten(
    core: Core,
) -> None:
    product, client, user, room = await core.product(), unique("c"), unique("u"), await core.room()
    device = await room.connect(client)
    await device.bind(product, user=user)
    at = (device.generation, device.number)
    assert await core.register.holding(device.key, product) == Holding(*at, room.id, room.epoch, here=True, registered=True)
    await core.saver.disconnect([_end(device)])
    held = await core.register.holding(device.key, product)
    over = (device.generation, device.number + 1)  # what comes late of the session is behind it
    assert held == Holding(*over, "", 0, here=False, registered=True)
    assert await core.register.clients_of("main", product, user) == [client]
    item = UnbindItem(device.key, held.room, held.epoch, held.generation, held.number, product)
    assert (await core.saver.unbind([item]))[0].status == "ok"
    assert await core.register.holding(device.key, product) == Holding(*over, "", 0, here=False, registered=False)
    assert await core.register.clients_of("main", product, user) == []


async def _left(core: Core, device: Device, *products: str) -> dict[str, int]:
    view = await core.register.show(device.key, products)
    assert view is not None
    return view.left


def _end(device: Device) -> DisconnectItem:
    key, room, epoch, _, generation, number = device.where()
    return DisconnectItem(key, room, epoch, generation, number, "test", [], [])


async def test_given_settled_broadcasts_when_synced_then_the_next_bind_names_them(core: Core) -> None:
    product, client, room = await core.product(), unique("c"), await core.room()
    device = await room.connect(client)
    await device.bind(product)
    await device.sync(product, jobs=[SettledJob(product, 3, 17, 60), SettledJob(product, 3, 18, 0)])
    again = await (await room.connect(client)).bind(product)
    assert list(again.settled_jobs) == [(3, 17)]


async def test_given_acks_of_many_clients_when_told_in_a_brief_batch_then_only_what_is_not_ok_is_answered(core: Core) -> None:
    product, room = await core.product(), await core.room()
    devices = [await room.connect(unique("c")) for _ in range(3)]
    for device in devices:
        await device.bind(product)

    async def tell(brief: bool) -> Reply[SyncResult]:
        items = [SyncItem(*device.where(), [], [Ack(product, "m", "acked")], [], only_acks=True) for device in devices]
        data = msgspec.msgpack.encode(Request(VERSION, f"{room.id}:{room.epoch}", 1, items, brief))
        return msgspec.msgpack.decode(await core.bus.request(names.SAVER_SYNC, data), type=Reply[SyncResult])

    assert await tell(brief=True) == Reply(1, [])
    assert [result.status for result in (await tell(brief=False)).items] == ["ok"] * 3
    await room.connect(devices[1].client)  # it has a newer session now
    assert [result.status for result in (await tell(brief=True)).items] == ["ok", "superseded", "ok"]


async def test_given_broadcasts_that_a_cap_counts_when_saved_then_the_next_bind_names_them_while_they_count(core: Core) -> None:
    product, client, room = await core.product(), unique("c"), await core.room()
    device = await room.connect(client)
    await device.bind(product)
    counted = SettledJob(product, 3, 17, 0, sent_s=1_800_000_000, counts_s=60)
    over = SettledJob(product, 3, 16, 0, sent_s=1_700_000_000, counts_s=0)
    await device.sync(product, jobs=[counted, SettledJob(product, 3, 18, 60), over])
    await device.sync(product, jobs=[counted])  # a repeat
    again = await (await room.connect(client)).bind(product)
    assert list(again.settled_jobs) == [(3, 18)]
    assert [tuple(job) for job in again.recent_jobs] == [(3, 17, 1_800_000_000)]


async def test_given_a_qos_0_message_then_it_is_hinted_without_a_number_and_never_stored(core: Core) -> None:
    product, client, room = await core.product(), unique("c"), await core.room()
    await (await room.connect(client)).bind(product)
    await core.push(message(product, client, 1, qos=0))
    [hint] = await eventually(lambda: room.hints)
    assert hint.message.n == 0
    assert await core.pending(client, product) == 0


async def test_given_many_clients_with_large_pages_then_a_reply_stays_within_its_bytes_and_all_come_on(core: Core) -> None:
    product, room = await core.product(max_payload=60_000), await core.room()
    clients = [unique("c") for _ in range(12)]
    for client in clients:
        await core.push(PushMessage(id=f"{client}-1", product=product, client=client, payload=b"x" * 60_000))
        await eventually(lambda c=client: _has_pending(core, c, product, 1))
    devices = [await room.connect(client) for client in clients]
    items = [BindItem(*device.where(), Bind(product, 1, []), [], 32) for device in devices]
    results = await core.saver.bind(items)
    assert sum(len(item.payload) for result in results for item in result.page.items) <= MAX_BYTES
    assert [bool(result.page.items) for result in results[:2]] == [True, True]
    assert all(result.page.items or result.page.more for result in results)
    assert (await devices[-1].sync(product)).pages[0].items


async def test_given_a_device_that_changed_its_user_when_the_bind_is_repeated_then_the_old_user_no_longer_reaches_it(
    core: Core,
) -> None:
    product, client, room = await core.product(), unique("c"), await core.room()
    old, new = unique("alice"), unique("bob")
    await (await room.connect(client)).bind(product, user=old)
    device = await room.connect(client)
    item = BindItem(*device.where(), Bind(product, 1, [], new), [], 32)
    await core.register.bind([item])  # as far as a saver came that then died
    await device.bind(product, user=new)
    assert await core.register.clients_of("main", product, old) == []
    assert await core.register.clients_of("main", product, new) == [client]

    await core.register.unbind([_leave(device, product)])
    assert (await core.saver.unbind([_leave(device, product)]))[0].status == "ok"
    assert await core.register.clients_of("main", product, new) == []


def _leave(device: Device, product: str) -> UnbindItem:
    return UnbindItem(device.key, device.room.id, device.room.epoch, device.generation, device.number, product)


async def test_given_a_late_unbind_when_a_newer_session_was_here_then_it_changes_nothing(core: Core) -> None:
    product, client, user, room = await core.product(), unique("c"), unique("u"), await core.room()
    old = await room.connect(client)
    await old.bind(product, user=user)
    new = await room.connect(client)
    await new.bind(product, user=user)
    key, where, epoch, _, generation, number = new.where()
    await core.saver.disconnect([DisconnectItem(key, where, epoch, generation, number, "test", [], [])])
    assert (await core.saver.unbind([_leave(old, product)]))[0].status == "superseded"
    assert await core.register.clients_of("main", product, user) == [client]


async def test_given_a_bind_between_the_steps_of_an_unbind_then_it_stays_with_its_user_in_redis_and_kafka(core: Core) -> None:
    product, client, user, room = await core.product(), unique("c"), unique("u"), await core.room()
    old = await room.connect(client)
    await old.bind(product, user=user)
    saver, produce, clients = core.saver, core.journal.produce, TopicReader(core.settings, names.CLIENTS)

    async def bind_first(entries: list[Entry]) -> object:
        core.journal.produce = produce  # type: ignore[method-assign]
        await (await room.connect(client)).bind(product, user=user)
        return await produce(entries)

    async with clients.open():
        core.journal.produce = bind_first  # type: ignore[method-assign,assignment]
        assert (await saver.unbind([_leave(old, product)]))[0].status == "ok"
        assert await core.register.clients_of("main", product, user) == [client]

        def told() -> list[bool]:
            return [item.value is not None for item in clients.raw if item.key == f"main:{client} {product}".encode()]

        await eventually(lambda: told()[-2:] == [False, True], what="the bind's record after the tombstone")


async def test_given_a_takeover_then_the_old_room_gets_a_kick_that_it_can_read(core: Core) -> None:
    client, old, new = unique("c"), await core.room(), await core.room()
    heard: list[object] = []
    decoder = msgspec.msgpack.Decoder(Control)

    async def take(data: bytes) -> bytes:
        heard.append(decoder.decode(data))
        return b""

    await core.bus.serve(f"{old.id}-control", names.room_control(old.id), take)
    before = await old.connect(client)
    await new.connect(client)
    [kick] = await eventually(lambda: heard, what="the kick")
    assert isinstance(kick, Kick)
    assert (kick.key, kick.number) == (before.key, before.number)


async def test_given_a_batch_that_is_handled_again_then_what_is_pending_is_hinted_again_with_its_number(core: Core) -> None:
    product, client, room = await core.product(), unique("c"), await core.room()
    await (await room.connect(client)).bind(product)
    await core.push(message(product, client, 1), message(product, client, 1))
    await eventually(lambda: len(room.hints) == 2, what="both hints")
    assert [hint.message.n for hint in room.hints] == [1, 1]
    assert await core.pending(client, product) == 1


async def test_given_a_collapse_key_within_one_batch_then_only_the_last_is_hinted(core: Core) -> None:
    product, client, room = await core.product(), unique("c"), await core.room()
    device = await room.connect(client)
    await device.bind(product)
    messages = [StoreMessage(f"{client}-{i}", 1, 2**50, "score", Stored(b"x")) for i in range(3)]
    [outcome] = await core.register.store([StoreItem(device.key, product, 100, messages)])
    assert outcome.numbers == [0, 0, 3]
    assert {(owed.id, owed.state) for owed in outcome.owed} == {(f"{client}-0", "replaced"), (f"{client}-1", "replaced")}


async def test_given_a_session_that_was_signed_off_then_its_late_sync_does_not_register_it_again(core: Core) -> None:
    product, client, room = await core.product(), unique("c"), await core.room()
    device = await room.connect(client)
    await device.bind(product)
    gone = DisconnectItem(device.key, room.id, room.epoch, device.generation, device.number, "socket", [], [])
    assert (await core.saver.disconnect([gone]))[0].status == "ok"
    assert (await device.sync(product)).status == "superseded"
    view = await core.register.show(device.key)
    assert view is not None
    assert view.session is None


async def test_given_a_qos_0_message_that_has_expired_in_the_queue_then_it_is_dropped(core: Core) -> None:
    product, client, room = await core.product(), unique("c"), await core.room()
    await (await room.connect(client)).bind(product)
    await core.push(message(product, client, 1, qos=0, ttl_s=1, accepted_ms=1), message(product, client, 2, qos=0))
    [hint] = await eventually(lambda: room.hints)
    assert hint.message.id == f"{client}-2"
