"""Getting connected, staying so, coming back: everything between the addresses and the session."""

from __future__ import annotations

import asyncio
import inspect
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import mqtt5

from . import ending as endings
from . import protocol
from .address import Address
from .ending import Ending
from .errors import ProtocolViolation, PushError
from .link import Link, Timeouts
from .protocol import Connection, Event, Hello
from .reasons import TOKEN_EXPIRED, Verdict
from .renewal import METHOD, Renewal
from .route import Route
from .session import Session
from .state import ConnectionState, Stats

Token = str | Callable[[], str | Awaitable[str]]

KEEP_ALIVE_S = {"wifi": 480, "4g": 480, "3g": 300, "2g": 300}
DEFAULT_KEEP_ALIVE_S = 300
GHOST_S = 120.0
TAKEN_OVER = 0x8E
WITH_CONNECT = 4 * 1024
"""Bytes of CONNECT and SUBSCRIBE in one write, at most: a server says only later how large a packet may be, and takes little from
a stranger."""


@dataclass(slots=True, kw_only=True)
class Wishes:
    """What CONNECT asks for. Seconds and bytes; `keep_alive` None leaves it to the dispatcher, then to the network."""

    client_id: str
    token: Token
    network: str
    clean_start: bool
    session_expiry: int
    keep_alive: int | None
    receive_max: int
    max_packet_size: int

    def __post_init__(self) -> None:
        for name, value, most in (
            ("session_expiry", self.session_expiry, 0xFFFF_FFFF),
            ("keep_alive", self.keep_alive or 0, 65_535),
            ("receive_max", self.receive_max - 1, 511),
            ("max_packet_size", self.max_packet_size - 1_024, 0x0FFF_FFFF),
        ):
            if not 0 <= value <= most:
                raise ValueError(f"{name} {getattr(self, name)} is out of range")


