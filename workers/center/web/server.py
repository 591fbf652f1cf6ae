"""uvicorn inside our own loop: our signals, our socket, our deadline."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator
from typing import Final

import uvicorn
from starlette.types import ASGIApp

from infra.lifecycle import Loops
from workers.center.web.intake import Intake

GRACE: Final = 5
"""How long requests in flight may take when the server stops, s."""
BACKLOG: Final = 1024


class _Quiet(uvicorn.Server):
    """A server that leaves the process's signals to its lifecycle, and says when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class HttpServer:
    """Serves an ASGI application on one address; port 0 is one that the kernel picks."""

    def __init__(self, app: ASGIApp, *, host: str, port: int, fail: Callable[[str], None]) -> None:
        self._host = host
        self._port = port
        self._server = _Quiet(
            uvicorn.Config(
                app,
                http=Intake,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                proxy_headers=False,  # who may say for whom he comes is listed (workers/center/dispatch/askers.py)
                server_header=False,
                backlog=BACKLOG,
                timeout_keep_alive=30,
                timeout_graceful_shutdown=GRACE,
            )
        )
        self._socket: socket.socket | None = None
        self._ended = asyncio.Event()
        self._loops = Loops(fail)

    @property
    def url(self) -> str:
        """Where it listens, once started."""
        assert self._socket is not None, "start() comes first"
        host, port = self._socket.getsockname()[:2]
        return f"http://{f'[{host}]' if ':' in host else host}:{port}"

    async def start(self) -> None:
        """Listen; raises OSError with the address if it is taken."""
        self._socket = _bind(self._host, self._port)
        self._loops.start("http", self._serve(self._socket))
        async with asyncio.timeout(10):
            await self._server.listening.wait()

    async def stop(self) -> None:
        """Stop accepting, let requests in flight end within `GRACE` seconds."""
        if self._socket is None:
            return
        self._server.should_exit = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GRACE + 1):
                await self._ended.wait()
        await self._loops.stop()
        self._socket.close()

    async def _serve(self, listening: socket.socket) -> None:
        try:
            await self._server.serve(sockets=[listening])
        finally:
            self._ended.set()


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise OSError(error.errno, f"the HTTP API can't listen on {host}:{port}: {error.strerror}") from error
    return listening
