"""What a process has used, as Linux counts it, and on which core it runs."""

from __future__ import annotations

import contextlib
import os
import resource
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final

LOOK: Final = 0.1
QUIET: Final = 0.002
"""A process has nothing more to do when it used no more than so many seconds of CPU in `LOOK`."""
PATIENCE: Final = 60.0
PRIVATE: Final = ("Private_Clean:", "Private_Dirty:")


def cpu_seconds(pid: int) -> float:
    """User and system time of all living threads, s. From schedstat: nanoseconds, where /proc/PID/stat counts 10 ms ticks."""
    total = 0
    for thread in Path(f"/proc/{pid}/task").iterdir():
        total += int((thread / "schedstat").read_text().split()[0])
    return total / 1e9


def waited_seconds(pid: int) -> float:
    """For how long its threads could have run, and others had the core, s: what a measurement of times must not have in it."""
    return sum(int((thread / "schedstat").read_text().split()[1]) for thread in Path(f"/proc/{pid}/task").iterdir()) / 1e9


def until_quiet(pids: Collection[int]) -> float:
    """Wait until these processes have nothing more to do; returns their CPU-seconds so far. Raises TimeoutError."""
    deadline = time.monotonic() + PATIENCE
    used = sum(map(cpu_seconds, pids))
    while time.monotonic() < deadline:
        time.sleep(LOOK)
        last, used = used, sum(map(cpu_seconds, pids))
        if used - last <= QUIET:
            return used
    raise TimeoutError(f"processes {sorted(pids)} were still busy after {PATIENCE:.0f} s")


def private_bytes(pid: int) -> int:
    """Memory that only this process has (USS), bytes: nothing of the kernel's, no shared libraries."""
    lines = (line.split() for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines())
    return sum(int(fields[1]) * 1024 for fields in lines if fields[0] in PRIVATE)


def cores() -> tuple[int, frozenset[int]]:
    """(the core of what is measured, the cores of everything else); with one core both share it."""
    first, *others = sorted(os.sched_getaffinity(0))
    return first, frozenset(others or [first])


def pin(pid: int, allowed: frozenset[int]) -> None:
    """Keep all threads of a process on these cores; what it starts later inherits it."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(ProcessLookupError):  # a thread that has just ended
            os.sched_setaffinity(int(thread.name), allowed)


@contextlib.contextmanager
def before_others(pids: Collection[int]) -> Iterator[None]:
    """These run before all other processes meanwhile, where that is allowed: for times that others' work must not be part of."""
    with contextlib.suppress(PermissionError):
        for pid in pids:
            os.sched_setscheduler(pid, os.SCHED_RR, os.sched_param(1))
    try:
        yield
    finally:
        with contextlib.suppress(PermissionError):
            for pid in pids:
                os.sched_setscheduler(pid, os.SCHED_OTHER, os.sched_param(0))


@contextlib.contextmanager
def on_core(core: int) -> Iterator[None]:
    """What is started meanwhile has this core from its first instruction on: some programs count their cores only then."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, [core])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def raise_descriptor_limit() -> int:
    """Lift the soft limit of open files to the hard one; returns it."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