class Connector:
    """One link at a time, and one task while there is none: idle, a client costs a timer."""

    def __init__(
        self,
        session: Session,
        wishes: Wishes,
        *,
        route: Route,
        stats: Stats,
        tls: ssl.SSLContext | None,
        timeouts: Timeouts,
    ) -> None:
        self._session = session
        self._wishes = wishes
        self._route = route
        self._stats = stats
        self._tls = tls
        self._timeouts = timeouts
        self._link: Link | None = None
        self._task: asyncio.Task[None] | None = None
        self._over = False
        self._kept_s = 0  # for so long the server keeps our session when the connection is lost
        self._kept_at: Address | None = None
        self._kept_until = 0.0
        self._renewal = Renewal(self._fresh_token)
        self._token = ""
        self._ghost_until = 0.0  # until then an attempt of ours that we gave up may still take our session

    # --- what the client calls --------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin, once."""
        if self._task is None and not self._over:
            self._go(0.0)

    async def close(self) -> None:
        """Say goodbye, end the session, and wait until the transport is gone."""
        self._over = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        if (link := self._link) is not None:
            expiry = 0 if self._wishes.session_expiry else None
            link.finish(endings.lost("closed"), protocol.disconnect(0, session_expiry=expiry))
            await asyncio.wait([link.gone])

    def reconnect(self, network: str | None) -> None:
        """Leave without a word and return at once, to where the session is; or end the wait between two attempts."""
        if network is not None:
            self._wishes.network = network
            self._route.network(network)
        if self._link is not None:
            self._link.finish(Ending(Verdict.MOVE, "asked to reconnect", references=(self._link.address,)))
        elif self._task is not None and not self._over:
            self._task.cancel()
            self._go(0.0)

    # --- what the link calls ----------------------------------------------------------------------------------------

    def on_event(self, link: Link, event: Event) -> None:
        """One packet of the server, or its violation."""
        if link is not self._link:
            return
        try:
            self._handle(link, event)
        except ProtocolViolation as violation:
            self._stats.violations += 1
            link.finish(endings.lost(str(violation)), protocol.disconnect(violation.code))

    def on_lost(self, link: Link, ending: Ending) -> None:
        """Once for each connection that was made."""
        if link is not self._link:
            return
        self._link = None
        self._renewal.lost()
        now, held_s = asyncio.get_running_loop().time(), 0.0
        if link.opened_at is not None:
            held_s = now - link.opened_at
            self._kept_at, self._kept_until = link.address, now + self._kept_s if ending.code is None else 0.0
        elif ending.code is None:  # it may yet read our CONNECT
            self._ghost_until = now + GHOST_S
        self._session.lost()
        if self._over:
            return
        delay = self._plan(ending, link.address, held_s)
        if delay is not None:
            self._go(delay)

    def _handle(self, link: Link, event: Event) -> None:
        if isinstance(event, ProtocolViolation):
            raise event
        if isinstance(event, mqtt5.ConnAckPacket):
            self._answered(link, event)
        elif isinstance(event, mqtt5.DisconnectPacket):
            link.finish(self._judged(endings.told(event)))
        elif isinstance(event, mqtt5.AuthPacket):
            self._stats.renewals += 1
            self._renewal.answered()
        elif not isinstance(event, mqtt5.PingRespPacket):
            self._session.received(event)

    def _answered(self, link: Link, packet: mqtt5.ConnAckPacket) -> None:
        if int(packet.reason_code):
            return link.finish(endings.told(packet))
        self._stats.connects += 1
        self._wishes.clean_start = not self._wishes.session_expiry
        granted = packet.session_expiry_interval  # absent: as it was asked for (MQTT 5, 3.2.2.3.2)
        self._kept_s = self._wishes.session_expiry if granted is None else granted
        link.opened(self._keep_alive() if packet.server_keep_alive is None else packet.server_keep_alive)
        self._session.opened(link, packet)
        if packet.authentication_method == METHOD:
            self._renewal.opened(link, self._token)
        present = packet.session_present
        return self._session.tell(
            ConnectionState(connected=True, address=link.address, text="connected", code=0, session_present=present)
        )

    def _judged(self, ending: Ending) -> Ending:
        """A token that ran out on a live connection is no refusal where the next one is fresh; nor is it another device that
        took over, but a server which had stalled, where we gave up an attempt a while ago: that is good for one return."""
        if ending.code == TAKEN_OVER and asyncio.get_running_loop().time() < self._ghost_until:
            self._ghost_until = 0.0
            return Ending(Verdict.RETURN, f"{ending.text}, perhaps by an attempt of ours", ending.code, ending.retry_after_s)
        if ending.code in TOKEN_EXPIRED and callable(self._wishes.token):
            return Ending(Verdict.RETURN, ending.text, ending.code, ending.retry_after_s)
        return ending

    # --- coming back ------------------------------------------------------------------------------------------------

    def _plan(self, ending: Ending, address: Address | None, held_s: float) -> float | None:
        """The seconds to wait before the next attempt, or None where there shall be none."""
        self._stats.failures += 1
        delay = None
        if ending.verdict is Verdict.STOP:
            self._over = True
            self._session.end(ending.error, discard=False)
        else:
            delay = self._route.ended(ending, address, held_s=held_s, resumable=self._kept_s > 0)
        self._session.tell(
            ConnectionState(connected=False, address=address, text=ending.text, code=ending.code, retry_in_s=delay)
        )
        return delay

    def _go(self, delay: float) -> None:
        self._task = asyncio.get_running_loop().create_task(self._come_back(delay), name=f"push {self._wishes.client_id}")

    async def _come_back(self, delay: float | None) -> None:
        """Until a server was reached: the rest is up to the link's events."""
        while delay is not None:
            await asyncio.sleep(delay)
            address = None
            try:
                address = await self._route.next()
                return await self._dial(address)
            except (OSError, ValueError, PushError) as error:  # a timeout and a TLS failure are OSErrors
                text = f"{address or 'dispatch'}: {str(error) or type(error).__name__}"
                ending = endings.lost(text, getattr(error, "retry_after_s", None))
            delay = self._plan(ending, address, 0.0)
        return None

    async def _dial(self, address: Address) -> None:
        """Raises OSError, PushError, or ValueError on a host or token that cannot be sent."""
        hello = await self._hello()
        first = hello.write()
        if self._may_subscribe(hello, address):
            first += self._session.binds.with_connect(WITH_CONNECT - len(first))
        connection = Connection(receive_max=self._wishes.receive_max, max_packet_size=self._wishes.max_packet_size)
        self._link = link = Link(self, address, first, connection, self._timeouts)
        try:
            async with asyncio.timeout(self._timeouts.connect):
                loop = asyncio.get_running_loop()
                await loop.create_connection(lambda: link, address.host, address.port, ssl=self._tls)
        except BaseException:
            if self._link is link:
                self._link = None
                self._session.lost()
            link.finish(endings.lost("not connected"))
            raise

    def _may_subscribe(self, hello: Hello, address: Address) -> bool:
        """With CONNECT, in one write. Not where an Authentication Method is named (MQTT 5, 3.1.2.11.9); and where the session is
        probably kept, nothing need be asked for again."""
        kept = address == self._kept_at and asyncio.get_running_loop().time() < self._kept_until
        return hello.method is None and (hello.clean_start or not kept)

    async def _hello(self) -> Hello:
        wishes = self._wishes
        self._token = await self._fresh_token()
        return Hello(
            client_id=wishes.client_id,
            token=self._token,
            network=wishes.network,
            clean_start=wishes.clean_start,
            session_expiry=wishes.session_expiry,
            keep_alive=self._keep_alive(),
            receive_max=wishes.receive_max,
            max_packet_size=wishes.max_packet_size,
            method=METHOD if callable(wishes.token) else None,
        )

    async def _fresh_token(self) -> str:
        token = self._wishes.token
        if isinstance(token, str):
            return token
        try:
            async with asyncio.timeout(self._timeouts.token):
                fresh = token()
                return str(await fresh if inspect.isawaitable(fresh) else fresh)
        except Exception as error:
            # The application's code, whatever it raises: as likely a network that is away as a mistake.
            raise PushError(f"no token: {str(error) or type(error).__name__}") from error

    def _keep_alive(self) -> int:
        if self._wishes.keep_alive is not None:
            return self._wishes.keep_alive
        return self._route.heartbeat_s or KEEP_ALIVE_S.get(self._wishes.network, DEFAULT_KEEP_ALIVE_S)
