"""TLS 1.3 as a stage of a link, on OpenSSL's memory BIOs: it reads and writes bytes, never the socket (docs/adr/0017)."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Final, cast

HANDSHAKE: Final = 16 * 1024
"""Bytes of a peer's handshake, at most: nobody unknown makes us hold more. A client's certificate is some 1,000."""
PIECE: Final = 4 * 1024
"""Bytes that pass through a BIO at once: it keeps the memory of the largest for the life of the connection."""

_PLAIN: Final = frozenset({"HTTP_REQUEST", "HTTPS_PROXY_REQUEST", "WRONG_VERSION_NUMBER", "BAD_RECORD_TYPE"})
_VERSION: Final = frozenset({"UNSUPPORTED_PROTOCOL", "VERSION_TOO_LOW"})


class Tls:
    """`gateway.edge.stages.Stage` of a server."""

    __slots__ = ("_budget", "_in", "_out", "_tls", "ended", "open")

    name = "tls"

    def __init__(self, context: ssl.SSLContext) -> None:
        self.open = False
        self.ended: str | None = None
        self._budget = HANDSHAKE
        self._in = ssl.MemoryBIO()
        self._out = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_side=True)

    def receive(self, data: bytes) -> bytes:
        """See `gateway.edge.stages.Stage`."""
        found: list[bytes] = []
        for piece in _pieces(data):
            self._in.write(piece)
            try:
                if self.open or self._shaken(len(piece)):
                    self._read(found)
            except ssl.SSLError as error:
                self.ended = _reason(error)
            if self.ended is not None:
                break
        return found[0] if len(found) == 1 else b"".join(found)

    def _shaken(self, size: int) -> bool:
        """Go on with the handshake; is it done?"""
        self._budget -= size
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            if self._budget < 0:
                self.ended = "too_large"
            return False
        self.open = True
        return True

    def _read(self, found: list[bytes]) -> None:
        """A read that finds nothing costs an exception: mostly one is enough."""
        try:
            while self._in.pending or self._tls.pending():
                plain = self._tls.read(PIECE)
                if not plain:
                    self.ended = ""  # the peer's close_notify
                    return
                found.append(plain)
        except ssl.SSLWantReadError:
            return
        except ssl.SSLZeroReturnError:
            self.ended = ""

    def take(self) -> bytes:
        """See `gateway.edge.stages.Stage`."""
        return self._out.read()

    def wrap(self, data: bytes) -> bytes:
        """See `gateway.edge.stages.Stage`."""
        if len(data) <= PIECE:
            return self._wrapped(data)
        return b"".join(self._wrapped(piece) for piece in _pieces(data))

    def _wrapped(self, data: bytes) -> bytes:
        try:
            self._tls.write(data)
        except ssl.SSLError:  # the peer has broken it, or closed it: what is read next says so, and nobody reads what we write
            return b""
        return self._out.read()

    def farewell(self) -> bytes:
        """See `gateway.edge.stages.Stage`."""
        if self.open:
            with suppress(ssl.SSLError):  # mostly: the peer's own close_notify is not here, and not waited for
                self._tls.unwrap()
        return self._out.read()

    def names(self) -> frozenset[str]:
        """Whom the peer's verified certificate names: its common name, and its DNS names and URIs; nobody where it has none."""
        certificate = cast("dict[str, Any]", self._tls.getpeercert() or {})
        common = (value for part in certificate.get("subject", ()) for kind, value in part if kind == "commonName")
        others = (value for kind, value in certificate.get("subjectAltName", ()) if kind in ("DNS", "URI"))
        return frozenset((*common, *others))


def _pieces(data: bytes) -> Iterator[bytes]:
    return (data[at : at + PIECE] for at in range(0, len(data), PIECE)) if len(data) > PIECE else iter((data,))


def _reason(error: ssl.SSLError) -> str:
    """One of a few words for what OpenSSL says."""
    said = error.reason or ""
    if isinstance(error, ssl.SSLCertVerificationError) or "CERTIFICATE" in said:
        return "alert" if "ALERT" in said else "certificate"
    if said in _PLAIN:
        return "no_tls"
    if said in _VERSION:
        return "version"
    return "alert" if "ALERT" in said else "handshake"
