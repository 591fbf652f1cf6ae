"""How much memory this process has, and how much it may have: what the kernel says of both."""

from __future__ import annotations

import os
import resource
from pathlib import Path
from typing import Final

UNLIMITED: Final = 1 << 60
"""Bytes; cgroups of version 1 say "no limit" by a number about 2⁶³."""

_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


def resident(proc: Path = Path("/proc")) -> int:
    """Bytes of this process that are in memory now; where /proc has no such file, the most that there ever were."""
    try:
        return int((proc / "self" / "statm").read_text().split()[1]) * _PAGE
    except (OSError, IndexError, ValueError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def limit(root: Path = Path("/")) -> int:
    """Bytes that this process may have: the least limit of its cgroups and those around them, at most what the machine has."""
    return min((_machine(), *_cgroups(root)))


def _machine() -> int:
    return _PAGE * os.sysconf("SC_PHYS_PAGES")


def _cgroups(root: Path) -> list[int]:
    """Limits of version 2 (`0::/path`) and of version 1 (`4:memory:/path`), each folder upwards to its mount."""
    found = []
    for line in _read(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            mount, name = root / "sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            mount, name = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        folder = mount / path.lstrip("/")
        while folder.is_relative_to(mount):
            text = _read(folder / name).strip()
            if text.isdigit() and 0 < int(text) < UNLIMITED:
                found.append(int(text))
            folder = folder.parent
    return found


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""
