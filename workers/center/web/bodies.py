"""The bodies of requests: their size, and their time. Read behind the key, so that strangers make nobody wait for theirs; what
needs no key has none, and is answered without looking for one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from workers.center.callers.auth import is_open
from workers.center.callers.places import Places
from workers.center.web.problems import RETRY_AFTER_S, Problem

MAX_BODY: Final = 256 * 1024
BODY_TIMEOUT: Final = 10.0
"""Seconds for a whole body; for one that is streamed, between two pieces of it."""


class Streamed(NamedTuple):
    """Requests whose body is not read here: what handles them reads it piece by piece, `most` bytes of it."""

    method: str
    prefix: str
    most: int
    seconds: float

    def fits(self, scope: Scope) -> bool:
        """Is it one of these?"""
        return bool(scope["method"] == self.method and scope["path"].startswith(self.prefix))


class Large(NamedTuple):
    """Requests whose body may have more bytes, `at_once` of them at a time, of one key's `of_one`."""

    method: str
    path: str
    most: int
    at_once: int
    of_one: int

    def fits(self, scope: Scope) -> bool:
        """Is it one of these?"""
        return bool(scope["method"] == self.method and scope["path"] == self.path)


class Bodies:
    """ASGI middleware: a body over `MAX_BODY` (but for what is `large`) is 413, one that takes over `BODY_TIMEOUT` seconds 408,
    both raised as Problems.

    The body is read here, whole, so that what follows never waits for a slow sender; but for what is `streamed`.
    """

    def __init__(
        self, app: ASGIApp, *, streamed: Streamed | None = None, large: Large | None = None, timeout: float = BODY_TIMEOUT
    ) -> None:
        self._app = app
        self._streamed = streamed
        self._large = (large, Places("large bodies", most=large.at_once, of_one=large.of_one)) if large is not None else None
        self._body_timeout = timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read, and pass on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif is_open(scope["path"]):
            await self._app(scope, _replay(b"", receive), send)
        elif self._streamed is not None and self._streamed.fits(scope):
            await self._app(scope, self._bounded(self._streamed, scope, receive), send)
        elif self._large is not None and self._large[0].fits(scope):
            large, places = self._large
            full = Problem("busy", f"{large.at_once} such requests are in flight; ask again", retry_after_s=RETRY_AFTER_S)
            with places.take(scope["state"]["caller"], full):
                body = await self._read(scope, receive, large.most)
                await self._app(scope, _replay(body, receive), send)
        else:
            body = await self._read(scope, receive, MAX_BODY)
            await self._app(scope, _replay(body, receive), send)

    def _bounded(self, bounds: Streamed, scope: Scope, receive: Receive) -> Receive:
        """A `receive` that raises a Problem beyond the bounds of a streamed body."""
        _check_declared(scope, bounds.most)
        ends_at, size, more = time.monotonic() + bounds.seconds, 0, True

        async def bounded() -> Message:
            nonlocal size, more
            if not more:
                return await receive()
            try:
                async with asyncio.timeout(min(self._body_timeout, ends_at - time.monotonic())):
                    message = await receive()
            except TimeoutError:
                detail = f"no piece of the body within {self._body_timeout:g} s, or not the whole within {bounds.seconds:g} s"
                raise Problem("body-timeout", detail) from None
            size, more = size + len(message.get("body", b"")), message.get("more_body", False)
            if size > bounds.most:
                raise Problem("too-large", f"the body may have {bounds.most} bytes")
            return message

        return bounded

    async def _read(self, scope: Scope, receive: Receive, most: int) -> bytes:
        if not _check_declared(scope, most):
            return b""
        body = bytearray()
        try:
            async with asyncio.timeout(self._body_timeout):
                while True:
                    message = await receive()
                    body += message.get("body", b"")
                    if len(body) > most:
                        raise Problem("too-large", f"the body may have {most} bytes")
                    if not message.get("more_body", False):
                        return bytes(body)
        except TimeoutError:
            raise Problem("body-timeout", f"the body did not arrive within {self._body_timeout:g} s") from None


def _check_declared(scope: Scope, most: int) -> bool:
    """Is there a body at all (RFC 9112 §6.3)? Raise a Problem if its length is said to be too large, or is no number."""
    headers = dict(scope["headers"])
    declared = headers.get(b"content-length", b"0")
    if not declared.isdigit() or int(declared[:20]) > most:
        raise Problem("too-large", f"the body may have {most} bytes")
    return declared != b"0" or b"transfer-encoding" in headers


def _replay(body: bytes, receive: Receive) -> Callable[[], Awaitable[Message]]:
    """A `receive` that gives the body that was read, then what really comes (the disconnect)."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
