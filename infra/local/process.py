"""One supervised child: started on a leash, its output in a file, stopped by TERM and then KILL, paused by signal."""

import asyncio
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

LEASH = Path(__file__).with_name("leash.py")
LOG_LIMIT = 8 << 20  # bytes; a longer log is set aside, once, at the next start
TAIL_BYTES = 16 << 10
# What a server needs of our environment. The rest stays here: it may hold credentials.
PASSED_ON = ("HOME", "PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "OPENSSL_CONF", "TMPDIR", "TZ")


@dataclass(frozen=True, slots=True)
class Exit:
    """How a child ended: `code` as the system gives it (negative: the signal), `asked` if it was told to."""

    name: str
    pid: int
    code: int
    asked: bool

    @property
    def reason(self) -> str:
        """A few words: "exited with code 1", "was killed by SIGKILL, as asked"."""
        how = f"exited with code {self.code}" if self.code >= 0 else f"was killed by {signal.Signals(-self.code).name}"
        return f"{how}, as asked" if self.asked else how


def server_environment() -> dict[str, str]:
    """The part of this process's environment that a server gets."""
    return {name: os.environ[name] for name in PASSED_ON if name in os.environ}


class Child:
    """At most one process at a time, in a session of its own: Ctrl-C at the terminal reaches us, and not it."""

    def __init__(self, name: str, log: Path) -> None:
        self.name = name
        self.log = log
        self._process: asyncio.subprocess.Process | None = None
        self._watch: asyncio.Task[Exit] | None = None
        self._asked = False
        self._log_start = 0

    @property
    def pid(self) -> int | None:
        """The running process's id, else None."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    @property
    def running(self) -> bool:
        """Whether a process is running (or paused)."""
        return self.pid is not None

    async def start(self, command: Sequence[str], *, env: Mapping[str, str] | None = None) -> None:
        """Start `command` (the first word is a path); its output is appended to the log.

        `env` defaults to `server_environment()`. Raises RuntimeError if one is running, OSError if none can be made.
        """
        if self.running:
            raise RuntimeError(f"{self.name} is running with pid {self.pid}; stop it before another start")
        self._prepare_log()
        self._asked = False
        leashed = (sys.executable, "-I", "-S", str(LEASH), str(os.getpid()), *command)
        with self.log.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                *leashed,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
                env=server_environment() if env is None else env,
            )
        self._watch = asyncio.create_task(self._until_exit(self._process), name=f"{self.name} exit")

    async def exited(self) -> Exit:
        """Wait for the end of the process that was started last. Raises RuntimeError if none was."""
        if self._watch is None:
            raise RuntimeError(f"{self.name} was never started")
        return await asyncio.shield(self._watch)

    async def stop(self, grace: float) -> None:
        """TERM, wait `grace` seconds, KILL. Nothing to do if it is not running."""
        if not self.running:
            return
        self._asked = True
        self._signal_all(signal.SIGTERM)
        self._signal_all(signal.SIGCONT)  # a paused process could not act on the TERM
        try:
            async with asyncio.timeout(grace):
                await self.exited()
        except TimeoutError:
            await self.kill()

    async def kill(self) -> None:
        """KILL, and wait for the end. Nothing to do if it is not running."""
        if self.running:
            self._asked = True
            self._signal_all(signal.SIGKILL)
            await self.exited()

    def pause(self) -> None:
        """Freeze it: its sockets stay open and nothing answers."""
        self._signal_all(signal.SIGSTOP)

    def resume(self) -> None:
        """Undo `pause`."""
        self._signal_all(signal.SIGCONT)

    def hang_up(self) -> None:
        """SIGHUP: it reads its files again."""
        self._signal_all(signal.SIGHUP)

    def tail(self, lines: int = 20) -> str:
        """The last lines that this start wrote to the log."""
        with self.log.open("rb") as log:
            end = log.seek(0, os.SEEK_END)
            log.seek(max(self._log_start, end - TAIL_BYTES))
            text = log.read().decode(errors="replace")
        return "\n".join(text.splitlines()[-lines:]) or "(empty)"

    def _prepare_log(self) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        if self.log.exists() and self.log.stat().st_size > LOG_LIMIT:
            self.log.replace(self.log.with_name(f"{self.log.name}.1"))
        self._log_start = self.log.stat().st_size if self.log.exists() else 0

    async def _until_exit(self, process: asyncio.subprocess.Process) -> Exit:
        code = await process.wait()
        return Exit(self.name, process.pid, code, self._asked)

    def _signal_all(self, number: signal.Signals) -> None:
        """To the whole group, of which the child is the leader: a server's own helpers end with it."""
        if self.pid is not None:
            try:
                os.killpg(self.pid, number)
            except ProcessLookupError:
                return  # it ended between the look and the signal
