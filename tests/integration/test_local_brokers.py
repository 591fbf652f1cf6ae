"""The three local brokers themselves: real servers in a folder of the test's own."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import nats
import psutil
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from redis.asyncio import Redis

from infra.local.brokers import Endpoints, LocalBrokers
from infra.local.errors import LocalBrokerError

pytestmark = pytest.mark.xdist_group("local-brokers")

DEADLINE = 30.0
TOPIC = "local.test"


@pytest.fixture(scope="module")
async def brokers(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalBrokers]:
    made = LocalBrokers(tmp_path_factory.mktemp("brökers of a test"))
    await made.start()
    yield made
    await made.stop()


async def put_in_nats(url: str, key: str, value: bytes) -> None:
    client = await nats.connect(url)
    bucket = await client.jetstream().create_key_value(bucket="local")
    await bucket.put(key, value)
    await client.close()


async def get_from_nats(url: str, key: str) -> bytes | None:
    client = await nats.connect(url)
    bucket = await client.jetstream().key_value("local")
    entry = await bucket.get(key)
    await client.close()
    return entry.value


@asynccontextmanager
async def administer(server: str) -> AsyncIterator[AIOKafkaAdminClient]:
    client = AIOKafkaAdminClient(bootstrap_servers=server)
    await client.start()
    try:
        yield client
    finally:
        await client.close()


async def produce(server: str, value: bytes) -> None:
    async with AIOKafkaProducer(bootstrap_servers=server, acks="all", enable_idempotence=True) as producer:
        await producer.send_and_wait(TOPIC, value)


async def consume(server: str, count: int) -> list[bytes | None]:
    async with AIOKafkaConsumer(TOPIC, bootstrap_servers=server, auto_offset_reset="earliest") as consumer:
        async with asyncio.timeout(DEADLINE):
            return [(await consumer.getone()).value for _ in range(count)]


async def test_given_a_nats_server_when_killed_and_started_then_port_and_buckets_are_kept(brokers: LocalBrokers) -> None:
    url, before = brokers.nats.endpoint, brokers.nats.pid
    await put_in_nats(url, "key", b"value")
    await brokers.nats.kill()
    await brokers.nats.start()
    assert brokers.nats.endpoint == url
    assert brokers.nats.pid != before
    assert await get_from_nats(url, "key") == b"value"


async def test_given_kafka_when_killed_and_started_then_port_and_records_are_kept(brokers: LocalBrokers) -> None:
    server = brokers.kafka.endpoint
    async with administer(server) as admin:
        await admin.create_topics([NewTopic(TOPIC, num_partitions=1, replication_factor=1)])
    await produce(server, b"one")
    await brokers.kafka.kill()
    await brokers.kafka.start()
    assert brokers.kafka.endpoint == server
    await produce(server, b"two")
    assert await consume(server, 2) == [b"one", b"two"]


async def test_given_kafka_when_a_topic_does_not_exist_then_it_is_not_made(brokers: LocalBrokers) -> None:
    async with administer(brokers.kafka.endpoint) as admin:
        described = await admin.describe_topics(["never.made"])
        assert described[0]["error_code"] == 3  # UNKNOWN_TOPIC_OR_PARTITION
        assert "never.made" not in await admin.list_topics()


async def test_given_redis_when_stopped_and_started_then_port_and_keys_are_kept(brokers: LocalBrokers) -> None:
    url = brokers.redis.endpoint
    async with Redis.from_url(url) as client:
        await client.set("key", "value")
        assert (await client.config_get("maxmemory-policy"))["maxmemory-policy"] == "noeviction"
    await brokers.redis.stop()
    await brokers.redis.start()
    assert brokers.redis.endpoint == url
    async with Redis.from_url(url) as client:
        assert await client.get("key") == b"value"


async def test_given_a_crash_when_watched_then_the_exit_tells_it_from_a_stop(brokers: LocalBrokers) -> None:
    watch = asyncio.create_task(brokers.redis.exited())
    psutil.Process(brokers.redis.pid).kill()
    async with asyncio.timeout(DEADLINE):
        ended = await watch
    assert (ended.name, ended.asked, ended.reason) == ("redis", False, "was killed by SIGKILL")
    await brokers.redis.start()


async def test_given_a_paused_redis_when_asked_then_it_answers_only_after_it_is_resumed(brokers: LocalBrokers) -> None:
    async with Redis.from_url(brokers.redis.endpoint) as client:
        assert await client.ping()
        brokers.redis.pause()
        answer = asyncio.ensure_future(client.ping())
        done, _ = await asyncio.wait({answer}, timeout=0.2)
        assert not done
        brokers.redis.resume()
        async with asyncio.timeout(DEADLINE):
            assert await answer


async def test_given_running_brokers_when_another_starts_in_their_folder_then_it_is_refused(brokers: LocalBrokers) -> None:
    second = LocalBrokers(brokers.nats.folder.parent, wanted=frozenset({"nats"}))
    with pytest.raises(LocalBrokerError, match="another Longwire runs its brokers in this folder"):
        await second.start()
    assert brokers.nats.pid is not None


async def test_given_running_brokers_when_started_again_then_nothing_changes(brokers: LocalBrokers) -> None:
    before = [broker.pid for broker in brokers.wanted]
    assert await brokers.start() == brokers.endpoints
    assert [broker.pid for broker in brokers.wanted] == before


async def test_given_a_taken_port_when_started_then_the_error_names_it_and_nothing_is_left(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        brokers = LocalBrokers(tmp_path, wanted=frozenset({"nats", "redis"}), ports={"redis": port})
        with pytest.raises(LocalBrokerError, match=rf"redis: port {port} on 127\.0\.0\.1 is taken"):
            await brokers.start()
    assert brokers.nats.pid is None
    assert (await brokers.start()).redis == f"redis://127.0.0.1:{port}/0"
    await brokers.stop()


async def test_given_a_server_that_cannot_start_then_the_error_shows_the_end_of_its_log(tmp_path: Path) -> None:
    brokers = LocalBrokers(tmp_path, wanted=frozenset({"redis"}))
    (tmp_path / "redis" / "appendonlydir").mkdir(parents=True)
    (tmp_path / "redis" / "appendonlydir" / "appendonly.aof.manifest").write_text("nonsense\n")
    with pytest.raises(LocalBrokerError, match=r"(?s)redis ended while starting: exited with code 1.*redis\.log:.*AOF"):
        await brokers.start()


async def test_given_a_start_that_is_cancelled_then_no_process_is_left(tmp_path: Path) -> None:
    told: list[str] = []
    brokers = LocalBrokers(tmp_path, progress=told.append)
    start = asyncio.create_task(brokers.start())
    async with asyncio.timeout(DEADLINE):
        while "redis: ready" not in " ".join(told):  # noqa: ASYNC110 - another process makes it true
            await asyncio.sleep(0.01)
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    assert [broker.pid for broker in brokers.wanted] == [None, None, None]
    assert children_in(tmp_path) == []


async def test_given_stopped_brokers_when_started_anew_on_other_ports_then_the_data_is_there(tmp_path: Path) -> None:
    wanted = frozenset({"kafka", "redis"})
    for run in ("first", "second"):
        brokers = LocalBrokers(tmp_path, wanted=wanted)
        endpoints = await brokers.start()
        assert endpoints == Endpoints(nats="", kafka=brokers.kafka.endpoint, redis=brokers.redis.endpoint)
        await check_data(endpoints, run)
        await brokers.stop()
        await brokers.stop()
        assert (await brokers.kafka.exited()).asked
        assert children_in(tmp_path) == []


async def check_data(endpoints: Endpoints, run: str) -> None:
    """Leave data at the first run, find it at the second."""
    async with Redis.from_url(endpoints.redis) as client:
        assert await client.get("run") == (None if run == "first" else b"first")
        await client.set("run", run)
    async with administer(endpoints.kafka) as admin:
        assert (TOPIC in await admin.list_topics()) == (run == "second")
        if run == "first":
            await admin.create_topics([NewTopic(TOPIC, num_partitions=1, replication_factor=1)])


def children_in(folder: Path) -> list[psutil.Process]:
    """Processes of ours that were given a path in this folder."""
    return [child for child in psutil.Process().children(recursive=True) if str(folder) in " ".join(child.cmdline())]
