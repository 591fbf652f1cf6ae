"""Imported by a child at its start (the harness puts this folder on its PYTHONPATH): its wall clock can be shifted as it runs.

The file named by `CHAOS_CLOCK` holds one double, the shift in seconds, which all processes of a world see at once. Only Python's
`time.time` and `time.time_ns` are moved: the product reads no other wall clock. Monotonic clocks stay as they are.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from pathlib import Path


def _install(file: Path) -> None:
    with file.open("rb") as opened:
        shared = mmap.mmap(opened.fileno(), 8, access=mmap.ACCESS_READ)
    read, true_time, true_time_ns = struct.Struct("<d").unpack_from, time.time, time.time_ns

    def shifted() -> float:
        return true_time() + float(read(shared)[0])

    def shifted_ns() -> int:
        return true_time_ns() + int(read(shared)[0] * 1e9)

    time.time, time.time_ns = shifted, shifted_ns


if "CHAOS_CLOCK" in os.environ:
    _install(Path(os.environ["CHAOS_CLOCK"]))
