"""Whether the brokers can be reached: asked every few seconds, so that `/readyz` answers at once and from any thread."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import structlog

from infra.lifecycle import Loops

EVERY: Final = 2.0
PROBE_TIMEOUT: Final = 2.0

log = structlog.get_logger("center")

Probe = Callable[[], Awaitable[None]]


class Readiness:
    """The last outcome of each broker's probe. A probe raises if its broker can't be used; it has `PROBE_TIMEOUT` seconds."""

    def __init__(self, probes: Mapping[str, Probe], *, fail: Callable[[str], None]) -> None:
        self._probes = probes
        self._reasons = dict.fromkeys(probes, "not asked yet")
        self._loops = Loops(fail)

    def reasons(self) -> dict[str, str]:
        """Broker → why it can't be used; empty when all can."""
        return {name: reason for name, reason in self._reasons.items() if reason}

    def reason(self) -> str:
        """The same in one line, "" when ready."""
        return "; ".join(f"{name}: {reason}" for name, reason in self.reasons().items())

    async def start(self) -> None:
        """Ask each once, then go on asking."""
        await self.ask()
        self._loops.start("readiness", self._watch())

    async def stop(self) -> None:
        """Stop asking."""
        await self._loops.stop()

    async def ask(self) -> None:
        """Ask all of them now."""
        await asyncio.gather(*(self._ask(name, probe) for name, probe in self._probes.items()))

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(EVERY)
            await self.ask()

    async def _ask(self, name: str, probe: Probe) -> None:
        reason = ""
        try:
            async with asyncio.timeout(PROBE_TIMEOUT):
                await probe()
        except Exception as error:  # whatever a client library raises, it means that the broker can't be used
            reason = f"{type(error).__name__}: {error}"[:200]
        if reason != self._reasons[name]:
            log.info("reachability changed", broker=name, reason=reason or "ok")
        self._reasons[name] = reason
