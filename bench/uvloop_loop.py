"""What the gateway is compared with: nothing but uvloop and a `transport.write` for each connection.

Prints one JSON line, {"port": …}, when it listens. Then each line on stdin is a number: so many bytes go to every connection.
Ends when stdin does.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import cast

import uvloop

from bench.process import raise_descriptor_limit

BACKLOG = 4096


class Server:
    """All connections, and the loop over them."""

    def __init__(self) -> None:
        self.transports: dict[asyncio.Transport, None] = {}
        self.ended = asyncio.Event()

    def read_orders(self) -> None:
        """Stdin has something: whole lines, as the other side writes one at a time and waits."""
        lines = os.read(sys.stdin.fileno(), 4096).split()
        if not lines:
            self.ended.set()
        for line in lines:
            data = bytes(int(line))
            for transport in self.transports:
                transport.write(data)


class Connection(asyncio.Protocol):
    """One connection: it only exists."""

    __slots__ = ("_server", "_transport")

    def __init__(self, server: Server) -> None:
        self._server = server
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A socket was accepted."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is not a subclass
        self._server.transports[self._transport] = None

    def connection_lost(self, error: Exception | None) -> None:
        """The socket is gone."""
        self._server.transports.pop(self._transport, None)


async def main() -> None:
    """Listen, and do as stdin says."""
    raise_descriptor_limit()
    loop = asyncio.get_running_loop()
    server = Server()
    listener = await loop.create_server(lambda: Connection(server), "127.0.0.1", 0, backlog=BACKLOG)
    loop.add_reader(sys.stdin.fileno(), server.read_orders)
    sys.stdout.write(json.dumps({"port": listener.sockets[0].getsockname()[1]}) + "\n")
    sys.stdout.flush()
    await server.ended.wait()


if __name__ == "__main__":
    uvloop.run(main())
