"""What TLS costs a room: handshakes, full and resumed, and the memory of an idle connection. TLS 1.3, P-256, one core's worth.

The client is Python's ssl, here. Handshakes are *parked*: the room is stopped while the client computes, and the client
sleeps while the room does. Two cores are often threads of one, and TLS on both at once makes each much dearer.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from bench.load import CONNACK, SOURCES, SUBACK, Address, Failed, granted
from bench.process import private_bytes, until_quiet

NAME: Final = "room.bench"
SIDE_BY_SIDE: Final = 64
PARKED: Final = 128
"""Handshakes side by side of those that are measured."""
TIMES: Final = 3
"""So many times in a sample."""
WARM: Final = 200
"""Connections that are there before memory is counted."""
WITHIN: Final = 30.0
SETTLE_S: Final = 2.5


class Certificate:
    """Self-signed, for a name, as files in a folder."""

    def __init__(self, folder: Path, host: str = NAME) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.file, self.key = folder / "room.crt", folder / "room.key"
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
        now = datetime.now(UTC)
        made = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
            .sign(key, hashes.SHA256())
        )
        self.file.write_bytes(made.public_bytes(Encoding.PEM))
        self.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))

    def environment(self) -> dict[str, str]:
        """Settings of rooms that listen for TLS beside their own port."""
        return {
            "LONGWIRE_ROOM__TLS__CERTIFICATES": json.dumps([{"certificate": str(self.file), "key": str(self.key)}]),
            "LONGWIRE_ROOM__LISTENERS": json.dumps([{"transport": "mqtts"}]),
        }


class TlsClient:
    """Connections by TLS to one port. Use as a context manager."""

    def __init__(self, address: Address, certificate: Certificate) -> None:
        self._address = address
        self._context = ssl.create_default_context(cafile=str(certificate.file))
        self._context.minimum_version = ssl.TLSVersion.TLSv1_3
        self._opened: list[ssl.SSLSocket] = []

    def __enter__(self) -> TlsClient:
        return self

    def __exit__(self, *exc: object) -> None:
        self.leave()

    def connect(self, count: int) -> list[ssl.SSLSocket]:
        """So many more, side by side, all through their handshakes. Raises Failed."""
        opened = self.begin(count)
        deadline, waiting = time.monotonic() + WITHIN, opened
        while waiting := [each for each in waiting if not _shaken(each)]:
            if time.monotonic() > deadline:
                raise Failed(f"{len(waiting)} of {count} TLS handshakes were not through within {WITHIN:.0f} s")
            time.sleep(0.001)
        return opened

    def begin(self, count: int, ticket: ssl.SSLSession | None = None) -> list[ssl.SSLSocket]:
        """So many more that have said their first word."""
        opened = [self._begin(number, ticket) for number in range(count)]
        self._opened += opened
        for each in opened:
            _shaken(each)
        return opened

    def finish(self, opened: Sequence[ssl.SSLSocket], *, resumed: bool) -> None:
        """The room has answered all of these: say the last word. Raises Failed."""
        if not all(_shaken(each) for each in opened):
            raise Failed("a TLS handshake had no answer")
        if any(each.session_reused is not resumed for each in opened):
            raise Failed(f"a TLS handshake was {'not ' if resumed else ''}resumed")

    def ticket(self) -> ssl.SSLSession:
        """Of a connection of its own, which is closed again."""
        [one] = self.connect(1)
        deadline = time.monotonic() + WITHIN
        while not (one.session and one.session.has_ticket):
            _shaken(one)
            if time.monotonic() > deadline:
                raise Failed("no TLS ticket came")
            time.sleep(0.01)
        ticket = one.session
        self.leave()
        return ticket

    def join(self, hellos: Sequence[bytes]) -> None:
        """A connection for each of them, which it begins with; all must be granted what they ask for. Raises Failed."""
        for batch in _batches(hellos):
            for one, hello in zip(self.connect(len(batch)), batch, strict=True):
                one.settimeout(WITHIN)
                one.sendall(hello)
                granted(one, (CONNACK, SUBACK), qos=0)

    def leave(self) -> None:
        """Close all."""
        for one in self._opened:
            one.close()
        self._opened = []

    def _begin(self, number: int, ticket: ssl.SSLSession | None) -> ssl.SSLSocket:
        plain = socket.create_connection(self._address, timeout=WITHIN, source_address=(f"127.0.0.{1 + number % SOURCES}", 0))
        plain.setblocking(False)
        return self._context.wrap_socket(plain, server_hostname=NAME, do_handshake_on_connect=False, session=ticket)


class Handshakes:
    """`bench.measures.Figure`: handshakes per CPU-second of the room, accept and close included."""

    def __init__(self, name: str, pid: int, client: TlsClient, *, resumed: bool) -> None:
        self.name = name
        self._pid = pid
        self._client = client
        self._resumed = resumed

    def warm_up(self) -> None:
        """One sample."""
        self.sample()

    def sample(self) -> float:
        """Until the room has let the last one go."""
        client = self._client
        ticket = client.ticket() if self._resumed else None
        before = until_quiet([self._pid])
        for _ in range(TIMES):
            with self._parked():
                opened = client.begin(PARKED, ticket)
            with self._parked():
                client.finish(opened, resumed=self._resumed)
            with self._parked():
                client.leave()
        return TIMES * PARKED / (until_quiet([self._pid]) - before)

    @contextmanager
    def _parked(self) -> Iterator[None]:
        """The room stands still meanwhile; afterwards it does all that there is to do."""
        os.kill(self._pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self._pid, signal.SIGCONT)
        until_quiet([self._pid])


def bytes_each(pid: int, client: TlsClient, hellos: Sequence[bytes]) -> float:
    """User-space bytes of an idle, authenticated, bound connection by TLS; those that came first are not counted."""
    client.join(hellos[:WARM])
    time.sleep(SETTLE_S)
    until_quiet([pid])
    before = private_bytes(pid)
    client.join(hellos[WARM:])
    time.sleep(SETTLE_S)
    until_quiet([pid])
    grown = private_bytes(pid) - before
    client.leave()
    return grown / len(hellos[WARM:])


def _batches(hellos: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    for at in range(0, len(hellos), SIDE_BY_SIDE):
        yield hellos[at : at + SIDE_BY_SIDE]


def _shaken(one: ssl.SSLSocket) -> bool:
    """Is the handshake through? What has come after it, a ticket, is taken as well."""
    try:
        one.do_handshake()
    except ssl.SSLWantReadError:
        return False
    with suppress(ssl.SSLWantReadError):
        one.read(1)
    return True
