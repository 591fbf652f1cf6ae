"""A TCP proxy on loopback that can be made bad while connections run through it."""

from __future__ import annotations

import asyncio
from typing import Final

from infra.local.ports import HOST

CHUNK: Final = 64 * 1024

UP: Final = "up"
DOWN: Final = "down"


class Proxy:
    """Forwards to one address. What is set applies to running connections too.

    `delay`: seconds for each chunk and way; `bandwidth`: bytes a second and way, 0 for no bound; `piece`: the most bytes in one
    write. A way that is stalled carries nothing until it is released, as a network does that drops packets; nothing is lost
    from the middle of a stream.
    """

    def __init__(self, port: int) -> None:
        """`port`: the target's, on loopback; it may change while the proxy runs."""
        self.target = port
        self.delay = 0.0
        self.bandwidth = 0
        self.piece = CHUNK
        self.refusing = False
        self.port = 0
        self._server: asyncio.Server | None = None
        self._flows = {UP: asyncio.Event(), DOWN: asyncio.Event()}
        self._pairs: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self._tasks: set[asyncio.Future[None]] = set()
        self._handlers: set[asyncio.Task[None]] = set()
        self.release()

    async def start(self) -> None:
        """Listen on a free port."""
        self._server = await asyncio.start_server(self._accepted, HOST, 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Close everything."""
        if self._server is not None:
            self._server.close()
        self.reset()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, *self._handlers, return_exceptions=True)

    def stall(self, *ways: str) -> None:
        """Carry nothing this way (both if none is named), new connections neither."""
        for way in ways or (UP, DOWN):
            self._flows[way].clear()

    def release(self) -> None:
        """Carry everything again."""
        for flow in self._flows.values():
            flow.set()

    def reset(self) -> None:
        """Abort every connection, on both sides."""
        for pair in list(self._pairs):
            for writer in pair:
                writer.transport.abort()

    def half_close(self) -> None:
        """Tell the target that nothing more comes, and go on carrying its answers."""
        for _, server in self._pairs:
            if not server.transport.is_closing():
                server.write_eof()

    @property
    def connections(self) -> int:
        """How many run through it."""
        return len(self._pairs)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._handlers.add(task)
        try:
            await self._serve(reader, writer)
        finally:
            self._handlers.discard(task)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refusing:
            writer.transport.abort()
            return
        try:
            far_reader, far_writer = await asyncio.open_connection(HOST, self.target)
        except OSError:
            writer.transport.abort()
            return
        pair = (writer, far_writer)
        self._pairs.add(pair)
        ways = [
            asyncio.ensure_future(self._carry(UP, reader, far_writer)),
            asyncio.ensure_future(self._carry(DOWN, far_reader, writer)),
        ]
        self._tasks.update(ways)
        try:
            await asyncio.wait(ways)
        finally:
            self._tasks.difference_update(ways)
            self._pairs.discard(pair)
            for side in pair:
                side.transport.abort()

    async def _carry(self, way: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(CHUNK):
                await self._flows[way].wait()
                if self.delay:
                    await asyncio.sleep(self.delay)
                for start in range(0, len(data), self.piece):
                    part = data[start : start + self.piece]
                    if self.bandwidth:
                        await asyncio.sleep(len(part) / self.bandwidth)
                    writer.write(part)
                    await writer.drain()
            if writer.can_write_eof():
                writer.write_eof()
        except (OSError, RuntimeError):  # the other side is gone
            writer.transport.abort()
