"""How the demo is shown: lines that stay, and a bar while something runs (on a terminal; elsewhere a line every two seconds)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from infra.demo.ledger import Balance

POLL: Final = 0.05


class Failed(Exception):
    """A step did not do what it must; the text says what was seen."""


class Stage:
    """Prints on a console; collects each step's figures for `--json`."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.figures: dict[str, object] = {}
        self.failures: list[str] = []

    def note(self, line: str) -> None:
        """Something on the way."""
        self.console.print(f"  [dim]{line}[/dim]")

    def title(self, text: str) -> None:
        """A step begins."""
        self.console.print(f"\n[bold]{text}[/bold]")

    def shown(self, text: str, **figures: object) -> None:
        """A step's result, with what was measured."""
        self.console.print(f"  [green]✓[/green] {text}")
        self.figures.update(figures)

    def failed(self, text: str) -> None:
        """A step that did not hold: the demo goes on, and ends with status 1."""
        self.console.print(f"  [red]✗[/red] {text}")
        self.failures.append(text)

    async def until(self, what: str, total: int, count: Callable[[], int], *, within: float) -> bool:
        """Show `count()` growing to `total`; False if it does not get there in time."""
        deadline = time.monotonic() + within
        columns = (TextColumn("  {task.description}"), BarColumn(), TextColumn("{task.completed:.0f}/{task.total:.0f}"))
        live = self.console.is_terminal
        last = time.monotonic()
        with Progress(*columns, TimeElapsedColumn(), console=self.console, transient=True, disable=not live) as bar:
            task = bar.add_task(what, total=total)
            while True:
                done = count()
                bar.update(task, completed=done)
                if done >= total:
                    return True
                now = time.monotonic()
                if now > deadline:
                    return False
                if not live and now - last >= 2:
                    last = now
                    self.note(f"{what}: {done}/{total}")
                await asyncio.sleep(POLL)

    def ledger(self, balance: Balance) -> None:
        """The last table."""
        self.title("Ledger over (message, client)")
        rows, remarks = balance.document(), balance.remarks()
        for name in ("accepted", "acked", "written", "pending", "expired", "other", "duplicates", "lost"):
            remark = f"   [dim]{remarks[name]}[/dim]" if rows[name] and name in remarks else ""
            self.console.print(f"  {name:<12}{rows[name]:>7}{remark}")
        for line in balance.contradictions[:10]:
            self.failed(line)
        for message, client in balance.lost[:10]:
            self.failed(f"lost: {message} for {client}")


async def settled(check: Callable[[], Awaitable[bool]], *, within: float) -> bool:
    """Ask `check()` again and again; False if it stays false for `within` seconds."""
    deadline = time.monotonic() + within
    while not await check():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.1)
    return True
