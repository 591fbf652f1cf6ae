"""What the three local servers have in common: a folder, a port, a child, and when they count as ready."""

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from infra.local.errors import died, not_ready
from infra.local.folder import require_space
from infra.local.ports import HOST, PortLease
from infra.local.process import Child, Exit

Progress = Callable[[str], None]

SPACE_NEEDED = 1 << 30  # bytes free before a start
PROBE_EVERY = 0.05  # seconds
PROBE_DEADLINE = 2.0  # seconds


def silent(_line: str) -> None:
    """A `Progress` that tells nobody."""


class Broker(ABC):
    """One server on 127.0.0.1. It keeps its port and data over `stop`, `kill` and `start`; `close` gives the port back.

    Not to be shared between event loops.
    """

    name: ClassVar[str]
    start_within: ClassVar[float] = 15.0  # seconds
    stop_within: ClassVar[float] = 5.0  # seconds, then it is killed

    def __init__(self, data: Path, *, port: int = 0, progress: Progress = silent) -> None:
        """Files go to `data`/<name>; port 0 is a free one. Nothing is touched before `start`."""
        self.folder = data.absolute() / self.name
        self.log = self.folder / f"{self.name}.log"
        self.progress = progress
        self._wanted_port = port
        self._lease: PortLease | None = None
        self._child = Child(self.name, self.log)

    @property
    def port(self) -> int:
        """The port that it listens on. Raises RuntimeError before the first start and after `close`."""
        if self._lease is None:
            raise RuntimeError(f"{self.name} has no port before it is started")
        return self._lease.port

    @property
    @abstractmethod
    def endpoint(self) -> str:
        """What its clients are given."""

    @property
    def pid(self) -> int | None:
        """The running server's process id, else None."""
        return self._child.pid

    async def start(self) -> None:
        """Start it and return when it answers; nothing to do if it runs.

        Raises LocalBrokerError if it cannot run; then, and when cancelled, no process is left.
        """
        if self._child.running:
            return
        began = time.monotonic()
        self.progress(f"{self.name}: starting…")
        try:
            await self._launch()
            await self._until_ready()
        except BaseException:
            await self._child.kill()
            raise
        self.progress(f"{self.name}: ready in {time.monotonic() - began:.1f} s")

    async def stop(self) -> None:
        """Stop it cleanly, killing it after `stop_within` seconds; nothing to do if it does not run."""
        await self._child.stop(self.stop_within)

    async def kill(self) -> None:
        """SIGKILL, as a crash would be."""
        await self._child.kill()

    def pause(self) -> None:
        """SIGSTOP: connections stay open, nothing answers."""
        self._child.pause()

    def resume(self) -> None:
        """SIGCONT."""
        self._child.resume()

    async def exited(self) -> Exit:
        """Wait for the end of the process started last; `Exit.asked` tells a stop from a crash."""
        return await self._child.exited()

    def close(self) -> None:
        """Give the port back. Call when it is stopped for good."""
        if self._lease is not None:
            self._lease.close()
            self._lease = None

    @abstractmethod
    async def prepare(self) -> list[str]:
        """Write what the server reads, and return the command that starts it. Raises LocalBrokerError."""

    @abstractmethod
    async def answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Whether it serves, asked over a fresh connection. OSError, EOFError and ValueError mean that it does not."""

    async def _launch(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        require_space(self.folder, SPACE_NEEDED)
        if self._lease is None:
            self._lease = PortLease(self.name, self._wanted_port)
        command = await self.prepare()
        self._lease.hand_over()
        await self._child.start(command)

    async def _until_ready(self) -> None:
        deadline = time.monotonic() + self.start_within
        while not await self._probe():
            if not self._child.running:
                raise died(self.name, (await self.exited()).reason, self.log, self._child.tail())
            if time.monotonic() > deadline:
                raise not_ready(self.name, self.start_within, self.log, self._child.tail())
            await asyncio.sleep(PROBE_EVERY)

    async def _probe(self) -> bool:
        try:
            async with asyncio.timeout(PROBE_DEADLINE):
                reader, writer = await asyncio.open_connection(HOST, self.port)
                try:
                    return await self.answers(reader, writer)
                finally:
                    writer.close()
        except (OSError, EOFError, ValueError):  # TimeoutError is an OSError
            return False
