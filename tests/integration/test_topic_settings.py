"""Settings of topics that exist: ours are made what they should be, others stay."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
import structlog
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError

from infra import topicconfig
from infra.journal import DAY_MS, apply_topics, queue_spec, topic_specs
from infra.settings import Settings
from schemas import names

pytestmark = pytest.mark.xdist_group("local-brokers")

OURS = {"cleanup.policy": "compact,delete", "delete.retention.ms": "3600000", "retention.ms": str(7 * DAY_MS)}


@pytest_asyncio.fixture
async def admin(settings: Settings) -> AsyncIterator[AIOKafkaAdminClient]:
    client = AIOKafkaAdminClient(bootstrap_servers=settings.kafka.bootstrap)
    await client.start()
    yield client
    await client.close()


async def a_topic(admin: AIOKafkaAdminClient, name: str, config: dict[str, str]) -> None:
    await admin.create_topics([NewTopic(name, 1, 1, topic_configs=config)])


async def settings_of(admin: AIOKafkaAdminClient, name: str) -> dict[str, str | None]:
    async with asyncio.timeout(10):
        while True:  # a broker that was not asked to create it learns of it a moment later
            try:
                return (await topicconfig._described(admin, [name]))[name][0]
            except KafkaError:
                await asyncio.sleep(0.05)


async def test_given_a_topic_with_old_settings_then_ours_are_corrected_others_stay_and_it_is_in_the_log(
    admin: AIOKafkaAdminClient,
) -> None:
    name = names.queue_topic("old-settings")
    await a_topic(admin, name, {"delete.retention.ms": "86400000", "max.message.bytes": "1234567", "retention.ms": "60000"})
    await settings_of(admin, name)
    with structlog.testing.capture_logs() as logged:
        assert await topicconfig.correct(admin, {name: OURS}) == {name}
    found = await settings_of(admin, name)
    assert {key: found[key] for key in OURS} == OURS
    assert found["max.message.bytes"] == "1234567"
    [line] = logged
    assert (line["topic"], line["was"]["delete.retention.ms"], line["now"]["delete.retention.ms"]) == (
        name,
        "86400000",
        "3600000",
    )
    with structlog.testing.capture_logs() as logged:
        assert await topicconfig.correct(admin, {name: OURS}) == set()
    assert logged == []


@pytest.mark.parametrize(("kept", "is_altered"), [(-1, False), (90 * DAY_MS, False), (DAY_MS, True)])
async def test_given_a_topic_that_keeps_records_for_longer_then_it_goes_on_to(
    admin: AIOKafkaAdminClient, kept: int, is_altered: bool
) -> None:
    name = names.queue_topic(f"kept{kept}".replace("-", "m"))
    await a_topic(admin, name, {**queue_spec("x", 1).config, "retention.ms": str(kept)})
    await settings_of(admin, name)
    assert await topicconfig.correct(admin, {name: queue_spec("x", 1).config}) == ({name} if is_altered else set())
    assert (await settings_of(admin, name))["retention.ms"] == str(30 * DAY_MS if is_altered else kept)


async def test_given_topics_as_they_should_be_when_they_are_applied_again_then_none_is_altered(settings: Settings) -> None:
    assert await apply_topics(settings.kafka) == [(spec.name, "exists") for spec in topic_specs(settings.kafka.partitions)]


async def test_given_the_retries_with_what_an_older_release_said_when_topics_are_applied_then_they_are_altered(
    admin: AIOKafkaAdminClient, settings: Settings
) -> None:
    old = ConfigResource(ConfigResourceType.TOPIC, names.RETRIES, {"delete.retention.ms": "86400000"})
    await admin.alter_configs([old])
    assert dict(await apply_topics(settings.kafka))[names.RETRIES] == "altered"
    assert (await settings_of(admin, names.RETRIES))["delete.retention.ms"] == "3600000"


async def test_given_a_topic_that_is_not_there_then_it_says_so(admin: AIOKafkaAdminClient) -> None:
    with pytest.raises(KafkaError, match="not described"):
        await topicconfig.correct(admin, {names.queue_topic("nobody"): OURS})
