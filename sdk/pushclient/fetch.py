"""One GET over HTTP/1.1 or HTTPS, small and bounded, so that a device needs no HTTP library.

One request a connection, no redirects, no compression; the answer's head and body are at most 64 KiB each.
"""

from __future__ import annotations

import asyncio
import functools
import ssl
from typing import NamedTuple
from urllib.parse import SplitResult, urlsplit

LIMIT = 64 * 1024
_SCHEMES = {"http": 80, "https": 443}


class Response(NamedTuple):
    """`headers` by lower-case name; of repeated ones the last."""

    status: int
    headers: dict[str, str]
    body: bytes


class BadResponse(Exception):
    """The peer does not speak HTTP/1.1, or said more than the limit."""


def parse_url(url: str) -> SplitResult:
    """Raises ValueError unless this is an http or https URL with a host and printable ASCII only."""
    parts = urlsplit(url)
    if parts.scheme not in _SCHEMES or not parts.hostname or not (url.isascii() and url.isprintable()) or " " in url:
        raise ValueError(f"{url[:200]!r} is not an http:// or https:// URL")
    if parts.port == 0:  # reading it also raises ValueError for one that is no number
        raise ValueError(f"{url[:200]!r} has the port 0")
    return parts


async def get(url: str, timeout_s: float) -> Response:
    """Raises BadResponse, OSError (ssl.SSLError is one) or TimeoutError; ValueError on a URL that is none."""
    parts = parse_url(url)
    async with asyncio.timeout(timeout_s):
        reader, writer = await asyncio.open_connection(
            parts.hostname, parts.port or _SCHEMES[parts.scheme], limit=LIMIT, ssl=_context(parts.scheme)
        )
        try:
            writer.write(_request(parts))
            return await _response(reader)
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError) as error:
            raise BadResponse(f"no HTTP answer of at most {LIMIT} bytes: {error}") from error
        finally:
            # Nothing is left to say on it, and a peer that does not close must not keep us.
            writer.transport.abort()


def _request(parts: SplitResult) -> bytes:
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    host = parts.netloc.rpartition("@")[2]
    return f"GET {target} HTTP/1.1\r\nHost: {host}\r\nAccept: application/json\r\nConnection: close\r\n\r\n".encode()


async def _response(reader: asyncio.StreamReader) -> Response:
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    match first.split(" ", 2):
        case [version, status, *_] if version.startswith("HTTP/1.") and status.isdecimal():
            headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            return Response(int(status), headers, await _body(reader, headers))
    raise BadResponse(f"{first[:80]!r} is no HTTP status line")


async def _body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    if headers.get("transfer-encoding", "").lower() == "chunked":
        return await _chunks(reader)
    if "content-length" in headers:
        return await reader.readexactly(_bounded(int(headers["content-length"])))
    body = bytearray()
    while part := await reader.read(LIMIT):
        _bounded(len(body) + len(part))
        body += part
    return bytes(body)


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    body = bytearray()
    while size := int((await reader.readuntil(b"\r\n")).partition(b";")[0], 16):
        _bounded(len(body) + size)
        body += (await reader.readexactly(size + 2))[:size]
    return bytes(body)


def _bounded(size: int) -> int:
    if not 0 <= size <= LIMIT:
        raise BadResponse(f"a body of {size} bytes, more than {LIMIT}")
    return size


def _context(scheme: str) -> ssl.SSLContext | None:
    return default_context() if scheme == "https" else None


@functools.cache
def default_context() -> ssl.SSLContext:
    """The system's trust store, loaded once: it takes tens of milliseconds."""
    return ssl.create_default_context()
