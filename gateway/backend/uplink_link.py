"""The room's side of `coordinator.uplink`: batches, and when the room reads no more uplinks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from gateway.backend.batcher import Batcher
from gateway.ports import Ask, Done
from infra.wire import UplinkItem, UplinkResult
from schemas import names

HIGH_BYTES: Final = 16 * 1024 * 1024
LOW_BYTES: Final = HIGH_BYTES // 2
QUEUE: Final = 200_000

log = structlog.get_logger("uplinks")


class UplinkLink:
    """`gateway.ports.Uplinks` on NATS. An uplink is asked again until the coordinator has it in Kafka."""

    def __init__(self, request: Callable[[str, bytes], Awaitable[bytes]], *, sender: str) -> None:
        self._batcher: Batcher[UplinkItem, UplinkResult] = Batcher(
            request, names.COORDINATOR_UPLINK, UplinkResult, sender=sender, limit=QUEUE, told=self._told
        )
        self._relieved: dict[Callable[[], None], None] = {}  # in their order, each once
        self._after: list[Callable[[], None]] = []

    @property
    def unanswered(self) -> int:
        """See `gateway.ports.Uplinks`."""
        return self._batcher.weight

    @property
    def overloaded(self) -> bool:
        """See `gateway.ports.Uplinks`."""
        return self._batcher.bytes > HIGH_BYTES

    def send(self, item: UplinkItem, done: Done[UplinkResult]) -> Ask:
        """See `gateway.ports.Uplinks`."""
        return self._batcher.ask(item, done)

    def when_relieved(self, call: Callable[[], None]) -> None:
        """See `gateway.ports.Uplinks`."""
        self._relieved[call] = None

    def gone(self, call: Callable[[], None]) -> None:
        """See `gateway.ports.Uplinks`."""
        self._relieved.pop(call, None)

    def when_told(self, call: Callable[[], None]) -> None:
        """See `gateway.ports.Uplinks`."""
        self._after.append(call)

    def _told(self) -> None:
        after, self._after = self._after, []
        for call in after:
            try:
                call()
            except Exception:  # one client's: the others' PUBACKs are their own
                log.exception("result not taken")
        if self._relieved and self._batcher.bytes <= LOW_BYTES:
            calls, self._relieved = self._relieved, {}
            for call in calls:
                call()

    async def start(self) -> None:
        """Nothing to do: a batch starts with its first item."""

    async def stop(self) -> None:
        """Give up whatever waits: its PUBACK was never sent."""
        await self._batcher.stop()
