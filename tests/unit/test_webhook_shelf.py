"""How long a process waits at its start until it has read what waits for webhooks: as long as it gets on."""

from __future__ import annotations

import asyncio

import pytest

from infra.journal import JournalDown, topic_specs
from infra.settings import KafkaSettings
from schemas import names
from workers.webhooks import Shelf, Waiting

STEP = 0.1


async def partitions(topic: str) -> int:
    return 1


class SlowShelf(Shelf):
    """Reads one record in each `STEP`, of eight, and no further than `until`."""

    until = 8

    async def _ends(self) -> dict[int, int]:
        return {0: 8}

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(STEP)
            self._next[0] = min(self._next.get(0, 0) + 1, self.until)
            self._moved.set()


def slow(until: int) -> SlowShelf:
    shelf = SlowShelf(KafkaSettings(request_timeout=STEP), partitions, Waiting())
    shelf.until = until
    return shelf


async def test_given_much_that_waits_then_the_start_takes_as_long_as_it_needs() -> None:
    shelf = slow(8)
    await shelf.start()
    assert shelf._next == {0: 8}
    await shelf.stop()


async def test_given_a_topic_that_can_not_be_read_on_then_the_start_fails() -> None:
    shelf = slow(2)
    with pytest.raises(JournalDown, match=names.RETRIES.replace(".", r"\.")):
        await asyncio.wait_for(shelf.start(), 5)
    await shelf.stop()


def test_what_is_settled_is_dropped_an_hour_later() -> None:
    [spec] = [spec for spec in topic_specs(6) if spec.name == names.RETRIES]
    assert spec.config["delete.retention.ms"] == "3600000"
    assert (spec.config["cleanup.policy"], spec.config["retention.ms"]) == ("compact,delete", str(7 * 24 * 3_600_000))
