"""What products are told of clients, users and messages, on real brokers, whatever becomes of sessions, consumers and Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
import pytest_asyncio
from callbacks_world import WINDOW, Consumers, Taker, endpoint, leave, quiet, unbind
from core import Core, Room, eventually, unique
from recovery_world import Loss, generation_of, opened, running_core

from infra.documents import Policy
from infra.local.brokers import LocalBrokers
from infra.register.told import User
from infra.rooms import Rooms
from infra.wire import Ack
from schemas.codes import State
from schemas.partition import partition_of
from schemas.records import PushMessage
from workers.saver.sweep import Sweep

ALL = ("*",)
PRESENCE = ("client.connected", "client.disconnected", "user.online", "user.offline")


@pytest_asyncio.fixture(scope="module")
async def local(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalBrokers]:
    """Brokers of its own: a test empties Redis."""
    brokers = LocalBrokers(tmp_path_factory.mktemp("callbacks"))
    await brokers.start()
    yield brokers
    await brokers.stop()


@pytest_asyncio.fixture(scope="module")
async def core(local: LocalBrokers, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Core]:
    async with running_core(local, tmp_path_factory.mktemp("data")) as running:
        yield running


@dataclass
class World:
    """A product that asks, its consumers, and a room."""

    core: Core
    taker: Taker
    group: str
    consumers: Consumers
    room: Room

    async def product(self, *events: str, debounce: float = WINDOW) -> str:
        return await self.core.product(webhooks=(endpoint(*events),), debounce=debounce)

    async def told(self, product: str, *expected: tuple[str, str]) -> None:
        """Exactly this, in this order, and nothing after it."""
        await eventually(lambda: len(self.taker.of(product)) >= len(expected), what=f"{expected}")
        assert self.taker.of(product) == list(expected)

    async def restart(self) -> None:
        await self.consumers.stop()
        self.consumers = Consumers(self.core, self.taker, self.group)
        await self.consumers.start()


@pytest_asyncio.fixture
async def world(core: Core) -> AsyncIterator[World]:
    taker, group = Taker(), unique("status")
    found = World(core, taker, group, Consumers(core, taker, group), await core.room())
    await found.consumers.start()
    await eventually(lambda: found.consumers.runner.joined and found.consumers.receipts.joined, what="the groups")
    yield found
    await found.consumers.stop()


async def test_given_a_client_that_comes_blinks_and_goes_then_it_is_told_once_each_and_the_register_agrees(world: World) -> None:
    product, client = await world.product(*PRESENCE), unique("c")
    first = await world.room.connect(client)
    await first.bind(product, user="u")
    await world.told(product, ("client.connected", client), ("user.online", "u"))
    event = world.taker.events[-2] if world.taker.events[-2].product == product else world.taker.events[0]
    view = await world.core.register.show(first.key)
    assert view is not None
    assert view.session is not None
    assert (event.data["generation"], event.data["session"]) == (view.session.generation, view.session.number)
    await leave(first)
    back = await world.room.connect(client)
    await back.bind(product, user="u")
    await quiet()
    await world.told(product, ("client.connected", client), ("user.online", "u"))
    await leave(back, "closed by the client")
    come = [("client.connected", client), ("user.online", "u")]
    await world.told(product, *come, ("client.disconnected", client), ("user.offline", "u"))
    [gone] = [each for each in world.taker.events if each.product == product and each.type == "client.disconnected"]
    assert (gone.data["reason"], gone.data["session"]) == ("closed by the client", back.number)
    gone_view = await world.core.register.show(first.key)
    assert gone_view is not None
    assert gone_view.session is None


async def test_given_a_client_that_moves_to_another_room_then_it_never_shows_as_gone(world: World) -> None:
    product, client, other = await world.product(*PRESENCE, debounce=0), unique("c"), await world.core.room()
    first = await world.room.connect(client)
    await first.bind(product)
    second = await other.connect(client)
    await leave(first, "taken over")
    await second.bind(product)
    await leave(first, "taken over")  # its answer was lost
    await quiet(2)
    await world.told(product, ("client.connected", client))
    await leave(second)
    await world.told(product, ("client.connected", client), ("client.disconnected", client))


async def test_given_a_user_with_clients_in_several_partitions_then_the_first_and_the_last_are_told(world: World) -> None:
    product, user = await world.product("user.online", "user.offline"), unique("u")
    devices = [await world.room.connect(unique("c")) for _ in range(8)]
    for device in devices:
        await device.bind(product, user=user)
    await world.told(product, ("user.online", user))
    for device in devices[1:]:
        await leave(device)
    await quiet()
    await world.told(product, ("user.online", user))
    await leave(devices[0])
    await world.told(product, ("user.online", user), ("user.offline", user))
    sequences = [each.data["sequence"] for each in world.taker.events if each.product == product]
    assert sequences == sorted(sequences)
    assert len(set(sequences)) == 2


async def test_given_a_room_that_dies_then_its_clients_are_told_gone_once_and_back_where_it_was_only_stopped(
    world: World,
) -> None:
    product, dead, stopped = await world.product(*PRESENCE), unique("dead"), unique("stopped")
    lost, stalled = await world.room.connect(dead), await world.room.connect(stopped)
    await lost.bind(product)
    await stalled.bind(product)
    await eventually(lambda: len(world.taker.of(product)) == 2, what="both connected")
    async with sweeping(world.core):  # nobody hears of the room
        await eventually(lambda: len(world.taker.of(product)) == 4, within=20, what="both gone")
        await quiet(2)
    gone = [("client.disconnected", client) for client in (dead, stopped)]
    assert sorted(world.taker.of(product)[2:]) == sorted(gone)
    ends = [each for each in world.taker.events if each.product == product and each.type == "client.disconnected"]
    assert {each.data["reason"] for each in ends} == {"room lost"}
    assert (await stalled.sync(product)).status == "ok"
    await eventually(lambda: world.taker.of(product)[4:] == [("client.connected", stopped)], what="the stopped room's client")


@asynccontextmanager
async def sweeping(core: Core) -> AsyncIterator[None]:
    """A saver's sweep, which looks soon."""
    rooms = Rooms(core.bus, dead_after=lambda: core.keeper.policy.lease_dead_after)
    sweep = Sweep(core.register, core.journal, core.keeper, rooms, instance=unique("saver"), fail=core.failures.append)
    policy = Policy(lease_dead_after=0.5, sweep_grace=0.5, sweep_interval=2.0)
    await core.keeper.put("policy", policy)
    await eventually(lambda: core.keeper.policy == policy, what="the policy")
    await rooms.start()
    await sweep.start()
    yield
    await sweep.stop()
    await rooms.stop()
    await core.keeper.put("policy", Policy())


