"""Broadcasts as the commands start and watch them."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from infra.ops.http import CenterClient, NotFound

DONE: Final = ("completed", "expired", "cancelled", "halted")
POLL: Final = 0.25


async def watch(center: CenterClient, job: str, console: Console, *, timeout: float = 0) -> dict[str, Any]:
    """Show a job's progress until it is done, and return its last state. TimeoutError after `timeout` seconds (0: never)."""
    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.completed:.0f} persons  {task.fields[rate]:.0f}/s"),
        TimeRemainingColumn(),
    )
    async with asyncio.timeout(timeout or None):
        with Progress(*columns, console=console) as bar:
            shown = bar.add_task(job, total=None, rate=0.0)
            began = time.monotonic()
            while True:
                state = await _get(center, job)
                sent, targeted = _sent(state), int(state.get("targeted") or 0)
                elapsed = max(0.001, time.monotonic() - began)
                bar.update(shown, completed=sent, total=max(targeted, sent), rate=sent / elapsed)
                if state.get("state") in DONE:
                    return state
                await asyncio.sleep(POLL)


async def _get(center: CenterClient, job: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = await center.get(f"/v1/broadcasts/{job}")
    except NotFound:
        return {"job": job, "state": "accepted"}  # accepted, and not folded yet
    return found


def _sent(state: dict[str, Any]) -> int:
    return int((state.get("totals") or {}).get("sent", 0))
