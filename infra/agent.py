"""The supervisor of a host's processes: starts them in order, restarts what ends on its own, stops them in reverse.

A process is told everything by `LONGWIRE_*` variables and says where it listens by its report file; it is ready when its
`/readyz` answers 200. Restarts are bounded: `RESTARTS` within a minute, then the process counts as failed and stays down.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import httpx
import structlog

from infra.local.process import Child, server_environment

READY: Final = 60.0
STOP_GRACE: Final = 20.0
RESTARTS: Final = 5
BACKOFF: Final = (0.2, 10.0)

log = structlog.get_logger("agent")


class ProcessFailed(Exception):
    """A process that did not become ready; the text has the end of its log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSpec:
    """One process to run: `pushctl run {role}` under `name`, with `env` beside HOME and PATH."""

    name: str
    role: str
    env: Mapping[str, str]


@dataclass(slots=True)
class Supervised:
    """A process with its history. `report` is what it said of itself when it became ready."""

    spec: ProcessSpec
    child: Child
    report_file: Path
    report: dict[str, Any] = field(default_factory=dict)
    watch: asyncio.Task[None] | None = None
    restarts: deque[float] = field(default_factory=lambda: deque(maxlen=RESTARTS))
    given_up: bool = False

    def keep(self, name: str, value: str) -> None:
        """From its next start on the process is told this variable: a port that the kernel picked stays its port."""
        self.spec = replace(self.spec, env={**self.spec.env, name: value})


class Agent:
    """Supervises the processes of one data folder: reports in `run/`, logs in `logs/`."""

    def __init__(self, data: Path, *, progress: Callable[[str], None] = lambda line: None) -> None:
        self._data = data
        self._progress = progress
        self.processes: dict[str, Supervised] = {}

    async def start(self, spec: ProcessSpec) -> Supervised:
        """Start a process and return when it is ready; raises ProcessFailed with the end of its log."""
        began = time.monotonic()
        child = Child(spec.name, self._data / "logs" / f"{spec.name}.log")
        item = Supervised(spec, child, self._data / "run" / f"{spec.name}.json")
        self.processes[spec.name] = item
        await self._launch(item)
        try:
            async with asyncio.timeout(READY):
                await self._until_ready(item)
        except TimeoutError:
            raise ProcessFailed(f"{spec.name} was not ready within {READY:.0f} s.{self._end_of_log(item)}") from None
        item.watch = asyncio.create_task(self._watch(item), name=f"watch-{spec.name}")
        self._progress(f"{spec.name}: ready in {time.monotonic() - began:.1f} s")
        return item

    async def kill(self, name: str) -> int:
        """SIGKILL a process and leave it down; returns its pid."""
        item = self.processes[name]
        item.given_up = True
        pid = item.child.pid or 0
        await item.child.kill()
        return pid

    async def stop(self) -> None:
        """Stop everything in the reverse of the start order, each within `STOP_GRACE`."""
        for item in reversed(list(self.processes.values())):
            item.given_up = True
            if item.watch is not None:
                item.watch.cancel()
            await item.child.stop(STOP_GRACE)
            item.report_file.unlink(missing_ok=True)
        self.processes.clear()

    # --- one process ---------------------------------------------------------------------------------------------------

    async def _launch(self, item: Supervised) -> None:
        item.report_file.unlink(missing_ok=True)
        env = {
            **server_environment(),
            "PYTHONDONTWRITEBYTECODE": os.environ.get("PYTHONDONTWRITEBYTECODE", ""),
            "LONGWIRE_DATA": str(self._data),
            "LONGWIRE_TELEMETRY__REPORT": str(item.report_file),
            **item.spec.env,
        }
        await item.child.start([sys.executable, "-P", "-m", "cli", "run", item.spec.role], env=env)

    async def _until_ready(self, item: Supervised) -> None:
        async with httpx.AsyncClient(trust_env=False) as http:
            while True:
                if not item.child.running:
                    ended = await item.child.exited()
                    raise ProcessFailed(f"{item.spec.name} {ended.reason} while it started.{self._end_of_log(item)}")
                if await self._is_ready(http, item):
                    return
                await asyncio.sleep(0.05)

    async def _is_ready(self, http: httpx.AsyncClient, item: Supervised) -> bool:
        try:
            report = json.loads(item.report_file.read_text())
            answer = await http.get(f"{report['internal']}/readyz", timeout=2)
        except (OSError, ValueError, httpx.HTTPError):
            return False
        item.report = report
        return answer.status_code == httpx.codes.OK

    async def _watch(self, item: Supervised) -> None:
        """Start the process again when it ends on its own, with a growing pause, as long as the bound allows."""
        delay = BACKOFF[0]
        while True:
            ended = await item.child.exited()
            if item.given_up:
                return
            now = time.monotonic()
            if len(item.restarts) == RESTARTS and now - item.restarts[0] < 60:
                item.given_up = True
                log.error("process failed for good", name=item.spec.name, reason=ended.reason, restarts=RESTARTS)
                self._progress(f"{item.spec.name}: {ended.reason}, {RESTARTS} restarts within a minute: left down")
                return
            item.restarts.append(now)
            log.warning("process restarted", name=item.spec.name, reason=ended.reason)
            self._progress(f"{item.spec.name}: {ended.reason}; started again")
            await asyncio.sleep(delay)
            delay = min(delay * 2, BACKOFF[1])
            await self._launch(item)
            try:
                async with asyncio.timeout(READY):
                    await self._until_ready(item)
            except (ProcessFailed, TimeoutError) as error:
                log.warning("process not ready after its restart", name=item.spec.name, error=str(error)[:200])
                await item.child.stop(STOP_GRACE)

    def _end_of_log(self, item: Supervised) -> str:
        return f" The end of its log, {item.child.log}:\n{item.child.tail(20)}"
