"""The fold of Kafka into Redis: what it must not leave out, let in, or read again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from core import Core, eventually, unique
from recovery_world import Loss, generation_of, opened, running_core

from infra.documents import product_key
from infra.keeper import Keeper
from infra.local.brokers import LocalBrokers
from infra.wire import Ack, DisconnectItem
from schemas import names
from schemas.codes import State
from schemas.records import PushMessage
from workers.saver import refold


@pytest_asyncio.fixture(scope="module")
async def local(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalBrokers]:
    brokers = LocalBrokers(tmp_path_factory.mktemp("refold"))
    await brokers.start()
    yield brokers
    await brokers.stop()


@pytest_asyncio.fixture(scope="module")
async def core(local: LocalBrokers, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Core]:
    async with running_core(local, tmp_path_factory.mktemp("data")) as running:
        yield running


def message(product: str, client: str, number: int, **more: object) -> PushMessage:
    return PushMessage(id=f"{client}-{number}", product=product, client=client, payload=b"%d" % number, **more)  # type: ignore[arg-type]


# --- products ----------------------------------------------------------------------------------------------------------


async def test_given_a_product_whose_document_was_removed_when_redis_is_wiped_then_what_was_pending_of_it_still_is(
    core: Core, local: LocalBrokers
) -> None:
    product, clients = await core.product(), [unique("c") for _ in range(8)]
    await core.push(*[message(product, client, i) for i in range(3) for client in clients])
    await core.handled()
    await (await core.bus.bucket(names.KV_KEEPER)).delete(product_key(product))
    await eventually(lambda: product not in core.keeper.products, what="the removal")
    before = generation_of(core)
    await Loss(local).wiped(core)
    await opened(core, before)
    assert [await core.pending(client, product) for client in clients] == [3] * 8


async def test_given_a_product_that_only_the_kv_knows_when_it_is_not_readable_then_the_fold_waits_for_it(
    core: Core, local: LocalBrokers, tmp_path: Path
) -> None:
    product, client = await core.product(), unique("c")
    await core.push(*[message(product, client, i) for i in range(3)])
    await core.handled()
    known = core.recovery._keeper
    stale = core.recovery._keeper = Keeper(core.bus, disk=tmp_path)  # as of a worker that started while the KV was away
    try:
        before = generation_of(core)
        await Loss(local).wiped(core)
        with pytest.raises(AssertionError, match="open in a new generation"):
            await opened(core, before, within=4)
        await stale.start()
        await opened(core, before)
        assert await core.pending(client, product) == 3
    finally:
        await stale.stop()
        core.recovery._keeper = known


# --- users -------------------------------------------------------------------------------------------------------------


async def test_given_a_user_change_in_the_lost_tail_then_the_old_users_messages_never_reach_the_device(
    core: Core, local: LocalBrokers
) -> None:
    product, room = await core.product(), await core.room()
    client, other, one, two = unique("c"), unique("c"), unique("u"), unique("u")
    for each in (client, other):
        await (await room.connect(each)).bind(product, user=one)
    await asyncio.sleep(1.5)  # written, and a beat after it
    loss = Loss(local)
    size = loss.log().stat().st_size
    await (await room.connect(client)).bind(product, user=two)
    assert await core.register.clients_of("main", product, one) == [other]
    before = generation_of(core)
    await loss.cut(core, size)
    await opened(core, before)
    assert await core.register.clients_of("main", product, one) == [other]
    assert await core.register.clients_of("main", product, two) == [client]


async def test_given_a_set_that_names_another_users_client_when_expanded_then_its_bind_decides(core: Core) -> None:
    product, room, client, other, one, two = await core.product(), await core.room(), *[unique("x") for _ in range(4)]
    await (await room.connect(client)).bind(product, user=one)
    await (await room.connect(client)).bind(product, user=two)
    await (await room.connect(other)).bind(product, user=one)
    [shard] = core.register.shards.all
    await shard.pipe([("SADD", names.user_key("main", product, one), client)])  # as a lost SREM leaves it
    await core.push(PushMessage(id=unique("m"), product=product, user=one))
    await eventually(lambda: _has(core, other, product, 1), what="the user's other client")
    assert await core.pending(client, product) == 0


async def _has(core: Core, client: str, product: str, count: int) -> bool:
    return await core.pending(client, product) == count


# --- positions ---------------------------------------------------------------------------------------------------------


async def _settled_and_forgotten(core: Core) -> tuple[str, list[str]]:
    """A product and clients whose messages are all settled; what Redis remembered of that is gone, as after an hour."""
    product, room = await core.product(), await core.room()
    clients = [unique("c") for _ in range(12)]  # in all partitions
    await core.push(*[message(product, client, i) for i in range(3) for client in clients])
    await core.handled()
    for client in clients:
        device = await room.connect(client)
        await device.bind(product)
        await device.sync(product, acks=[Ack(product, f"{client}-{i}", State.ACKED) for i in range(3)])
    return product, clients


async def _forget_settled(core: Core, product: str, clients: list[str]) -> None:
    [shard] = core.register.shards.all
    await shard.pipe([("DEL", names.settled_key(names.client_key("main", client), product)) for client in clients])


async def test_given_a_fold_and_quiet_partitions_when_redis_restarts_much_later_then_nothing_settled_returns(
    core: Core, local: LocalBrokers, monkeypatch: pytest.MonkeyPatch
) -> None:
    product, clients = await _settled_and_forgotten(core)
    monkeypatch.setattr(core.runner, "positions", dict)  # a worker that started since has handled nothing
    monkeypatch.setattr(refold, "MARGIN_MS", 0)  # as if the receipts were older than the margin
    before = generation_of(core)
    await Loss(local).wiped(core)
    await opened(core, before)
    await _forget_settled(core, product, clients)
    await asyncio.sleep(1.5)  # a beat
    before = generation_of(core)
    await Loss(local).killed(core)
    await opened(core, before)
    assert [await core.pending(client, product) for client in clients] == [0] * 12


async def test_given_a_marker_without_a_position_when_redis_restarts_then_all_receipts_are_read(
    core: Core, local: LocalBrokers, monkeypatch: pytest.MonkeyPatch
) -> None:
    product, clients = await _settled_and_forgotten(core)
    monkeypatch.setattr(core.runner, "positions", dict)
    monkeypatch.setattr(refold, "MARGIN_MS", 0)
    await asyncio.sleep(1.5)
    await _forget_settled(core, product, clients)
    [shard] = core.register.shards.all
    await shard.pipe([("HDEL", shard.marker_key, *(f"p:{number}" for number in range(core.settings.kafka.partitions)))])
    before = generation_of(core)
    await Loss(local).killed(core)
    await opened(core, before)
    assert [await core.pending(client, product) for client in clients] == [0] * 12


# --- sessions ----------------------------------------------------------------------------------------------------------


async def test_given_a_session_whose_successor_ended_in_the_lost_tail_then_neither_is_there(
    core: Core, local: LocalBrokers
) -> None:
    product, room, client = await core.product(), await core.room(), unique("c")
    await (await room.connect(client)).bind(product)
    await asyncio.sleep(1.5)  # written, and a beat after it
    loss = Loss(local)
    size = loss.log().stat().st_size
    last = await room.connect(client)
    key, where, epoch, _, generation, number = last.where()
    await core.saver.disconnect([DisconnectItem(key, where, epoch, generation, number, "test", [], [])])
    assert await core.register.sessions([last.key]) == [None]
    before = generation_of(core)
    await loss.cut(core, size)
    await opened(core, before)
    assert await core.register.sessions([last.key]) == [None]


# --- realms ------------------------------------------------------------------------------------------------------------


async def test_given_the_same_client_and_user_in_two_realms_and_two_products_then_a_fold_keeps_them_apart(
    core: Core, local: LocalBrokers
) -> None:
    products, room, client, user = [await core.product(), await core.product()], await core.room(), unique("c"), unique("u")
    devices = {realm: await room.connect(client, realm=realm) for realm in ("main", "other")}
    for device in devices.values():
        for product in products:
            await device.bind(product, user=user)
    for product in products:
        await core.push(*[message(product, client, i, realm="other") for i in range(4)])
        await core.push(PushMessage(id="to-user", product=product, user=user, realm="other", payload=b"9"))
    expected = {("main", product): [] for product in products} | {("other", product): [0, 1, 2, 3, 9] for product in products}
    await eventually(lambda: _payloads_are(core, client, expected), what="all of it in its realm")
    await devices["other"].sync(products[0], acks=[Ack(products[0], f"{client}-0", State.ACKED)])
    expected["other", products[0]] = [1, 2, 3, 9]
    assert await _payloads_are(core, client, expected)

    before = generation_of(core)
    await Loss(local).wiped(core)
    await opened(core, before)
    assert await _payloads_are(core, client, expected)
    sessions = await core.register.sessions([device.key for device in devices.values()])
    assert [session and session.number for session in sessions] == [device.number for device in devices.values()]
    for realm in devices:
        assert await core.register.clients_of(realm, products[0], user) == [client]


async def _payloads_are(core: Core, client: str, expected: dict[tuple[str, str], list[int]]) -> bool:
    found = {
        (realm, product): sorted(int(item.body.payload) for item in page.items)
        for realm, product in expected
        for page in [await core.register.peek(names.client_key(realm, client), product, 64)]
    }
    return found == expected


# --- bounds ------------------------------------------------------------------------------------------------------------


async def test_given_bounds_far_below_the_log_when_redis_is_wiped_then_it_is_folded_as_without_them(
    core: Core, local: LocalBrokers, monkeypatch: pytest.MonkeyPatch
) -> None:
    product, room = await core.product(), await core.room()
    clients = [unique("c") for _ in range(24)]  # some in each partition
    for round_ in range(2):  # a user before the present one, a session before the last one
        for number, client in enumerate(clients):
            device = await room.connect(client)
            await device.bind(product, user=f"u{round_}-{number % 3}")
    await core.push(*[message(product, client, i) for i in range(12) for client in clients])
    await core.handled()
    for client in clients:
        device = await room.connect(client)
        await device.bind(product, user=f"u2-{clients.index(client) % 3}")
        await device.sync(product, acks=[Ack(product, f"{client}-{i}", State.ACKED) for i in range(0, 12, 2)])

    found = []
    for settled, window in ((refold.SETTLED_AT_ONCE, refold.WINDOW), (5, 2)):
        monkeypatch.setattr(refold, "SETTLED_AT_ONCE", settled)
        monkeypatch.setattr(refold, "WINDOW", window)
        before = generation_of(core)
        await Loss(local).wiped(core)
        await opened(core, before)
        found.append(await _state(core, product, clients))
    assert found[0] == found[1]
    assert found[0]["pending"] == {client: [f"{client}-{i}" for i in range(1, 12, 2)] for client in clients}
    assert found[0]["users"] == {f"u2-{n}": sorted(clients[n::3]) for n in range(3)}


async def _state(core: Core, product: str, clients: list[str]) -> dict[str, dict[str, object]]:
    """What the register holds of these clients, users' sets as they lie there included."""
    [shard] = core.register.shards.all
    keys = [names.client_key("main", client) for client in clients]
    users = [f"u{round_}-{number}" for round_ in range(3) for number in range(3)]
    sets = await shard.pipe([("SMEMBERS", names.user_key("main", product, user)) for user in users])
    return {
        "pending": {
            client: [item.id for item in (await core.register.peek(key, product, 64)).items]
            for client, key in zip(clients, keys, strict=True)
        },
        "sessions": dict(zip(keys, await core.register.sessions(keys), strict=True)),
        "users": {user: sorted(item.decode() for item in each) for user, each in zip(users, sets, strict=True) if each},
    }