async def test_given_binds_and_unbinds_then_they_are_told_in_order_around_what_they_mean(world: World) -> None:
    product, client = await world.product(*ALL), unique("c")
    device = await world.room.connect(client)
    await device.bind(product)
    await device.bind(product)  # the same again is no news
    await unbind(device, product)
    expected = ["client.bound", "client.connected", "client.disconnected", "client.unbound"]
    await world.told(product, *[(kind, client) for kind in expected])


async def test_given_a_product_that_asks_for_nothing_then_it_is_told_nothing_and_nothing_is_kept(world: World) -> None:
    asking, silent, client = await world.product(*ALL), await world.core.product(), unique("c")
    device = await world.room.connect(client)
    await device.bind(silent)
    await device.bind(asking)
    await world.told(asking, ("client.bound", client), ("client.connected", client))
    [view] = await world.consumers.status._told.read([device.key])
    assert list(view.products) == [asking]
    assert world.taker.of(silent) == []


async def test_given_an_end_that_is_held_back_when_the_consumer_restarts_then_it_is_told_once_all_the_same(world: World) -> None:
    product, client, other = await world.product(*PRESENCE, debounce=4), unique("c"), unique("c")
    device, back = await world.room.connect(client), await world.room.connect(other)
    await device.bind(product, user="u")
    await back.bind(product, user="v")
    await eventually(lambda: len(world.taker.of(product)) == 4, what="both connected")
    await leave(device)
    await leave(back)
    await eventually(lambda: world.consumers.status.waiting, what="the ends held back")
    await world.restart()
    again = await world.room.connect(other)
    await again.bind(product, user="v")
    await eventually(lambda: ("client.disconnected", client) in world.taker.of(product), what="the end")
    await quiet()
    ends = [each for each in world.taker.of(product) if each[0].endswith(("disconnected", "offline"))]
    assert ends == [("client.disconnected", client), ("user.offline", "u")]


