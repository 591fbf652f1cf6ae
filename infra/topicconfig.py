"""Settings of topics that exist already: those that we name are made what we say, the others are left as they are.

Kafka's AlterConfigs replaces all settings of a topic, so those that others made are sent along.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import structlog
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    IncompatibleBrokerVersion,
    KafkaError,
    PolicyViolationError,
    TopicAuthorizationFailedError,
    for_code,
)

OF_TOPIC: Final = 1
"""The `config_source` of what was set for this topic (DescribeConfigs, KIP-226)."""
RETENTION: Final = "retention.ms"
NOT_OURS: Final = (
    TopicAuthorizationFailedError,
    ClusterAuthorizationFailedError,
    PolicyViolationError,
    IncompatibleBrokerVersion,
)
"""What a broker says whose topics are set up by somebody else."""

log = structlog.get_logger("journal")


async def correct(admin: AIOKafkaAdminClient, topics: Mapping[str, Mapping[str, str]]) -> set[str]:
    """Of each topic, these settings; returns those that were changed. One that keeps records for longer than we say goes on
    to; where we may not look at them, or change them, they stay as they are, and the log says so. Raises KafkaError."""
    try:
        return await _corrected(admin, topics) if topics else set()
    except NOT_OURS as error:
        log.warning("settings of topics stay as they are", topics=sorted(topics), reason=f"{type(error).__name__}: {error}"[:200])
        return set()


async def _corrected(admin: AIOKafkaAdminClient, topics: Mapping[str, Mapping[str, str]]) -> set[str]:
    changed = {}
    for name, (values, own) in (await _described(admin, list(topics))).items():
        wrong = {key: value for key, value in topics[name].items() if not _holds(key, values.get(key), value)}
        if wrong:
            log.warning("topic altered", topic=name, was={key: values.get(key) for key in wrong}, now=wrong)
            changed[name] = {**own, **wrong}
    if changed:
        resources = [ConfigResource(ConfigResourceType.TOPIC, name, configs) for name, configs in changed.items()]
        for response in await admin.alter_configs(resources):
            for code, text, _, name in response.resources:
                _raise_for(code, f"topic {name} was not altered: {text}")
    return set(changed)


def _holds(key: str, found: str | None, wanted: str) -> bool:
    """Is it as we say? Retention may be longer."""
    if key == RETENTION and found is not None:
        return int(found) < 0 or int(found) >= int(wanted)
    return found == wanted


async def _described(admin: AIOKafkaAdminClient, names: list[str]) -> dict[str, tuple[dict[str, str | None], dict[str, str]]]:
    """By topic: all settings as they hold, and those that were made for it."""
    found = {}
    for response in await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name) for name in names]):
        for code, text, _, name, entries in response.resources:
            _raise_for(code, f"topic {name} was not described: {text}")
            values = {key: value for key, value, *_ in entries}
            own = {key: value for key, value, _, source, *_ in entries if source == OF_TOPIC and value is not None}
            found[name] = (values, own)
    return found


def _raise_for(code: int, reason: str) -> None:
    if code:
        error: type[KafkaError] = for_code(code)
        raise error(reason)
