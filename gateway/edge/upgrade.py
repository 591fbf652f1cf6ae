"""The HTTP request that becomes a WebSocket (RFC 6455 §4.2): judged as a whole, or refused with a status and a sentence."""

from __future__ import annotations

import binascii
import hashlib
import re
from base64 import b64decode, b64encode
from collections.abc import Collection
from http import HTTPStatus
from typing import Final

LIMIT: Final = 4 * 1024
"""Bytes of a request, at most: nobody unknown makes us hold more."""

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_END: Final = b"\r\n\r\n"
_NAME: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_ONCE: Final = frozenset({"host", "origin", "sec-websocket-key", "sec-websocket-version"})
SUBPROTOCOL: Final = "mqtt"


class BadRequest(Exception):
    """The request is refused: `answer` is the whole response, `reason` the counter's label."""

    def __init__(self, status: HTTPStatus, reason: str, text: str, *fields: str) -> None:
        super().__init__(text)
        self.reason = reason
        lines = (
            f"HTTP/1.1 {status.value} {status.phrase}",
            "Connection: close",
            "Content-Type: text/plain",
            f"Content-Length: {len(text) + 1}",
            *fields,
        )
        self.answer = "\r\n".join((*lines, "", f"{text}\n")).encode()


def request_end(request: bytes) -> int:
    """Where the request ends; 0 while it goes on. Raises BadRequest for what begins as none, or is too long."""
    if request[:4] != b"GET "[: len(request)]:
        raise BadRequest(HTTPStatus.BAD_REQUEST, "malformed", "a WebSocket begins with GET")
    end = request.find(_END, 0, LIMIT)
    if end < 0:
        if len(request) >= LIMIT:
            raise BadRequest(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "too_large", f"a request has {LIMIT} bytes at most")
        return 0
    return end + len(_END)


class Door:
    """Who may come in: a path, and the origins whose pages may (`*`: any). Who names no origin is no browser, and may."""

    def __init__(self, path: str, origins: Collection[str]) -> None:
        self._path = path
        self._origins = frozenset(origin.lower() for origin in origins)

    def answer(self, request: bytes) -> bytes:
        """The 101 for a whole request. Raises BadRequest. Extensions that the client offers are left out: that declines them."""
        path, fields = _parsed(request)
        if path.partition("?")[0] != self._path:
            raise BadRequest(HTTPStatus.NOT_FOUND, "path", "no such path")
        self._check_origin(fields)
        if "websocket" not in _words(fields, "upgrade") or "upgrade" not in _words(fields, "connection"):
            raise BadRequest(HTTPStatus.UPGRADE_REQUIRED, "upgrade", "a WebSocket is spoken here", "Upgrade: websocket")
        if fields.get("sec-websocket-version") != "13":
            raise BadRequest(HTTPStatus.UPGRADE_REQUIRED, "version", "WebSocket version 13", "Sec-WebSocket-Version: 13")
        if "host" not in fields:
            raise BadRequest(HTTPStatus.BAD_REQUEST, "malformed", "no Host")
        if SUBPROTOCOL not in _words(fields, "sec-websocket-protocol"):
            raise BadRequest(HTTPStatus.BAD_REQUEST, "subprotocol", "the subprotocol is mqtt (MQTT 5 section 6)")
        accept = b64encode(hashlib.sha1(_key(fields) + _GUID, usedforsecurity=False).digest()).decode()
        lines = (
            "HTTP/1.1 101 Switching Protocols",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Accept: {accept}",
            f"Sec-WebSocket-Protocol: {SUBPROTOCOL}",
        )
        return "\r\n".join((*lines, "", "")).encode()

    def _check_origin(self, fields: dict[str, str]) -> None:
        origin = fields.get("origin")
        if origin is not None and "*" not in self._origins and origin.lower() not in self._origins:
            raise BadRequest(HTTPStatus.FORBIDDEN, "origin", "pages of this origin may not connect")


def _parsed(request: bytes) -> tuple[str, dict[str, str]]:
    """The path and the fields; one that comes several times is joined by commas (RFC 9110 §5.3)."""
    first, *lines = request[: -len(_END)].split(b"\r\n")
    words = first.split(b" ")
    if len(words) != 3 or words[2] != b"HTTP/1.1" or not words[1].startswith(b"/"):
        raise BadRequest(HTTPStatus.BAD_REQUEST, "malformed", "a request line of HTTP/1.1 is expected")
    fields: dict[str, str] = {}
    for line in lines:
        raw, colon, value = line.partition(b":")
        if not colon or not _NAME.fullmatch(raw) or any(byte < 0x20 and byte != 0x09 for byte in value):
            raise BadRequest(HTTPStatus.BAD_REQUEST, "malformed", "a malformed header field")
        name, text = raw.decode().lower(), value.strip(b" \t").decode("latin-1")
        if name in fields:
            if name in _ONCE:
                raise BadRequest(HTTPStatus.BAD_REQUEST, "malformed", f"{name} twice")
            text = f"{fields[name]}, {text}"
        fields[name] = text
    return words[1].decode("latin-1"), fields


def _words(fields: dict[str, str], name: str) -> list[str]:
    return [word.strip().lower() for word in fields.get(name, "").split(",")]


def _key(fields: dict[str, str]) -> bytes:
    key = fields.get("sec-websocket-key", "").encode("latin-1")
    try:
        if len(b64decode(key, validate=True)) == 16:
            return key
    except binascii.Error:
        pass
    raise BadRequest(HTTPStatus.BAD_REQUEST, "malformed", "Sec-WebSocket-Key is 16 bytes in base64")
