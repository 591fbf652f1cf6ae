"""The register on a Redis Cluster of three nodes, one of which is killed under traffic."""

from __future__ import annotations

import asyncio
import shutil
from collections import Counter
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from core import Core, TopicReader, eventually, unique
from redis_cluster import RedisCluster

from infra.journal import apply_topics
from infra.local.brokers import LocalBrokers
from infra.register import RegisterDown
from infra.settings import KafkaSettings, NatsSettings, RedisSettings, Settings
from infra.wire import OK, RETRY, Ack, ConnectItem, DisconnectItem
from schemas import names
from schemas.codes import State
from schemas.partition import partition_of
from schemas.records import Fallback, PushMessage
from workers.delivery.handover import HandOver


@pytest_asyncio.fixture(scope="module")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RedisCluster]:
    nodes = RedisCluster(tmp_path_factory.mktemp("cluster"))
    await nodes.start()
    yield nodes
    await nodes.stop()


@pytest_asyncio.fixture(scope="module")
async def core(cluster: RedisCluster, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Core]:
    """On a log of its own: own queues that other tests left would be folded, too, for each node that was killed."""
    brokers = LocalBrokers(tmp_path_factory.mktemp("around-a-cluster"), wanted=frozenset({"nats", "kafka"}))
    found = await brokers.start()
    kafka = KafkaSettings(bootstrap=found.kafka)
    await apply_topics(kafka)
    redis = RedisSettings(url=cluster.url, timeout=1.0)
    running = Core(Settings(data=tmp_path_factory.mktemp("data"), nats=NatsSettings(url=found.nats), kafka=kafka, redis=redis))
    await running.start()
    yield running
    await running.stop()
    await brokers.stop()


async def test_given_a_node_that_is_away_when_qos_0_comes_for_its_client_then_what_is_stored_for_others_does_not_wait(
    core: Core, cluster: RedisCluster
) -> None:
    product, room = await core.product(), await core.room()
    victim = core.register.shards.all[1]
    node = next(node for node in cluster.nodes if victim.address.endswith(f":{node.port}"))
    partitions = core.settings.kafka.partitions
    lost, other = next(
        (lost, other)
        for lost, other in ((unique("c"), unique("c")) for _ in range(1000))
        if core.register.shards.of(names.session_key(names.client_key("main", lost))) is victim
        and core.register.shards.of(names.session_key(names.client_key("main", other))) is not victim
        and partition_of(lost, partitions) == partition_of(other, partitions)
    )
    assert (await (await room.connect(other)).bind(product)).status == "ok"
    await node.kill()
    try:
        for number in range(3):
            await core.push(PushMessage(id=f"{lost}-{number}", product=product, client=lost, qos=0))
            await core.push(PushMessage(id=f"{other}-{number}", product=product, client=other))
        await eventually(lambda: len(room.hints) == 3, within=10, what="the hints of what was stored")
        await core.handled()
        assert await core.pending(other, product) == 3
    finally:
        await node.start()
        await cluster.whole()
    await eventually(lambda: core.recovery.open, within=40, what="the register")


@pytest.mark.parametrize("emptied", [False, True], ids=["data kept", "data lost"])
async def test_given_three_nodes_under_traffic_when_one_is_killed_then_the_others_go_on_and_nothing_is_lost(
    core: Core, cluster: RedisCluster, emptied: bool
) -> None:
    product, room = await core.product(), await core.room()
    clients = [unique("c") for _ in range(60)]
    devices = {}
    for client in clients:
        devices[client] = await room.connect(client)
        await devices[client].bind(product)
    shards = {client: core.register.shards.of(names.session_key(names.client_key("main", client))) for client in clients}
    assert len(Counter(shard.name for shard in shards.values())) == 3
    victim = core.register.shards.all[1]
    node = next(node for node in cluster.nodes if victim.address.endswith(f":{node.port}"))

    sent = 0
    traffic = asyncio.Event()

    async def produce() -> None:
        nonlocal sent
        while not traffic.is_set():
            await core.push(*[PushMessage(id=f"{client}-{sent}", product=product, client=client) for client in clients])
            sent += 1
            await asyncio.sleep(0.02)

    producing = asyncio.create_task(produce())
    await eventually(lambda: sent >= 20, what="traffic")
    for client in clients:
        await devices[client].sync(product, acks=[Ack(product, f"{client}-{i}", State.ACKED) for i in range(5)])
    await node.kill()
    if emptied:
        shutil.rmtree(node.folder / "appendonlydir")

    alive = [client for client in clients if shards[client] is not victim]
    items = [
        ConnectItem(names.client_key("main", client), room.id, room.epoch, 1000 + place) for place, client in enumerate(clients)
    ]
    results = await core.saver.connect(items)
    by_client = dict(zip(clients, results, strict=True))
    assert all(by_client[client].status == "ok" for client in alive)
    assert all(by_client[client].status == RETRY for client in clients if shards[client] is victim)
    await asyncio.sleep(1)
    await node.start()
    traffic.set()
    await producing

    async def whole() -> bool:
        try:
            return all([await core.pending(client, product) == sent - 5 for client in clients])
        except RegisterDown:
            return False

    await eventually(whole, within=40, what=f"all {sent} messages pending for every client but the five that were acked")


async def test_given_sessions_on_every_node_when_they_end_then_each_node_says_when_they_left(core: Core) -> None:
    product, room = await core.product(), await core.room()
    devices = [await room.connect(unique("c")) for _ in range(40)]
    assert len({core.register.shards.of(names.session_key(device.key)).name for device in devices}) == 3
    for device in devices:
        await device.bind(product)
    ends = [DisconnectItem(*(device.where()[:3]), device.generation, device.number, "test", [], []) for device in devices]
    assert {done.status for done in await core.saver.disconnect(ends)} == {OK}
    views = [await core.register.show(device.key, [product]) for device in devices]
    assert all(view is not None and list(view.left) == [product] for view in views)


async def test_given_fallbacks_on_every_node_when_they_are_due_then_each_is_handed_over_once(core: Core) -> None:
    product, clients = await core.product(), [unique("c") for _ in range(40)]
    room = await core.room()
    acked = await room.connect(clients[0])
    await acked.bind(product)
    loop = HandOver(core.journal, core.register, core.runner, fail=core.failures.append)
    fallbacks = TopicReader(core.settings, names.FALLBACK)
    async with fallbacks.open():
        await core.push(*[PushMessage(id=each, product=product, client=each, fallback_after_s=3) for each in clients])
        await core.handled()
        shards = {core.register.shards.of(names.session_key(names.client_key("main", client))).name for client in clients}
        assert len(shards) == 3
        assert (await acked.sync(product, acks=[Ack(product, clients[0], State.ACKED)])).status == "ok"
        await loop.start()
        try:
            await eventually(lambda: len(_handed(fallbacks, product)) >= 39, what="39 fallbacks")
            await asyncio.sleep(2)
            assert sorted(_handed(fallbacks, product)) == sorted(clients[1:])
        finally:
            await loop.stop()


def _handed(fallbacks: TopicReader, product: str) -> list[str]:
    return [each.id for each in fallbacks.records if isinstance(each, Fallback) and each.product == product]
