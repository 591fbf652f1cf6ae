"""Lanes without brokers: by which events an endpoint that is away is tried."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from journal_twin import JournalTwin
from test_webhook_parts import ROUTE, answer, answered, endpoint, item

from infra.documents import Product
from schemas.records import Retry
from workers.outside import Answer
from workers.webhooks import Lanes, Outbox, Sender, Waiting
from workers.webhooks import circuit as circuit_module
from workers.webhooks import lanes as lanes_module
from workers.webhooks.circuit import THRESHOLD
from workers.webhooks.heads import Item


@dataclass
class Documents:
    products: dict[str, Product]
    current: bool = True


class Shelf:
    """Has a record for each that waits."""

    def __init__(self) -> None:
        self.reads = 0

    async def read(self, items: Sequence[Item]) -> dict[str, Retry]:
        self.reads += 1
        fields = {"product": "shop", "endpoint": "main", "type": "uplink.received", "at_ms": 1, "data": b"{}", "reason": ""}
        return {each.id: Retry(id=each.id, key=each.key, since_ms=each.since_ms, **fields) for each in items}


@dataclass
class Poisoned:
    """A server that fails at every request that holds one of these events."""

    events: frozenset[str]
    told: list[str] = field(default_factory=list)

    async def ask(
        self,
        method: str,
        url: str,
        *,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        most: int,
        within: float = 0.0,
        private: bool = True,
    ) -> Answer:
        ids = [event["id"] for event in msgspec.json.decode(body)["events"]]
        if self.events.intersection(ids):
            return answer(500)
        self.told += ids
        return answer(200)


class Lane:
    """A lane of one endpoint, for which these wait."""

    def __init__(self, *items: Item, fails_at: Sequence[str] = ()) -> None:
        self.server, self.waiting, self.endpoint = Poisoned(frozenset(fails_at)), Waiting(), endpoint(batch=10)
        for each in items:
            self.waiting.add(ROUTE, each)
        journal = JournalTwin()
        self.outbox = Outbox(journal, Sender(self.server), self.waiting, answered)
        documents = Documents({"shop": Product(name="shop", webhooks=(self.endpoint,))})
        self.shelf = Shelf()
        self.lanes = Lanes(journal, self.outbox, self.waiting, self.shelf, documents)
        self.lanes.own(frozenset({0}))

    async def until(self, waiting: int) -> None:
        """Start, and stop when no more wait."""
        await self.lanes.start()
        async with asyncio.timeout(10):
            while len(self.waiting) > waiting:  # noqa: ASYNC110 - an index, not an event
                await asyncio.sleep(0.01)
        await self.lanes.stop()


def waits(number: int, key: str, **changes: Any) -> Item:
    return item(number, key, since_ms=int(time.time() * 1000), **changes)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(circuit_module, "FIRST", 0.02)


async def test_given_events_at_which_an_endpoint_fails_then_it_is_tried_by_those_of_other_keys_and_they_are_told() -> None:
    lane = Lane(*(waits(number, f"k{number}") for number in range(6)), fails_at=["e0", "e1"])
    await lane.until(2)
    assert sorted(lane.server.told) == ["e2", "e3", "e4", "e5"]


async def test_given_only_an_event_that_was_tried_lately_then_it_is_the_one_that_tries_the_endpoint() -> None:
    lane = Lane(waits(1, "k", due=time.monotonic() + 1000))
    for _ in range(THRESHOLD):
        lane.outbox.circuit("shop", lane.endpoint).failed(time.monotonic())
    await lane.until(0)
    assert lane.server.told == ["e1"]


async def test_given_an_endpoint_that_is_away_then_nothing_is_read_until_it_may_be_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(circuit_module, "FIRST", 1000.0)
    monkeypatch.setattr(lanes_module, "NAP", 0.01)
    lane = Lane(waits(1, "k"))
    for _ in range(THRESHOLD):
        lane.outbox.circuit("shop", lane.endpoint).failed(time.monotonic())
    await lane.lanes.start()
    await asyncio.sleep(0.2)
    await lane.lanes.stop()
    assert (lane.shelf.reads, lane.server.told) == (0, [])
    lane.outbox.circuit("shop", lane.endpoint).taken()
    await lane.until(0)
    assert (lane.shelf.reads, lane.server.told) == (1, ["e1"])
