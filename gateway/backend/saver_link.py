"""The room's side of `saver.*`: one batcher an operation (docs/design.md, NATS)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from gateway.backend.batcher import Batcher
from gateway.ports import Ask, Done
from infra.wire import (
    OK,
    BindItem,
    BindResult,
    ConnectItem,
    ConnectResult,
    DisconnectItem,
    DoneResult,
    PullItem,
    PullResult,
    SyncItem,
    SyncResult,
    UnbindItem,
)
from schemas import names

CONNECT_TRIES_S: Final = 60.0
QUEUE: Final = 50_000
"""Items that may wait for one operation: more than a room has clients, as each has one request at a time."""


class SaverLink:
    """`gateway.ports.Saver` on NATS. `sender`: `room:epoch`."""

    def __init__(self, request: Callable[[str, bytes], Awaitable[bytes]], *, sender: str) -> None:
        self._connect: Batcher[ConnectItem, ConnectResult] = Batcher(
            request, names.SAVER_CONNECT, ConnectResult, sender=sender, limit=QUEUE, give_up=CONNECT_TRIES_S
        )
        self._bind: Batcher[BindItem, BindResult] = Batcher(request, names.SAVER_BIND, BindResult, sender=sender, limit=QUEUE)
        self._sync: Batcher[SyncItem, SyncResult] = Batcher(
            request, names.SAVER_SYNC, SyncResult, sender=sender, limit=QUEUE, plain=SyncResult(OK)
        )
        self._pull: Batcher[PullItem, PullResult] = Batcher(request, names.SAVER_PULL, PullResult, sender=sender, limit=QUEUE)
        self._unbind: Batcher[UnbindItem, DoneResult] = Batcher(
            request, names.SAVER_UNBIND, DoneResult, sender=sender, limit=QUEUE
        )
        self._disconnect: Batcher[DisconnectItem, DoneResult] = Batcher(
            request, names.SAVER_DISCONNECT, DoneResult, sender=sender, limit=QUEUE
        )

    @property
    def unanswered(self) -> int:
        """See `gateway.ports.Saver`."""
        some = self._connect.weight + self._bind.weight + self._sync.weight  # written out: it is asked at each CONNECT
        return some + self._pull.weight + self._unbind.weight + self._disconnect.weight

    def connect(self, item: ConnectItem, done: Done[ConnectResult]) -> Ask:
        """See `gateway.ports.Saver`."""
        return self._connect.ask(item, done)

    def bind(self, item: BindItem, done: Done[BindResult]) -> Ask:
        """See `gateway.ports.Saver`."""
        return self._bind.ask(item, done)

    def sync(self, item: SyncItem, done: Done[SyncResult]) -> Ask:
        """See `gateway.ports.Saver`."""
        return self._sync.ask(item, done)

    def unbind(self, item: UnbindItem, done: Done[DoneResult]) -> Ask:
        """See `gateway.ports.Saver`."""
        return self._unbind.ask(item, done)

    def pull(self, item: PullItem, done: Done[PullResult]) -> Ask:
        """See `gateway.ports.Saver`."""
        return self._pull.ask(item, done)

    def disconnect(self, item: DisconnectItem) -> None:
        """See `gateway.ports.Saver`."""
        self._disconnect.ask(item, _nobody_waits)

    async def flush(self, seconds: float) -> bool:
        """Wait until every disconnect was confirmed, at most `seconds`; returns whether they are."""
        try:
            async with asyncio.timeout(seconds):
                await self._sync.idle.wait()  # some wait for their client's last request, or share what it has to tell with one
                await self._disconnect.idle.wait()
        except TimeoutError:
            return False
        return True

    async def start(self) -> None:
        """Nothing to do: a batch starts with its first item."""

    async def stop(self) -> None:
        """Give up whatever waits."""
        await self._connect.stop()
        await self._bind.stop()
        await self._sync.stop()
        await self._pull.stop()
        await self._unbind.stop()
        await self._disconnect.stop()


def _nobody_waits(result: DoneResult | None) -> None:
    """A superseded session is removed already; one that was given up is found by the saver's sweep."""
