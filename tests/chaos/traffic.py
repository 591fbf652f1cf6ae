"""Mixed traffic at a steady rate: unicast by HTTP and by Kafka, to devices online and away, broadcasts, uplinks."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from infra.journal import Entry, Journal, JournalDown
from infra.ops.http import Answered, CenterClient, Unreachable
from infra.settings import KafkaSettings
from infra.system import System
from schemas import names
from schemas.records import PushMessage
from tests.chaos.fleet import PRODUCT, Fleet
from tests.chaos.history import History

RETRY_FOR: Final = 90.0
"""Seconds for which a sender asks again under the same id; then the outcome stays unknown."""
PRIORITY: Final = {"high": 0, "normal": 1, "low": 2}


class Traffic:
    """The senders of one row."""

    def __init__(
        self,
        system: System,
        kafka: KafkaSettings,
        fleet: Fleet,
        history: History,
        *,
        seed: int,
        away: Sequence[str],
        per_second: float,
    ) -> None:
        """`away`: clients that are offline and get messages too; `per_second`: unicast messages."""
        self._random = random.Random(seed)
        self._center = CenterClient(system)
        self._kafka = kafka
        self._journal = Journal(kafka, name="chaos")
        self._fleet = fleet
        self._history = history
        self._online = sorted(fleet.devices)
        self._away = list(away)
        self._pause = 1 / per_second
        self._prefix = f"{seed:x}{int(time.time()):x}"
        self._count = 0
        self._tasks: set[asyncio.Task[Any]] = set()
        self._flow: asyncio.Task[None] | None = None
        self.statuses: list[tuple[float, float, str]] = []
        """(when, how long, outcome) of each HTTP request."""

    async def start(self) -> None:
        """Begin to send."""
        await self._journal.start()
        self._flow = asyncio.create_task(self._run())

    async def quiet(self) -> None:
        """Begin nothing new; wait for what is under way."""
        if self._flow is not None:
            self._flow.cancel()
            await asyncio.gather(self._flow, return_exceptions=True)
        while self._tasks:
            await asyncio.wait(set(self._tasks))

    async def stop(self) -> None:
        """Close the connections."""
        await self._journal.stop()
        await self._center.__aexit__(None, None, None)

    def broadcast(self, rate: int) -> None:
        """Send one to every client of the product, online or not, at so many persons a second."""
        token = self._token("b")
        clients = [*self._online, *self._away]
        self._history.note("offer", token=token, clients=clients, kind="broadcast", priority=1)
        body = {"product": PRODUCT, "id": token, "payload": token, "rate": rate, "ttl": "1h"}
        self._spawn(self._post("/v1/broadcasts", body, token))

    async def _run(self) -> None:
        kinds: tuple[tuple[int, Callable[[], None]], ...] = (
            (50, self._by_http),
            (25, self._by_kafka),
            (10, self._to_away),
            (15, self._uplink),
        )
        weights, senders = zip(*kinds, strict=True)
        while True:
            self._random.choices(senders, weights)[0]()
            await asyncio.sleep(self._pause)

    def _by_http(self) -> None:
        client = self._random.choice(self._online)
        priority = self._random.choice(["normal", "normal", "normal", "high", "low"])
        token = self._offer(client, priority)
        body = {"product": PRODUCT, "client": client, "id": token, "payload": token, "priority": priority, "ttl": "1h"}
        self._spawn(self._post("/v1/messages", body, token))

    def _by_kafka(self) -> None:
        self._produce(self._random.choice(self._online))

    def _to_away(self) -> None:
        self._produce(self._random.choice(self._away))

    def _produce(self, client: str) -> None:
        token = self._offer(client, "normal")
        message = PushMessage(id=token, product=PRODUCT, client=client, payload=token.encode(), ttl_s=3600)

        async def send() -> bool:
            try:
                await self._journal.produce([Entry(names.MESSAGES, client, message)], timeout=5)
            except JournalDown:
                return False
            return True

        self._spawn(self._until_known(token, send))

    def _uplink(self) -> None:
        uplink = self._token("u")
        self._spawn(self._fleet.uplink(self._random.choice(self._online), uplink, uplink.encode()))

    # --- parts ---------------------------------------------------------------------------------------------------------

    def _token(self, kind: str) -> str:
        self._count += 1
        return f"{kind}{self._prefix}-{self._count}"

    def _offer(self, client: str, priority: str) -> str:
        token = self._token("m")
        self._history.note("offer", token=token, clients=[client], kind="unicast", priority=PRIORITY[priority])
        return token

    def _spawn(self, work: Awaitable[Any]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _post(self, path: str, body: dict[str, Any], token: str) -> None:
        async def send() -> bool:
            began = time.monotonic()
            outcome = "accepted"
            try:
                await self._center.post(path, body)
            except (Unreachable, Answered) as error:
                outcome = str(error)
            self.statuses.append((began, time.monotonic() - began, outcome))
            return outcome == "accepted"

        await self._until_known(token, send)

    async def _until_known(self, token: str, send: Callable[[], Awaitable[bool]]) -> None:
        deadline = time.monotonic() + RETRY_FOR
        while time.monotonic() < deadline:
            if await send():
                self._history.note("accepted", token=token, id=token)
                return
            await asyncio.sleep(0.5)
