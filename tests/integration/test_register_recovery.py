"""Redis loses data in every way it can, under a saver and a delivery worker: nothing is lost, nothing settled returns."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from core import Core, TopicReader, eventually, unique
from recovery_world import Loss, generation_of, opened, running_core

from infra.local.brokers import LocalBrokers
from infra.register import RegisterNotReady
from infra.wire import Ack, DisconnectItem, SettledJob, UnbindItem
from schemas import names
from schemas.codes import State, Status
from schemas.records import PushMessage, StatusEvent


@pytest_asyncio.fixture(scope="module")
async def local(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalBrokers]:
    brokers = LocalBrokers(tmp_path_factory.mktemp("recovery"))
    await brokers.start()
    yield brokers
    await brokers.stop()


@pytest_asyncio.fixture(scope="module")
async def core(local: LocalBrokers, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Core]:
    async with running_core(local, tmp_path_factory.mktemp("data")) as running:
        yield running


def message(product: str, client: str, number: int, **more: object) -> PushMessage:
    return PushMessage(id=f"{client}-{number}", product=product, client=client, payload=b"%d" % number, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("loss", ["flushed", "wiped", "killed", "tail_lost"])
async def test_given_pending_and_settled_messages_when_redis_loses_data_then_exactly_what_was_pending_is_pending(
    core: Core, local: LocalBrokers, loss: str
) -> None:
    product, room = await core.product(max_pending=40), await core.room()
    clients = [unique("c") for _ in range(20)]
    devices = {}
    for client in clients:
        devices[client] = await room.connect(client)
        await devices[client].bind(product, user="u-" + client)
    await core.push(*[message(product, client, i) for i in range(30) for client in clients])
    await eventually(lambda: _all_pending(core, clients, product, 30), what="30 pending each")
    for client in clients:  # every third is settled
        acks = [Ack(product, f"{client}-{i}", State.ACKED) for i in range(0, 30, 3)]
        assert (await devices[client].sync(product, acks=acks)).status == "ok"
    # ten more: by the cap of 40 none is evicted, one is replaced by its collapse key, one is settled by the user's other way
    await core.push(*[message(product, client, 30 + i, collapse_key="k") for i in range(2) for client in clients])
    await core.handled()  # 21 are pending before the last is stored, too
    assert await _all_pending(core, clients, product, 21)

    before = generation_of(core)
    await getattr(Loss(local), loss)(core)
    await opened(core, before)

    expected = [i for i in range(30) if i % 3] + [31]
    for client in clients:
        page = (await devices[client].sync(product, limit=64)).pages[0]
        assert [int(item.payload) for item in page.items] == expected
        assert await core.register.clients_of("main", product, "u-" + client) == [client]
    late = [message(product, client, i) for client in clients for i in (0, 31, 32)]  # a settled id, a pending one, a new one
    await core.push(*late)
    await core.handled()
    for client in clients:
        page = (await devices[client].sync(product, limit=64)).pages[0]
        assert [int(item.payload) for item in page.items] == [*expected, 32]


async def _all_pending(core: Core, clients: list[str], product: str, count: int) -> bool:
    return all([await core.pending(client, product) == count for client in clients])


async def test_given_an_emptied_redis_when_it_is_not_open_then_every_call_is_put_off_and_a_new_session_is_newer(
    core: Core, local: LocalBrokers
) -> None:
    product, client, old_room, new_room = await core.product(), unique("c"), await core.room(), await core.room()
    old = await old_room.connect(client)
    for _ in range(5):
        old = await old_room.connect(client)
    before = generation_of(core)
    await local.redis.kill()
    shutil.rmtree(local.redis.folder / "appendonlydir")
    await local.redis.start()
    with pytest.raises(RegisterNotReady):
        await old.bind(product)
    await opened(core, before)

    view = await core.register.show(old.key)
    assert view is not None
    assert view.session is not None
    assert (view.session.room, view.session.number) == (old_room.id, old.number)  # folded from push.status
    assert (await old.sync(product)).status == "ok"
    new = await new_room.connect(client)
    assert (new.generation, new.number) > (old.generation, old.number)
    assert (await new.bind(product)).status == "ok"
    assert (await old.sync(product)).status == "superseded"


async def test_given_settled_broadcasts_in_an_offline_event_when_redis_is_emptied_then_they_are_known_again(
    core: Core, local: LocalBrokers
) -> None:
    product, client, room = await core.product(), unique("c"), await core.room()
    device = await room.connect(client)
    await device.bind(product)
    jobs = [SettledJob(product, 1, 7, 3600), SettledJob(product, 2, 9, 3600)]
    end = DisconnectItem(*_session(device), "test", [], jobs)
    await core.saver.disconnect([end])
    before = generation_of(core)
    await Loss(local).wiped(core)
    await opened(core, before)
    view = await core.register.show(device.key, [product])
    assert view is not None
    assert (view.session, view.left) == (None, {})  # when it left is lost, and nothing says another time
    again = await room.connect(client)
    bound = await again.bind(product)
    assert sorted(bound.settled_jobs) == [(1, 7), (2, 9)]
    assert bound.first_bind_ms > 0


async def test_given_users_when_redis_is_emptied_then_their_messages_reach_every_client_and_nobody_who_left(
    core: Core, local: LocalBrokers
) -> None:
    product, user, room = await core.product(), unique("u"), await core.room()
    devices = [await room.connect(unique("c")) for _ in range(12)]  # in all partitions
    for device in devices:
        await device.bind(product, user=user)
    left, *stayed = devices
    await core.saver.unbind([UnbindItem(*_session(left), product)])
    before = generation_of(core)
    await Loss(local).wiped(core)
    await core.push(PushMessage(id=f"{user}-1", product=product, user=user, payload=b"all"))  # while it is folded
    await opened(core, before)
    await eventually(lambda: _all_pending(core, [device.client for device in stayed], product, 1), what="one for each")
    assert await core.register.clients_of("main", product, user) == sorted(device.client for device in stayed)
    assert await core.pending(left.client, product) == 0


async def test_given_messages_while_redis_is_away_when_it_is_back_then_they_are_stored_in_order_once(
    core: Core, local: LocalBrokers
) -> None:
    product, client, room = await core.product(), unique("c"), await core.room()
    before = generation_of(core)
    await core.push(*[message(product, client, i) for i in range(10)])
    await local.redis.kill()
    await core.push(*[message(product, client, i) for i in range(10, 20)])
    await asyncio.sleep(1)
    await local.redis.start()
    await core.push(*[message(product, client, i) for i in range(20, 30)])
    await opened(core, before)
    await eventually(lambda: _all_pending(core, [client], product, 30), what="30 pending")
    page = (await (await room.connect(client)).bind(product)).page
    assert sorted(int(item.payload) for item in page.items) == list(range(30))


async def test_given_a_dead_room_when_swept_then_its_clients_are_offline_and_a_stalled_one_comes_back(core: Core) -> None:
    product, room = await core.product(), await core.room()
    gone, stalled = await room.connect(unique("c")), await room.connect(unique("c"))
    await stalled.bind(product)
    status = TopicReader(core.settings, names.STATUS)
    async with status.open():
        views = [(device.key, (await core.register.sessions([device.key]))[0]) for device in (gone, stalled)]
        await core.register.sweep([(key, view) for key, view in views if view is not None])
        assert (await core.register.sessions([gone.key, stalled.key])) == [None, None]
        assert (await stalled.sync(product)).status == "ok"  # its room was only stopped for a while
        told = await eventually(
            lambda: (
                (found := [item for item in status.records if isinstance(item, StatusEvent) and item.client == stalled.client])
                and len(found) > 1
                and found
            ),
            what="the client online again",
        )
        assert [(item.event, item.product, item.again) for item in told] == [
            (Status.ONLINE, None, True),
            (Status.BIND, product, True),
        ]
        newer = await room.connect(gone.client)
        await core.register.sweep([(key, view) for key, view in views if view is not None])
        assert (await core.register.sessions([newer.key]))[0] is not None  # the old one's end never touches a newer one


def _session(device: object) -> tuple[object, ...]:
    key, room, epoch, _, generation, number = device.where()  # type: ignore[attr-defined]
    return (key, room, epoch, generation, number)


@pytest.mark.parametrize("loss", ["flushed", "tail_lost"])
async def test_given_half_of_an_own_queue_delivered_when_redis_loses_data_then_exactly_what_was_pending_is_pending(
    core: Core, local: LocalBrokers, loss: str
) -> None:
    product, clients, room = await core.queued(rate=30, paused=True), [unique("c") for _ in range(10)], await core.room()
    await core.push(*[message(product, client, i) for i in range(20) for client in clients])  # moved
    await core.handled()
    await core.push_own(product, *[message(product, client, i) for i in range(20, 40) for client in clients])
    await core.queue(product, rate=30)
    await eventually(lambda: _pending_in_all(core, clients, product, 60), what="some of it")
    await core.queue(product, rate=30, paused=True)
    await asyncio.sleep(1)  # what was taken before is stored
    devices = {client: await room.connect(client) for client in clients}
    before, settled = {}, {}
    for client, device in devices.items():
        pending = (await device.bind(product, limit=1000)).page.items
        acks = [Ack(product, item.id, State.ACKED) for item in pending[:3]]
        assert (await device.sync(product, acks=acks, limit=0)).status == "ok"
        before[client], settled[client] = [item.id for item in pending[3:]], len(acks)
    assert 0 < sum(map(len, before.values())) < 17 * len(clients), "none that was moved is still in the queue"

    generation = generation_of(core)
    await getattr(Loss(local), loss)(core)
    await opened(core, generation)

    for client, device in devices.items():
        assert [item.id for item in (await device.sync(product, limit=1000)).pages[0].items] == before[client]
    await core.queue(product, rate=100_000)
    left = 40 * len(clients) - sum(settled.values())
    await eventually(lambda: _pending_in_all(core, clients, product, left), what="the rest")
    for client in clients:
        page = (await devices[client].sync(product, limit=1000)).pages[0]
        assert [int(item.payload) for item in page.items] == list(range(settled[client], 40))


async def _pending_in_all(core: Core, clients: list[str], product: str, count: int) -> bool:
    return sum([await core.pending(client, product) for client in clients]) >= count
