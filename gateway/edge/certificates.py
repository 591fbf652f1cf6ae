"""The certificates of a room's TLS ports: read from files, chosen by the name that a client asks for, read anew when they change.

A connection keeps what it began with. Files that do not hold together change nothing.
"""

from __future__ import annotations

import asyncio
import signal
import ssl
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import structlog
from cryptography import x509
from cryptography.x509.oid import NameOID
from prometheus_client import Counter

from infra.lifecycle import Loops
from infra.settings import Certificate, TlsSettings

CHECK_EVERY: Final = 60.0
"""Seconds between two looks at the files' times."""

log = structlog.get_logger("certificates")
reloads = Counter("longwire_gateway_certificate_reloads_total", "Reads of changed certificate files", ["outcome"])


class BadCertificate(ValueError):
    """Files that can't be served; the text names the file and what is wrong."""


class Contexts:
    """One state of the files: a context for ports that demand a client's certificate, and one for the others."""

    def __init__(self, settings: TlsSettings) -> None:
        """Reads all files; raises BadCertificate."""
        if not settings.certificates:
            raise BadCertificate("room.tls.certificates: none")
        self.plain = _chosen_by_name([_context(item) for item in settings.certificates])
        self.demanding: ssl.SSLContext | None = None
        if settings.client_ca is not None:
            self.demanding = _chosen_by_name([_context(item, settings.client_ca) for item in settings.certificates])


class Certificates:
    """The newest state of the files that held together. A part of the process: it looks at them every minute, and at SIGHUP."""

    def __init__(self, settings: TlsSettings, *, fail: Callable[[str], None]) -> None:
        self._settings = settings
        self._times: list[tuple[int, int] | None] = []
        self._contexts: Contexts
        self._loops = Loops(fail)

    def context(self, *, demanding: bool) -> ssl.SSLContext:
        """For a connection that begins now; `demanding`: only with a client's certificate."""
        if not demanding:
            return self._contexts.plain
        assert self._contexts.demanding is not None
        return self._contexts.demanding

    def load(self) -> None:
        """Read the files; raises BadCertificate, and then the contexts are those of before."""
        self._times = self._stat()
        self._contexts = Contexts(self._settings)

    async def start(self) -> None:
        """Read them, and begin to look for changes; raises BadCertificate."""
        self.load()
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self.reload)
        self._loops.start("certificates", self._watch())

    async def stop(self) -> None:
        """Look no more."""
        asyncio.get_running_loop().remove_signal_handler(signal.SIGHUP)
        await self._loops.stop()

    def reload(self) -> None:
        """Read the files: who connects from now on gets what they say. Tickets of before are of no use then."""
        try:
            self.load()
        except BadCertificate as error:
            reloads.labels("refused").inc()
            log.error("certificates not read: the old ones go on", reason=str(error))
        else:
            reloads.labels("read").inc()
            log.info("certificates read")

    def check(self) -> None:
        """Read them if a file has changed."""
        if self._stat() != self._times:
            self.reload()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(CHECK_EVERY)
            self.check()

    def _stat(self) -> list[tuple[int, int] | None]:
        return [_changed(path) for path in files(self._settings)]


def files(settings: TlsSettings) -> list[Path]:
    """All that is read."""
    found = [path for item in settings.certificates for path in (item.certificate, item.key) if path is not None]
    return [*found, settings.client_ca] if settings.client_ca is not None else found


def _changed(path: Path) -> tuple[int, int] | None:
    with suppress(OSError):
        status = path.stat()
        return status.st_mtime_ns, status.st_ino
    return None


def _context(item: Certificate, client_ca: Path | None = None) -> tuple[ssl.SSLContext, list[str]]:
    """A context with one certificate, and the host names of it. Raises BadCertificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 1
    context.options &= ~ssl.Options.OP_CIPHER_SERVER_PREFERENCE  # phones name AES-128 first, or ChaCha20: both cost us less
    try:
        context.load_cert_chain(item.certificate, item.key)
        names = _host_names(item.certificate.read_bytes())
    except (OSError, ValueError) as error:  # an SSLError is an OSError
        raise BadCertificate(_explained(item, error)) from error
    if client_ca is not None:
        try:
            context.load_verify_locations(client_ca)
        except OSError as error:
            raise BadCertificate(f"{client_ca}: no certificates of an authority: {_said(error)}") from error
        context.verify_mode = ssl.CERT_REQUIRED
    return context, names


def _explained(item: Certificate, error: Exception) -> str:
    key = item.key or item.certificate
    for path in (item.certificate, key):
        try:
            path.read_bytes()
        except OSError as unreadable:
            return f"{path}: {unreadable.strerror}"
    if isinstance(error, ssl.SSLError) and error.reason == "KEY_VALUES_MISMATCH":
        return f"{key}: not the key of {item.certificate}"
    return f"{item.certificate} with {key}: no certificate chain with its unencrypted key (PEM): {_said(error)}"


def _said(error: Exception) -> str:
    return getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)


def _host_names(pem: bytes) -> list[str]:
    """Of the first certificate of a file: its DNS names, else its common name. Raises ValueError."""
    certificate = x509.load_pem_x509_certificate(pem)
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        common = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        return [str(item.value).lower() for item in common]
    return [name.lower() for name in found.value.get_values_for_type(x509.DNSName)]


def _chosen_by_name(contexts: Iterable[tuple[ssl.SSLContext, list[str]]]) -> ssl.SSLContext:
    """The first context, which hands a client over to the one whose certificate has the name that it asks for (RFC 6066 §3).

    A name that no certificate has, or none, gets the first.
    """
    (first, _), *others = found = list(contexts)
    if not others:
        return first
    by_name: dict[str, ssl.SSLContext] = {}
    for context, names in found:
        for name in names:
            by_name.setdefault(name, context)

    def choose(connection: Any, name: str | None, context: ssl.SSLContext) -> None:
        if name:
            asked = name.lower()
            chosen = by_name.get(asked) or by_name.get(f"*.{asked.partition('.')[2]}")
            if chosen is not None:
                connection.context = chosen

    first.sni_callback = choose
    return first
