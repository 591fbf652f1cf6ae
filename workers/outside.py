"""GET of a URL that a document names, kept away from the inside: whoever may write it must not reach what we can reach.

The name is resolved once, every address has to be a public one, and the connection goes to the address that was looked at (so no
second answer of a name server counts); the certificate is the name's. Redirects are not followed, proxies not used, and the
answer is bounded in bytes and time.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Final

import httpx

TIMEOUT: Final = 10.0
"""Seconds for all of it, from the name to the last byte."""
_NAT64: Final = IPv6Network("64:ff9b::/96")

Resolve = Callable[[str, int], Awaitable[list[str]]]


class NotFetched(Exception):
    """Nothing was fetched; the text says why, and holds no more of the URL than its host."""


class Outside:
    """Fetches. `private`: addresses of private networks and of this machine may be asked too, and loopback ones without TLS."""

    def __init__(self, *, private: bool = False, resolve: Resolve | None = None, trust: ssl.SSLContext | None = None) -> None:
        """`resolve(host, port)`: its addresses, as text; raises OSError. `trust`: whose certificates are believed."""
        self._private = private
        self._resolve = resolve or _resolved
        self._trust = trust

    async def get(self, url: str, *, most: int) -> bytes:
        """The body of a 200 answer of at most `most` bytes. Raises NotFetched."""
        try:
            async with asyncio.timeout(TIMEOUT):
                return await self._get(httpx.URL(url), most)
        except TimeoutError:
            raise NotFetched(f"no whole answer within {TIMEOUT:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError, UnicodeError) as error:
            raise NotFetched(f"{type(error).__name__}: {error}"[:150]) from None

    async def _get(self, url: httpx.URL, most: int) -> bytes:
        port = url.port or (443 if url.scheme == "https" else 80)
        address = self._chosen(url, await self._resolve(url.host, port))
        async with (
            httpx.AsyncClient(follow_redirects=False, trust_env=False, timeout=TIMEOUT, verify=self._context()) as client,
            client.stream(
                "GET",
                url.copy_with(host=address),
                headers={"Host": url.netloc.decode(), "Accept-Encoding": "identity", "User-Agent": "longwire"},
                extensions={"sni_hostname": url.host},
            ) as answer,
        ):
            if answer.status_code != httpx.codes.OK:
                raise NotFetched(f"it answered {answer.status_code}")
            body = bytearray()
            async for chunk in answer.aiter_raw():
                body += chunk
                if len(body) > most:
                    raise NotFetched(f"its answer has more than {most} bytes")
            return bytes(body)

    def _chosen(self, url: httpx.URL, found: list[str]) -> str:
        """The first address, if all may be asked."""
        addresses = [ip_address(text) for text in found]
        if not addresses:
            raise NotFetched(f"{url.host} has no address")
        for address in addresses:
            if not may_be_asked(address, private=self._private):
                raise NotFetched(f"{url.host} has the address {address}, which is not a public one")
        if url.scheme != "https" and not (self._private and all(address.is_loopback for address in addresses)):
            raise NotFetched("only https is asked")
        return str(addresses[0])

    def _context(self) -> ssl.SSLContext:
        if self._trust is None:
            self._trust = httpx.create_ssl_context(trust_env=False)
        return self._trust


def may_be_asked(address: IPv4Address | IPv6Address, *, private: bool) -> bool:
    """Is this a public address, or with `private` one that is not? Link-local ones (metadata of clouds) never are."""
    if isinstance(address, IPv6Address):
        inner = address.ipv4_mapped
        if inner is None and address in _NAT64:
            inner = IPv4Address(int(address) & 0xFFFF_FFFF)
        if inner is not None:
            return may_be_asked(inner, private=private)
        if address.sixtofour is not None or address.teredo is not None:
            return False
    if (
        address.is_multicast
        or address.is_link_local
        or address.is_unspecified
        or (address.is_reserved and not address.is_loopback)
    ):
        return False
    return address.is_global or private


async def _resolved(host: str, port: int) -> list[str]:
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(item[4][0]) for item in found]