async def test_given_an_end_that_is_being_told_when_the_consumer_dies_then_the_next_one_tells_it(world: World) -> None:
    product, client = await world.product(*PRESENCE), unique("c")
    device = await world.room.connect(client)
    await device.bind(product)
    await world.told(product, ("client.connected", client))
    world.taker.failures = 1_000_000
    await leave(device)
    await eventually(lambda: world.consumers.status.waiting, what="the end held back")
    await eventually(lambda: not world.consumers.status.waiting, what="the end being told")
    partition = partition_of(client, world.core.settings.kafka.partitions)
    assert world.consumers.status.floor(partition) is not None
    await quiet(1)  # commits go on
    await world.consumers.stop()
    world.taker.failures = 0
    await world.restart()
    await world.told(product, ("client.connected", client), ("client.disconnected", client))


async def test_given_an_outbox_that_fails_for_a_while_then_all_is_told_in_order(world: World) -> None:
    product, client = await world.product(*PRESENCE, debounce=0), unique("c")
    world.taker.failures = 4
    device = await world.room.connect(client)
    await device.bind(product)
    await leave(device)
    await world.told(product, ("client.connected", client), ("client.disconnected", client))


async def test_given_a_redis_that_was_wiped_then_what_ends_afterwards_is_told(world: World, local: LocalBrokers) -> None:
    product, user = await world.product(*PRESENCE), unique("u")
    gone, stays = await world.room.connect(unique("gone")), await world.room.connect(unique("stays"))
    await gone.bind(product, user=user)
    await stays.bind(product, user=user)
    connected = [("client.connected", device.client) for device in (gone, stays)]
    await eventually(lambda: len(world.taker.of(product)) == 3, what="both connected")
    before = generation_of(world.core)
    await Loss(local).wiped(world.core)
    await opened(world.core, before)
    for device in (gone, stays):
        assert (await device.sync(product)).status == "ok"
    await leave(gone)
    await eventually(lambda: ("client.disconnected", gone.client) in world.taker.of(product), what="the end")
    await quiet(2)
    found = world.taker.of(product)
    assert sorted(found[:3]) == sorted([*connected, ("user.online", user)])
    assert found[3:] == [("client.disconnected", gone.client)]  # the other client is there: the user is online
    await leave(stays)
    await eventually(lambda: ("user.offline", user) in world.taker.of(product), what="the user's end")
    assert world.taker.of(product)[4:] == [("client.disconnected", stays.client), ("user.offline", user)]


async def test_given_messages_then_their_fates_are_told_and_a_client_that_is_away_has_them_stored(world: World) -> None:
    product, client = await world.product("message.stored", "message.acked", "message.expired"), unique("c")
    await world.core.push(
        PushMessage(id=f"{client}-1", product=product, client=client),
        PushMessage(id=f"{client}-2", product=product, client=client, ttl_s=1),
    )
    await world.told(product, ("message.stored", client), ("message.stored", client))
    device = await world.room.connect(client)
    await quiet(1)
    page = (await device.bind(product)).page
    assert [item.id for item in page.items] == [f"{client}-1"]
    await device.sync(product, acks=[Ack(product, f"{client}-1", State.ACKED)])
    await device.sync(product, acks=[Ack(product, f"{client}-1", State.ACKED)])  # its answer was lost
    await world.core.push(PushMessage(id=f"{client}-3", product=product, client=client))  # it is there: not stored for later

    def fates() -> set[tuple[str, str]]:
        return {(each.type, each.data["id"]) for each in world.taker.events if each.product == product}

    await eventually(lambda: len(fates()) == 4, what="all fates")
    await quiet(1)
    assert fates() == {
        ("message.stored", f"{client}-1"),
        ("message.stored", f"{client}-2"),
        ("message.acked", f"{client}-1"),
        ("message.expired", f"{client}-2"),
    }
    ids = {(each.type, each.data["id"]): each.id for each in world.taker.events if each.product == product}
    assert len({each.id for each in world.taker.events if each.product == product}) == len(
        ids
    )  # a repeat has the id of the first


async def test_given_two_tellers_of_one_user_then_they_say_the_same_until_it_is_told(world: World) -> None:
    index, user = world.consumers.status._told, User("main", await world.product(*PRESENCE), unique("u"))
    first = await index.present(user, "a", there=True)
    assert first is not None
    assert first.online
    assert await index.present(user, "b", there=True) == first  # another partition's consumer: the same event
    await index.presented(user, first)
    assert await index.present(user, "b", there=True) is None
    assert await index.present(user, "a", there=False) is None
    last = await index.present(user, "b", there=False)
    assert last is not None
    assert not last.online
    assert last.sequence > first.sequence
    assert await index.present(user, "b", there=False) == last  # it was not told yet
    back = await index.present(user, "a", there=True)
    assert back is not None  # perhaps the end was told, perhaps not: what holds now is news
    assert back.online
