"""The supervisor of a host's processes: starts them in order, restarts what ends on its own, stops them in reverse.

A process is told everything by `LONGWIRE_*` variables and says where it listens by its report file; it is ready when its
`/readyz` answers 200. What ends is started again, after pauses that grow to `BACKOFF[1]` while it does not live for `STEADY` s:
a broker may be away for long, and nobody should have to start anything by hand when it is back.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import httpx
import structlog

from infra.local.process import Child, server_environment

READY: Final = 60.0
STOP_GRACE: Final = 20.0
FAILING: Final = 5
"""Restarts in a row after which it is said once that a process keeps failing."""
BACKOFF: Final = (0.2, 10.0)
STEADY: Final = 60.0

log = structlog.get_logger("agent")


class ProcessFailed(Exception):
    """A process that did not become ready; the text has the end of its log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSpec:
    """One process to run: `pushctl run {role}` under `name`, with `env` beside HOME and PATH; it has `stop_within` s to end."""

    name: str
    role: str
    env: Mapping[str, str]
    stop_within: float = STOP_GRACE


@dataclass(slots=True)
class Supervised:
    """A process with its history. `report` is what it said of itself when it became ready last; `ready`: it has, since its last
    start; `restarts` counts how often it was started again; `leave`: do not start it again."""

    spec: ProcessSpec
    child: Child
    report_file: Path
    report: dict[str, Any] = field(default_factory=dict)
    watch: asyncio.Task[None] | None = None
    ready: bool = False
    restarts: int = 0
    leave: bool = False

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
        item.leave = True
        pid = item.child.pid or 0
        await item.child.kill()
        return pid

    async def stop(self, *, at_once: bool = False) -> None:
        """Stop everything in the reverse of the start order, or all of it at once; each has its `stop_within`."""
        items = list(reversed(self.processes.values()))
        for item in items:
            item.leave = True
            if item.watch is not None:
                item.watch.cancel()
        if at_once:
            await asyncio.gather(*(self._end(item) for item in items))
        else:
            for item in items:
                await self._end(item)
        self.processes.clear()

    def hang_up(self) -> None:
        """Have every process read its files again (SIGHUP)."""
        for item in self.processes.values():
            item.child.hang_up()

    async def _end(self, item: Supervised) -> None:
        await item.child.stop(item.spec.stop_within)
        item.report_file.unlink(missing_ok=True)

    # --- one process ---------------------------------------------------------------------------------------------------

    async def _launch(self, item: Supervised) -> None:
        item.report_file.unlink(missing_ok=True)
        item.ready = False
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
                    item.ready = True
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
        """Start the process again when it ends on its own, with a growing pause while it does not last."""
        in_a_row = 0
        began = time.monotonic()
        while True:
            ended = await item.child.exited()
            if item.leave:
                return
            in_a_row = 1 if time.monotonic() - began > STEADY else in_a_row + 1
            self._tell(item, ended.reason, in_a_row)
            item.restarts += 1
            await asyncio.sleep(min(BACKOFF[0] * 2 ** min(in_a_row - 1, 16), BACKOFF[1]))
            began = time.monotonic()
            await self._launch(item)
            try:
                async with asyncio.timeout(READY):
                    await self._until_ready(item)
            except (ProcessFailed, TimeoutError) as error:
                log.warning("process not ready after its restart", name=item.spec.name, error=str(error)[:200])
                await item.child.stop(item.spec.stop_within)

    def _tell(self, item: Supervised, reason: str, in_a_row: int) -> None:
        name = item.spec.name
        log.warning("process restarted", name=name, reason=reason, in_a_row=in_a_row)
        if in_a_row < FAILING:
            self._progress(f"{name}: {reason}; started again")
        elif in_a_row == FAILING:
            self._progress(
                f"{name}: {reason}, {FAILING} times in a row; it is tried again every {BACKOFF[1]:g} s, see {item.child.log}"
            )

    def _end_of_log(self, item: Supervised) -> str:
        return f" The end of its log, {item.child.log}:\n{item.child.tail(20)}"
