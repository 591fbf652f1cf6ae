"""Brokers that let us use topics, and neither look at their settings nor change them."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest
import structlog
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource
from aiokafka.errors import KafkaError

from infra import topicconfig

DENIED, POLICY, NO_TOPIC = 29, 44, 3


class Broker:
    """Answers with these error codes."""

    def __init__(self, *, describe: int = 0, alter: int = 0) -> None:
        self._describe = describe
        self._alter = alter

    async def describe_configs(self, wanted: Sequence[ConfigResource]) -> list[Any]:
        entries = [("retention.ms", "1", False, topicconfig.OF_TOPIC, False, [])]
        return [SimpleNamespace(resources=[(self._describe, "no", 2, each.name, entries) for each in wanted])]

    async def alter_configs(self, wanted: Sequence[ConfigResource]) -> list[Any]:
        return [SimpleNamespace(resources=[(self._alter, "no", 2, each.name) for each in wanted])]


async def corrected(broker: Broker) -> set[str]:
    return await topicconfig.correct(cast("AIOKafkaAdminClient", broker), {"t": {"retention.ms": "2"}})


@pytest.mark.parametrize("codes", [{"describe": DENIED}, {"alter": DENIED}, {"alter": POLICY}])
async def test_given_topics_that_are_not_ours_to_set_up_then_they_stay_and_the_log_says_so(codes: dict[str, int]) -> None:
    with structlog.testing.capture_logs() as logged:
        assert await corrected(Broker(**codes)) == set()
    assert (logged[-1]["event"], logged[-1]["topics"]) == ("settings of topics stay as they are", ["t"])


async def test_given_another_error_then_it_is_raised() -> None:
    with pytest.raises(KafkaError, match="topic t was not described: no"):
        await corrected(Broker(describe=NO_TOPIC))
    assert await corrected(Broker()) == {"t"}
