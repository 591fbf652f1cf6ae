"""Mixed traffic at a steady rate: unicast by HTTP and by Kafka, to devices online and away, to users, broadcasts, uplinks."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from infra.journal import Entry, Journal, JournalDown
from infra.ops.http import Answered, CenterClient, Unreachable
from infra.settings import KafkaSettings
from infra.system import System
from schemas import names
from schemas.codes import Mode
from schemas.records import PushMessage
from tests.chaos.fleet import PRODUCT, PRODUCTS, SECOND, Fleet
from tests.chaos.history import History

RETRY_FOR: Final = 90.0
"""Seconds for which a sender asks again under the same id; then the outcome stays unknown."""
AGAIN: Final = (0.5, 4.0)
"""Seconds until a sender asks again: first, and at most. An outage has hundreds of them; asking twice a second each they kept
this process, which has the devices, too, so busy that answers seemed to take seconds."""
PRIORITY: Final = {"high": 0, "normal": 1, "low": 2}
HOUR: Final = 3600
SHORT_TTL: Final = 20
BROADCAST_TTL: Final = "10m"
"""A product has places for 64 broadcasts that have not expired, and each row leaves two."""
IN_SECOND: Final = 0.3
"""The part of plain unicast messages that is of the second product."""
COLLAPSE_KEYS: Final = 3
ASKED_AGAIN: Final = 20
"""How many idempotency keys are used again to see their ids."""


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
        users: Mapping[str, Sequence[str]],
        per_second: float,
    ) -> None:
        """`away`: clients that are offline and get messages too; `users`: the clients of each; `per_second`: unicast messages."""
        self._random = random.Random(seed)
        self._center = CenterClient(system)
        self._kafka = kafka
        self._journal = Journal(kafka, name="chaos")
        self._fleet = fleet
        self.history = history
        self._online = sorted(fleet.devices)
        self._away = list(away)
        self._users = users
        self._pause = 1 / per_second
        self._prefix = f"{seed:x}{int(time.time()):x}"
        self._count = 0
        self._tasks: set[asyncio.Task[Any]] = set()
        self._flow: asyncio.Task[None] | None = None
        self.statuses: list[tuple[float, float, str]] = []
        """(when, how long, outcome) of each HTTP request."""
        self.keyed: list[tuple[float, str, dict[str, Any], str]] = []
        """(when accepted, idempotency key, body, id)."""
        self.jobs: list[str] = []
        """The broadcasts' ids, in order."""

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
        token = self._offer([*self._online, *self._away], kind="broadcast")
        body = {"product": PRODUCT, "id": token, "payload": token, "rate": rate, "ttl": BROADCAST_TTL}
        self.jobs.append(token)
        self._spawn(self._post("/v1/broadcasts", body, token))

    def large(self, client: str, size: int) -> None:
        """Send one unicast message of so many bytes."""
        self._produce(client, size=size)

    async def ask_again(self, before: float) -> list[str]:
        """Use idempotency keys again that were accepted before a time: the same id must come, and another body is refused."""
        wrong = []
        for _, key, body, known in [item for item in self.keyed if item[0] < before][-ASKED_AGAIN:]:
            again = (await self._center.post("/v1/messages", body, idempotency_key=key))["id"]
            if again != known:
                wrong.append(f"idempotency key {key} gave {known} before the fault, and {again} after it")
            try:
                await self._center.post("/v1/messages", {**body, "payload": "another"}, idempotency_key=key)
            except Answered:
                continue
            wrong.append(f"idempotency key {key} was taken for another body")
        return wrong

    async def _run(self) -> None:
        kinds: tuple[tuple[int, Callable[[], None]], ...] = (
            (35, self._by_http),
            (18, self._by_kafka),
            (2, self._in_both),
            (8, self._to_user),
            (10, self._to_away),
            (5, self._collapsing),
            (5, self._short_lived),
            (8, self._by_notice),
            (15, self._uplink),
        )
        weights, senders = zip(*kinds, strict=True)
        while True:
            self._random.choices(senders, weights)[0]()
            await asyncio.sleep(self._pause)

    def _by_http(self) -> None:
        client = self._random.choice(self._online)
        priority = self._random.choice(["normal", "normal", "normal", "high", "low"])
        product = self._product()
        token = self._offer([client], product=product, priority=priority)
        body = {"product": product, "client": client, "payload": token, "priority": priority, "ttl": "1h"}
        if self._random.random() < 0.5:
            self._spawn(self._post("/v1/messages", body, token, key=token))
        else:
            self._spawn(self._post("/v1/messages", {**body, "id": token}, token))

    def _by_kafka(self) -> None:
        self._produce(self._random.choice(self._online), product=self._product())

    def _in_both(self) -> None:
        """One id in both products: two messages."""
        client, message = self._random.choice(self._online), self._token("i")
        for product in PRODUCTS:
            self._produce(client, product=product, id=message)

    def _by_notice(self) -> None:
        """To a device that is online or away: a notice, and its body is pulled."""
        self._produce(self._random.choice([*self._online, *self._away]), mode=Mode.PULL)

    def _to_user(self) -> None:
        user = self._random.choice(sorted(self._users))
        token = self._offer(self._users[user])
        body = {"product": PRODUCT, "user": user, "id": token, "payload": token, "ttl": "1h"}
        self._spawn(self._post("/v1/messages", body, token))

    def _to_away(self) -> None:
        self._produce(self._random.choice(self._away), product=self._product())

    def _collapsing(self) -> None:
        self._produce(self._random.choice(self._away), collapse_key=f"k{self._random.randrange(COLLAPSE_KEYS)}")

    def _short_lived(self) -> None:
        self._produce(self._random.choice(self._away), ttl=SHORT_TTL)

    def _produce(
        self,
        client: str,
        *,
        product: str = PRODUCT,
        id: str = "",  # noqa: A002 - the message's id
        size: int = 0,
        ttl: int = HOUR,
        collapse_key: str | None = None,
        mode: str = Mode.PUSH,
    ) -> None:
        token = self._offer([client], product=product, ttl=ttl, mode=mode)
        payload = (token + " ").encode().ljust(size, b".")
        message = PushMessage(
            id=id or token, product=product, client=client, payload=payload, ttl_s=ttl, collapse_key=collapse_key, mode=mode
        )

        async def send() -> str:
            try:
                await self._journal.produce([Entry(names.MESSAGES, client, message)], timeout=5)
            except JournalDown:
                return ""
            return message.id

        self._spawn(self._until_known(token, send))

    def _uplink(self) -> None:
        uplink = self._token("u")
        self._spawn(self._fleet.uplink(self._random.choice(self._online), uplink, uplink.encode()))

    def _product(self) -> str:
        return SECOND if self._random.random() < IN_SECOND else PRODUCT

    # --- parts ---------------------------------------------------------------------------------------------------------

    def _token(self, kind: str) -> str:
        self._count += 1
        return f"{kind}{self._prefix}-{self._count}"

    def _offer(
        self,
        clients: Sequence[str],
        *,
        product: str = PRODUCT,
        kind: str = "unicast",
        priority: str = "normal",
        ttl: int = HOUR,
        mode: str = Mode.PUSH,
    ) -> str:
        token = self._token(kind[0])
        order = PRIORITY[priority]
        more = {"product": product, "kind": kind, "priority": order, "ttl": ttl, "mode": mode}
        self.history.note("offer", token=token, clients=list(clients), **more)
        return token

    def _spawn(self, work: Awaitable[Any]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _post(self, path: str, body: dict[str, Any], token: str, *, key: str = "") -> None:
        async def send() -> str:
            began = time.monotonic()
            outcome, found = "accepted", ""
            try:
                found = (await self._center.post(path, body, idempotency_key=key))["id"]
            except (Unreachable, Answered) as error:
                outcome = str(error)
            self.statuses.append((began, time.monotonic() - began, outcome))
            if found and key:
                self.keyed.append((time.monotonic(), key, body, found))
            return found

        await self._until_known(token, send)

    async def _until_known(self, token: str, send: Callable[[], Awaitable[str]]) -> None:
        """Ask until it is accepted, under the id that `send` returns ("": ask again, less and less often)."""
        deadline, pause = time.monotonic() + RETRY_FOR, AGAIN[0]
        while time.monotonic() < deadline:
            if found := await send():
                self.history.note("accepted", token=token, id=found)
                return
            await asyncio.sleep(pause)
            pause = min(2 * pause, AGAIN[1])
