"""`make bench-center`: what center and the coordinator cost, and how fast they answer. One system, one part after the other.

BENCH_ARGS names parts to measure alone; what build/bench-center.json has of others stays. Each part is a module of its own:
`measure(world)` returns its figures, `SETTINGS` are variables of center's.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import uvloop
from rich.console import Console

from bench import center_dispatch, center_reply, center_uplinks
from bench.center_world import Failed, World
from bench.counters import save
from bench.process import raise_descriptor_limit

FILE: Final = Path("build/bench-center.json")
PARTS: Final[dict[str, Callable[[World], Awaitable[dict[str, Any]]]]] = {
    "dispatch": center_dispatch.measure,
    "reply": center_reply.measure,  # before the uplinks, of which the coordinator has some left to read when they are counted
    "uplinks": center_uplinks.measure,
}
CHANGES: Final = {"center": center_dispatch.SETTINGS}
TARGETS: Final[dict[str, tuple[str, float]]] = {
    "dispatch_per_cpu_s": ("≥", 3_000),
    "dispatch_p99_ms": ("<", 10),
    "dispatch_moved_fraction": ("≤", 0.015),
    "uplinks_per_room_cpu_s": ("≥", 15_000),
    "reply_p99_ms": ("<", 200),
}


async def run(parts: list[str], folder: Path, console: Console) -> dict[str, Any]:
    """The figures; raises Failed."""
    changes = {**CHANGES, "coordinator": center_reply.settings(center_reply.certificate(folder))}
    world, found = World(folder, changes), dict[str, Any]()
    try:
        await world.start()
        for part in parts:
            console.print(f"[dim]{part}…[/dim]")
            found |= await PARTS[part](world)
    finally:
        await world.stop()
    return found


def report(found: dict[str, Any], console: Console) -> None:
    """A line for each figure, with what is wanted of it."""
    for name, value in found.items():
        sign, target = TARGETS.get(name, ("", 0))
        wanted = f"  (wanted {sign} {target:,})" if sign else ""
        console.print(f"{name:<36} [bold]{value if isinstance(value, list) else f'{value:,}'}[/bold]{wanted}")


def main(arguments: list[str]) -> int:
    """The entry point; returns the exit status."""
    console = Console(highlight=False)
    if unknown := [name for name in arguments if name not in PARTS]:
        console.print(f"[red]no such part:[/red] {', '.join(unknown)}; there are {', '.join(PARTS)}")
        return 2
    raise_descriptor_limit()
    with tempfile.TemporaryDirectory(prefix="longwire-center-") as folder:
        try:
            found = uvloop.run(run(arguments or list(PARTS), Path(folder), console))
        except KeyboardInterrupt:
            return 130
        except (Failed, OSError) as error:
            console.print(f"[red]the benchmark failed:[/red] {error}")
            return 1
    before = json.loads(FILE.read_text()) if arguments and FILE.exists() else {}
    save(FILE, {**before, **found})
    report(found, console)
    console.print(f"[dim]{FILE} written[/dim]")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
