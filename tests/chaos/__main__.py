"""`make chaos [FAULT=name] [SEED=n]`: every row of the table, or one; figures in build/chaos.json."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import uvloop
from rich.console import Console
from rich.table import Table

from bench.process import raise_descriptor_limit
from tests.chaos.checker import Verdict
from tests.chaos.fault import Fault
from tests.chaos.faults import every, short
from tests.chaos.row import Row, run_row
from tests.chaos.world import Scale, World

FILE: Final = Path("build/chaos.json")
HISTORIES: Final = Path("build/chaos")


def chosen(names: str) -> list[Fault]:
    """The faults of these names (with commas; or beginning so; or `short`), all if there is none.

    Raises SystemExit with the names that there are.
    """
    if names == "short":
        return short()
    found = []
    for name in names.split(","):
        some = [fault for fault in every() if fault.name == name] or [fault for fault in every() if fault.name.startswith(name)]
        if not some:
            raise SystemExit(f"no fault {name}; there are: {', '.join(fault.name for fault in every())}")
        found += some
    return found


async def run(faults: list[Fault], seed: int, scale: Scale, console: Console) -> list[Row]:
    """All rows in one world; a world that a row could not heal is replaced."""
    rows: list[Row] = []
    left = list(faults)
    while left:
        with tempfile.TemporaryDirectory(prefix="longwire-chaos-") as folder:
            world = World(Path(folder), scale, lambda line: console.print(f"[dim]  {line}[/dim]"))
            try:
                began = time.monotonic()
                await world.start()
                console.print(f"{len(world.fleet.devices)} devices connected after {time.monotonic() - began:.0f} s")
                while left:
                    fault = left.pop(0)
                    rows.append(await one(world, fault, seed, console))
                    write(rows)
                    show(console, rows[-1])
                    if not rows[-1].ok and left:
                        break  # what a failed row left behind must not fail the next
            finally:
                if rows and not rows[-1].ok:
                    keep_logs(Path(folder), rows[-1].fault)
                await world.stop()
    return rows


async def one(world: World, fault: Fault, seed: int, console: Console) -> Row:
    """One row; what the harness itself can't do is the row's problem, and the next ones go on."""
    try:
        return await run_row(
            world, fault, seed=seed, folder=HISTORIES, progress=lambda line: console.print(f"[dim]  {line}[/dim]")
        )
    except Exception as error:
        console.print_exception()
        return Row(fault.name, seed, 0.0, Verdict(), None, 0.0, fault.target, {}, [f"not run: {type(error).__name__}: {error}"])


def keep_logs(folder: Path, fault: str) -> None:
    """The processes' logs of a row that failed, beside its history."""
    for log in (folder / "system" / "logs").glob("*.log"):
        target = HISTORIES / f"{fault}-logs" / log.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(log.read_bytes())


def write(rows: list[Row]) -> None:
    """All figures so far."""
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(json.dumps([row.document() for row in rows], indent=2) + "\n")


def show(console: Console, row: Row) -> None:
    """One row, as soon as it is there."""
    verdict = row.verdict
    mark = "[green]✓[/green]" if row.ok else "[red]✗[/red]"
    console.print(
        f"{mark} {row.fault}: {verdict.accepted:,} accepted, {len(verdict.lost)} lost, {verdict.duplicates} duplicates "
        f"(≤ {verdict.duplicate_bound}), {len(verdict.misdelivered)} misdelivered, recovered after {row.recovery_s} s"
    )
    for problem in row.problems:
        console.print(f"    [red]{problem}[/red]")


def table(rows: list[Row]) -> Table:
    """All rows for a person."""
    shown = Table("fault", "accepted", "lost", "duplicates", "bound", "misdelivered", "recovery s", "target s", "", box=None)
    for row in rows:
        verdict = row.verdict
        figures = (verdict.accepted, len(verdict.lost), verdict.duplicates, verdict.duplicate_bound, len(verdict.misdelivered))
        target = f"{row.target_s:.0f}" if row.target_s is not None else "–"
        shown.add_row(row.fault, *(f"{n:,}" for n in figures), str(row.recovery_s), target, "✓" if row.ok else "✗")
    return shown


def main() -> int:
    """The entry point; returns the exit status."""
    console = Console(highlight=False)
    seed = int(os.environ.get("SEED") or time.time_ns() % 1_000_000)
    faults = chosen(os.environ.get("FAULT") or "")
    scale = Scale(devices=int(os.environ.get("DEVICES") or Scale().devices))
    raise_descriptor_limit()
    console.print(f"seed {seed}, {scale.devices} devices, {len(faults)} faults")
    rows = uvloop.run(run(faults, seed, scale, console))
    console.print(table(rows))
    console.print(f"[dim]{FILE} written; histories in {HISTORIES}[/dim]")
    return 0 if all(row.ok for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
