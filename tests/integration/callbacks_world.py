"""The consumers of callbacks beside a core, and a taker in the outbox's place that notes what it is sent."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from core import Core, Device, unique

from infra.documents.webhooks import Endpoint, new_secret
from infra.journal import JournalDown
from infra.register.told import ToldIndex
from infra.wire import DisconnectItem, UnbindItem
from schemas import names
from workers.callbacks.asked import Asked
from workers.callbacks.receipts import ReceiptCallbacks
from workers.callbacks.status import Patience, StatusCallbacks
from workers.runner import Runner
from workers.webhooks import Event

WINDOW = 1.0
"""Seconds of debounce of the tests' products."""
SETTLED = WINDOW + 3.0
"""Seconds after which what was held back has been told."""


def endpoint(*events: str, url: str = "http://127.0.0.1:9/") -> Endpoint:
    """A webhook for these types."""
    return Endpoint.model_validate({"name": "test", "url": url, "secrets": [new_secret()], "events": events})


class Taker:
    """Takes everything, unless it was told to fail some times first."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.failures = 0

    async def send(self, endpoint: Endpoint, events: Sequence[Event]) -> None:
        if self.failures:
            self.failures -= 1
            raise JournalDown("the test says so")
        self.events += events

    async def caught_up(self) -> None:
        """Nothing waits."""

    def of(self, product: str, *names_: str) -> list[tuple[str, Any]]:
        """(type, client, or user) of what a product was told, in order. Two consumers may tell the same event of a user at a
        time: one event, by its id; of clients a repeat counts."""
        found: dict[str, Event] = {}
        for number, each in enumerate(self.events):
            if each.product == product and (not names_ or each.type in names_):
                found.setdefault(each.id if each.type.startswith("user.") else str(number), each)
        return [
            (each.type, each.data["user"] if each.type.startswith("user.") else each.data["client"]) for each in found.values()
        ]


class Consumers:
    """A coordinator's two, as a member of the groups."""

    def __init__(self, core: Core, taker: Taker, group: str) -> None:
        asked = Asked(core.keeper)
        self.status = StatusCallbacks(ToldIndex(core.register), taker, taker, asked)
        self.runner = self._runner(core, names.STATUS, group, self.status, holds=self.status.floor)
        self.patience = Patience(self.status, self.runner, fail=core.failures.append)
        self.receipts = self._runner(core, names.RECEIPTS, group + "-receipts", ReceiptCallbacks(taker, taker, asked))

    @staticmethod
    def _runner(core: Core, topic: str, group: str, handler: Any, **more: Any) -> Runner:
        return Runner(
            core.settings.kafka, core.journal, topic=topic, group=group, handler=handler, name=unique("callbacks"),
            fail=core.failures.append, **more,
        )  # fmt: skip

    async def start(self) -> None:
        for part in (self.runner, self.patience, self.receipts):
            await part.start()

    async def stop(self) -> None:
        for part in (self.receipts, self.patience, self.runner):
            await part.stop()


async def leave(device: Device, reason: str = "gone") -> None:
    """Its room says that the session is over."""
    key, room, epoch, _, generation, number = device.where()
    await device.room.core.saver.disconnect([DisconnectItem(key, room, epoch, generation, number, reason, [], [])])


async def unbind(device: Device, product: str) -> None:
    """UNSUBSCRIBE."""
    key, room, epoch, _, generation, number = device.where()
    await device.room.core.saver.unbind([UnbindItem(key, room, epoch, generation, number, product)])


async def quiet(seconds: float = SETTLED) -> None:
    """Wait until whatever might be told would have been."""
    await asyncio.sleep(seconds)
