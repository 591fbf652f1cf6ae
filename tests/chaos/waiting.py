"""What is still out while a row runs, and how long things took."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any, Final

from tests.chaos.checker import BROADCAST
from tests.chaos.fleet import Fleet
from tests.chaos.history import History
from tests.chaos.records import Records

LOOK_EVERY: Final = 0.25


class Ledger:
    """Reads the history as it grows."""

    def __init__(self, fleet: Fleet, history: History, records: Records) -> None:
        self._fleet = fleet
        self._history = history
        self._records = records

    def open(self, until: float) -> int:
        """How many (message, client) accepted before `until` (monotonic) are not settled, of clients in the fleet."""
        offers = {event["token"]: event for event in self._history.events if event["e"] == "offer"}
        return sum(
            self._is_open(offers[event["token"]], event["id"], client)
            for event in self._history.events
            if event["e"] == "accepted" and event["t"] <= until
            for client in offers[event["token"]]["clients"]
        )

    def _is_open(self, offer: dict[str, Any], message: str, client: str) -> bool:
        device = self._fleet.devices.get(client)
        if device is None:
            return False
        if offer["kind"] == BROADCAST:
            return offer["token"] not in device.got
        return (offer["product"], message, client) not in self._records.settled

    async def recovered(self, healed: float, watch_until: float, patience: float) -> float | None:
        """Seconds from the heal until everybody is connected and everything accepted before it is settled, and stays so until
        `watch_until` at least: a room that was killed is missed only a moment later. None: not within `patience`."""
        last_bad = healed
        while (now := time.monotonic()) < healed + patience:
            if self.open(healed) or self._fleet.connected() < len(self._fleet.devices):
                last_bad = now + LOOK_EVERY
            elif now >= watch_until:
                return round(max(0.0, last_bad - healed), 1)
            await asyncio.sleep(LOOK_EVERY)
        return None

    async def quiet(self, patience: float) -> None:
        """Wait until everything that was ever accepted is settled, at most so long."""
        deadline = time.monotonic() + patience
        while self.open(deadline) and time.monotonic() < deadline:  # noqa: ASYNC110 - it reads what others note
            await asyncio.sleep(LOOK_EVERY)


def latencies(history: History, clients: Sequence[str], *, since: float = 0.0, until: float = float("inf")) -> list[float]:
    """Seconds from the offer of each unicast message to its arrival on one of these clients, of those offered in that time."""
    wanted = set(clients)
    offers = {
        event["token"]: event["t"]
        for event in history.events
        if event["e"] == "offer" and event["kind"] != BROADCAST and since <= event["t"] <= until
    }
    return [
        event["t"] - offers[event["token"]]
        for event in history.events
        if event["e"] == "got" and event["token"] in offers and event["client"] in wanted
    ]


def percentile(values: Sequence[float], part: float) -> float | None:
    """In whole milliseconds; None of nothing."""
    ordered = sorted(values)
    return round(1000 * ordered[min(len(ordered) - 1, int(part * len(ordered)))]) if ordered else None
