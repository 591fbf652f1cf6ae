"""`pushctl up --detach` and `down`: the supervisor in a session of its own, found again by its system file."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from infra.agent import ProcessFailed
from infra.ops.up import AlreadyUp
from infra.settings import Settings
from infra.system import System, read

START: Final = 180.0
STOP: Final = 60.0
POLL: Final = 0.1


async def start_detached(settings: Settings, rooms: int, note: Callable[[str], None]) -> System:
    """Start `pushctl up` and return when its system file is there; `note` gets its lines meanwhile.

    Raises AlreadyUp, ProcessFailed (with the log's name) or TimeoutError after `START` seconds.
    """
    data = settings.data.absolute()
    if (other := read(data)) is not None:
        raise AlreadyUp(f"a system runs in {data} already (pid {other.pid}); stop it with: pushctl down --data {data}")
    data.mkdir(parents=True, exist_ok=True, mode=0o700)
    log = data / "logs" / "up.log"
    log.parent.mkdir(exist_ok=True)
    command = [sys.executable, "-P", "-m", "cli", "up", "--rooms", str(rooms), "--data", str(data)]
    with log.open("wb") as output:
        child = subprocess.Popen(  # noqa: ASYNC220 - it must outlive this loop
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    try:
        async with asyncio.timeout(START):
            return await _until_ready(child, data, log, note)
    except TimeoutError:
        child.terminate()
        raise TimeoutError(f"it was not ready within {START:.0f} s; the log is {log}") from None


async def _until_ready(child: subprocess.Popen[bytes], data: Path, log: Path, note: Callable[[str], None]) -> System:
    shown = 0
    while True:
        lines = log.read_text(errors="replace").splitlines()  # noqa: ASYNC240 - a few lines, and nothing else runs here
        for line in lines[shown:]:
            if not line.startswith("ready:"):
                note(line)
        shown = len(lines)
        if (system := read(data)) is not None:
            return system
        if child.poll() is not None:
            raise ProcessFailed(f"it ended while starting; the log is {log}")
        await asyncio.sleep(POLL)


async def stop_detached(system: System) -> None:
    """SIGTERM, and wait until it has ended; raises TimeoutError after `STOP` seconds, with the log's name."""
    os.kill(system.pid, signal.SIGTERM)
    try:
        async with asyncio.timeout(STOP):
            while read(Path(system.data)) is not None or _exists(system.pid):  # noqa: ASYNC110 - another process gives no event
                await asyncio.sleep(POLL)
    except TimeoutError:
        raise TimeoutError(f"pid {system.pid} did not end within {STOP:.0f} s; its log is {system.logs}/up.log") from None


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
