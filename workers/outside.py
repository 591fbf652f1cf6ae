"""The one way in which we call a URL that a document names: whoever may write it must not reach what we can reach.

A name is resolved when a connection is made, every address that it has must be one that may be asked, and the connection goes to
the address that was looked at (so no second answer of a name server counts); the certificate is the name's. Redirects are not
followed, proxies not used, and the answer is bounded in bytes and time. Connections are kept for the next request, and shared
only by requests to the same scheme, name and port that may reach the same networks.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Final
from urllib.parse import urlsplit

import httpcore
import httpx
from httpcore import SOCKET_OPTION
from pydantic import IPvAnyNetwork

from infra.settings import OutsideSettings
from workers.lookups import Lookups

TIMEOUT: Final = 10.0
"""Seconds for all of it, from the name to the last byte, where the caller gives none."""
IDLE: Final = 30.0
"""Seconds for which a connection that is not used is kept."""
MAX_IDLE: Final = 256
MAX_CONNECTIONS: Final = 1024
_NAT64: Final = IPv6Network("64:ff9b::/96")

Address = IPv4Address | IPv6Address
Resolve = Callable[[str, int], Awaitable[list[str]]]


class NoAnswer(Exception):
    """There is no answer, or none that can be used; the text says why, and holds no more of the URL than its host."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came: `body` is what was read of it, `whole` if that is all."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    whole: bool

    @property
    def good(self) -> bool:
        """Was it 2xx?"""
        return 200 <= self.status < 300


class Outside:
    """Calls, over connections of its own; a part of the process (infra.lifecycle.Part)."""

    def __init__(self, settings: OutsideSettings, *, resolve: Resolve | None = None, trust: ssl.SSLContext | None = None) -> None:
        """`resolve(host, port)`: its addresses, as text; raises OSError. `trust`: whose certificates are believed."""
        self._settings = settings
        self._lookups = Lookups()
        self._resolve = resolve or self._lookups.addresses
        self._trust = trust
        self._pools: dict[tuple[bool, bool], httpcore.AsyncConnectionPool] = {}

    async def start(self) -> None:
        """Nothing: connections are made when they are needed."""

    async def stop(self) -> None:
        """Close the connections, and wait for no name."""
        pools, self._pools = self._pools, {}
        for pool in pools.values():
            await pool.aclose()
        await self._lookups.stop()

    async def get(self, url: str, *, most: int) -> bytes:
        """The body of a 200 answer of at most `most` bytes. Raises NoAnswer."""
        answer = await self.ask("GET", url, most=most)
        if answer.status != httpx.codes.OK:
            raise NoAnswer(f"it answered {answer.status}")
        if not answer.whole:
            raise NoAnswer(f"its answer has more than {most} bytes")
        return answer.body

    async def ask(
        self,
        method: str,
        url: str,
        *,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        most: int,
        within: float = 0.0,
        private: bool = True,
    ) -> Answer:
        """One request and its answer, whatever its status, of which up to `most` bytes are read. Raises NoAnswer.

        `within`: seconds for all of it; `private`: may it go where the settings allow what is not public?
        """
        within = within or TIMEOUT
        where = urlsplit(url)
        sent = {"Host": where.netloc, "Accept-Encoding": "identity", "User-Agent": "longwire", **(headers or {})}
        content = body if method == "POST" else None
        try:
            async with (
                asyncio.timeout(within),
                self._pool(plain=where.scheme != "https", private=private).stream(
                    method, url, headers=list(sent.items()), content=content
                ) as response,
            ):
                return await _read(response, most)
        except TimeoutError:
            raise NoAnswer(f"no whole answer within {within:g} s") from None
        except (*_FAILURES, OSError, ValueError) as error:  # UnicodeError is a ValueError
            raise NoAnswer(f"{type(error).__name__}: {error}"[:150]) from None

    def _pool(self, *, plain: bool, private: bool) -> httpcore.AsyncConnectionPool:
        if (plain, private) not in self._pools:
            networks = self._settings.private if private else ()
            self._pools[plain, private] = httpcore.AsyncConnectionPool(
                ssl_context=self._context(),
                max_connections=MAX_CONNECTIONS,
                max_keepalive_connections=MAX_IDLE,
                keepalive_expiry=IDLE,
                network_backend=_Guarded(self._resolve, networks, plain=plain),
            )
        return self._pools[plain, private]

    def _context(self) -> ssl.SSLContext:
        if self._trust is None:
            self._trust = httpx.create_ssl_context(trust_env=False)
            if self._settings.ca is not None:
                self._trust.load_verify_locations(self._settings.ca)
        return self._trust


class _Guarded(httpcore.AsyncNetworkBackend):
    """Connects to names whose every address may be asked, by the first of them."""

    def __init__(self, resolve: Resolve, networks: Sequence[IPvAnyNetwork], *, plain: bool) -> None:
        self._resolve = resolve
        self._networks = networks
        self._plain = plain
        self._sockets = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Raises NoAnswer where one may not."""
        address = self._chosen(host, await self._resolve(host, port))
        return await self._sockets.connect_tcp(address, port, timeout, local_address, socket_options)

    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[SOCKET_OPTION] | None = None
    ) -> httpcore.AsyncNetworkStream:
        """No URL names one."""
        raise NoAnswer("a socket of this machine")

    async def sleep(self, seconds: float) -> None:
        """As the library asks."""
        await self._sockets.sleep(seconds)

    def _chosen(self, host: str, found: list[str]) -> str:
        addresses = [ip_address(text) for text in found]
        if not addresses:
            raise NoAnswer(f"{host} has no address")
        for address in addresses:
            if not may_be_asked(address, self._networks):
                raise NoAnswer(f"{host} has the address {address}, which is not a public one")
        if self._plain and not all(address.is_loopback for address in addresses):
            raise NoAnswer("only https is asked")
        return str(addresses[0])


def may_be_asked(address: Address, private: Sequence[IPvAnyNetwork]) -> bool:
    """Is this a public address, or one of these networks? Link-local ones (metadata of clouds) never are, multicast neither."""
    if isinstance(address, IPv6Address):
        inner = address.ipv4_mapped
        if inner is None and address in _NAT64:
            inner = IPv4Address(int(address) & 0xFFFF_FFFF)
        if inner is not None:
            return may_be_asked(inner, private)
        if address.sixtofour is not None or address.teredo is not None:
            return False
    if (
        address.is_multicast
        or address.is_link_local
        or address.is_unspecified
        or (address.is_reserved and not address.is_loopback)
    ):
        return False
    return address.is_global or any(address in network for network in private)


async def _read(response: httpcore.Response, most: int) -> Answer:
    """The answer, with at most `most` bytes of its body; for 0 nothing is waited for."""
    found = bytearray()
    if most:
        async for chunk in response.aiter_stream():
            found += chunk
            if len(found) > most:
                break
    headers = {name.decode("ascii", "replace").lower(): value.decode("latin-1") for name, value in response.headers}
    return Answer(response.status, headers, bytes(found[:most]), len(found) <= most)


_FAILURES: Final = (
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.TimeoutException,
    httpcore.ConnectionNotAvailable,
    httpcore.UnsupportedProtocol,
)
