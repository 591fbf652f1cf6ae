"""PushClient: one device's connection, kept."""

from __future__ import annotations

import asyncio
import ssl
import uuid
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Literal, Self

from . import pulls, topics
from .address import Address
from .backoff import Backoff
from .connector import Connector, Token, Wishes
from .dispatch import Dispatcher
from .errors import ClientClosed, NotBound, RequestTimeout
from .fetch import default_context
from .inbox import Inbox
from .link import Timeouts
from .messages import PushMessage
from .route import Route
from .session import Session
from .state import ConnectionState, Stats
from .uplinks import MAX_PAYLOAD, Content

DEFAULT_MAX_PACKET_SIZE = 64 * 1024 + 4 * 1024


class PushClient:
    """Connects, binds, receives, acknowledges, sends; and comes back after whatever the server does not call final.

    Give either `dispatch`, the base URL of the dispatcher, or `servers`, a list of (host, port). `token` is the JWT, or a
    callable (plain or async) that returns a fresh one: for each connection, and on a live one before the old one expires. Times
    are in seconds, sizes in bytes:

    - `product`, `region`: for the dispatcher: whose rooms it shall choose from, where products have rooms of their own; and where
      the device is, where its address does not say it.
    - `session_expiry`: how long the server shall keep the session while we are away; 0 ends it with the connection. The
      server may grant less.
    - `keep_alive`: what to ask for; None leaves it to the dispatcher, then to the network. The server's answer wins.
    - `receive_max`: how many QoS 1 messages may be unacknowledged, 1 to 512.
    - `queue_max`: how many QoS 0 messages may wait for a consumer; beyond it the oldest goes, counted in `stats`.
    - `remember`: how many message ids are remembered, to know a repetition.
    - `uplinks_max`: how many uplinks may be unacknowledged; further calls wait.
    - `on_message`: called with each message instead of `messages()`, and acknowledged when it returns: no task needed.

    An idle client has no task of its own: one timer, and one task only while it is not connected. All methods belong to
    the event loop's thread. Raises ValueError on a wrong argument.
    """

    def __init__(
        self,
        *,
        client_id: str,
        token: Token,
        dispatch: str | None = None,
        servers: Sequence[tuple[str, int]] = (),
        network: str = "wifi",
        product: str | None = None,
        region: str | None = None,
        session_expiry: int = 60,
        clean_start: bool = True,
        keep_alive: int | None = None,
        receive_max: int = 32,
        max_packet_size: int = DEFAULT_MAX_PACKET_SIZE,
        queue_max: int = 1_000,
        remember: int = 1_024,
        uplinks_max: int = 32,
        tls: ssl.SSLContext | bool = False,
        backoff: Backoff | None = None,
        timeouts: Timeouts | None = None,
        on_message: Callable[[PushMessage], None] | None = None,
        on_state: Callable[[ConnectionState], None] | None = None,
    ) -> None:
        if (dispatch is None) == (not servers):
            raise ValueError("give either dispatch, the dispatcher's URL, or servers, a list of (host, port)")
        wishes = Wishes(
            client_id=topics.client_id(client_id),
            token=token,
            network=network,
            clean_start=clean_start,
            session_expiry=session_expiry,
            keep_alive=keep_alive,
            receive_max=receive_max,
            max_packet_size=max_packet_size,
        )
        timeouts = timeouts or Timeouts()
        self.client_id = client_id
        self.stats = Stats()
        self._session = Session(
            inbox=Inbox(receive_max=receive_max, queue_max=queue_max, remember=remember),
            uplinks_max=uplinks_max,
            stats=self.stats,
            on_message=on_message,
            on_state=on_state,
        )
        dispatcher = None
        if dispatch is not None:
            dispatcher = Dispatcher(
                dispatch,
                client_id=client_id,
                network=network,
                timeout_s=timeouts.dispatch,
                tls=bool(tls),
                product=None if product is None else topics.product(product),
                region=None if region is None else topics.region(region),
            )
        route = Route(servers=[Address(*server) for server in servers], dispatcher=dispatcher, backoff=backoff, stats=self.stats)
        context = default_context() if tls is True else tls or None
        self._connector = Connector(self._session, wishes, route=route, stats=self.stats, tls=context, timeouts=timeouts)

    # --- life -------------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def start(self) -> None:
        """Connect, and wait until a server has accepted. Bound it with `asyncio.timeout`. Raises SessionEnded."""
        self._session.check_over()
        self._connector.start()
        await self.wait_connected()

    async def wait_connected(self) -> None:
        """Wait for a connection. Raises SessionEnded or ClientClosed where there will be none."""
        await self._session.ready.wait()
        self._session.check_over()

    async def close(self) -> None:
        """Leave, and end the session. Every waiting call raises ClientClosed; `messages()` ends. Idempotent."""
        self._session.end(lambda: ClientClosed(f"client {self.client_id} was closed"), discard=True)
        await self._connector.close()

    def reconnect(self, network: str | None = None) -> None:
        """Drop the connection without a word and come back at once: the device's network changed. The session may live.

        While the client waits between two attempts, it ends the wait. Raises SessionEnded or ClientClosed.
        """
        self._session.check_over()
        self._connector.reconnect(network)

    @property
    def connected(self) -> bool:
        return self._session.connected

    @property
    def on_state(self) -> Callable[[ConnectionState], None] | None:
        """Called at every change, and for every attempt that fails. It must not block."""
        return self._session.on_state

    @on_state.setter
    def on_state(self, callback: Callable[[ConnectionState], None] | None) -> None:
        self._session.on_state = callback

    # --- receiving --------------------------------------------------------------------------------------------------

    async def bind(self, product: str, *, groups: Sequence[str] = (), qos: Literal[0, 1] = 1) -> int:
        """Receive what is pushed to `product` and to these groups of it, on this and every later connection.

        Returns the QoS that was granted (the lowest of them): at 0 what is written to the socket counts as delivered.
        Waits for a connection if there is none; cancelled, the wish remains. Raises BindRefused for what the token does
        not cover (what was granted stays bound), SessionEnded, ClientClosed, ValueError.
        """
        if qos not in (0, 1):
            raise ValueError(f"qos {qos!r}: the server offers 0 and 1")
        wanted = dict.fromkeys([topics.push(product), *(topics.push(product, group) for group in groups)])
        granted = await self._session.binds.change(wanted, qos)
        return min(code or 0 for code in granted.values())

    async def unbind(self, product: str, *, groups: Sequence[str] | None = None) -> None:
        """Leave these groups, or with None the product and all its groups. What is pending is kept by the server."""
        if groups is None:
            leaving = self._session.binds.topics_of(topics.push(product))
        else:
            leaving = [topics.push(product, group) for group in groups]
        await self._session.binds.change(leaving, None)

    async def messages(self, *, ack: Literal["auto", "manual"] = "auto") -> AsyncGenerator[PushMessage, None]:
        """Every message once, as far as `remember` reaches, in the order of arrival.

        `auto`: a message is acknowledged when the consumer comes back for the next; one that is left in hand, by `break`
        or an exception, comes again in the next loop unless it was settled by its own `ack` or `reject`. `manual`: only
        by those two. Ends when the client is closed. Raises SessionEnded when the server said not to come back.
        """
        while True:
            try:
                message = await self._session.receiver.next()
            except ClientClosed:
                return
            if ack == "manual":
                yield message
                continue
            try:
                yield message
            except BaseException:
                self._session.receiver.put_back(message)
                raise
            await message.ack()

    async def pull(self, notice: PushMessage, *, timeout: float = 30.0) -> PushMessage:
        """The body of a notice (a message whose `pull` is set), not acknowledged: `await body.ack()` once it is processed.

        Waits as long after the notice's arrival as the server wished (`pull_after`), then until the window has a place. The body
        does not show in `messages()`. Two pulls of one body get the same message. A body whose acknowledgement was lost may
        be noticed and pulled once more: then it is `settled` already. Raises PullRefused, PullTimeout after
        `timeout` seconds, SessionEnded, ClientClosed, ValueError if the message is no notice. Where it was refused as larger
        than `max_packet_size`, the body can be had by HTTP (docs/protocol.md).
        """
        return await pulls.pull(self._session, notice, within=timeout)

    # --- sending ----------------------------------------------------------------------------------------------------

    async def uplink(
        self,
        product: str,
        kind: str,
        payload: bytes = b"",
        *,
        qos: Literal[0, 1] = 1,
        id: str | None = None,  # noqa: A002 - the word that every other side of the system uses
        properties: Mapping[str, str] | None = None,
        content_type: str | None = None,
        expires_in: int | None = None,
    ) -> str:
        """Send to the product's servers. Returns the uplink's id: `id`, or a new one.

        At QoS 1 it returns when the server has stored it, and resends under the same id, and with DUP, until then; it
        waits for a connection, and for a place among `uplinks_max`. Cancelled, it is not resent. At QoS 0 it returns
        when it is written. Raises UplinkRefused, NotConnected (QoS 0), SessionEnded, ClientClosed, ValueError.
        """
        uplink_id, user_properties = _identified(id, properties)
        content = Content(
            topic=topics.uplink(product, kind),
            payload=_checked(payload),
            properties=user_properties,
            content_type=content_type,
            expires_in=expires_in,
        )
        await (self._session.uplinks.send(content) if qos else self._session.uplinks.send_once(content))
        return uplink_id

    async def request(
        self,
        product: str,
        kind: str,
        payload: bytes = b"",
        *,
        timeout: float = 10.0,
        properties: Mapping[str, str] | None = None,
        content_type: str | None = None,
    ) -> PushMessage:
        """Send an uplink at QoS 1 and wait for the downlink that answers it; it does not show in `messages()`.

        The product must be bound: the reply comes by that bind. Raises NotBound, RequestTimeout after `timeout` seconds,
        and what `uplink` raises.
        """
        response_topic = topics.push(product)
        if not self._session.binds.wants(response_topic):
            raise NotBound(f"a reply would come on {response_topic}, which is not bound: await bind({product!r}) first")
        correlation, reply = self._session.receiver.replies.expect()
        content = Content(
            topic=topics.uplink(product, kind),
            payload=_checked(payload),
            properties=_identified(None, properties)[1],
            content_type=content_type,
            expires_in=max(1, int(timeout)),
            response_topic=response_topic,
            correlation_data=correlation,
        )
        try:
            async with asyncio.timeout(timeout):
                await self._session.uplinks.send(content)
                return await reply
        except TimeoutError as error:
            raise RequestTimeout(f"no reply to {content.topic} within {timeout:g} s") from error
        finally:
            self._session.receiver.replies.forget(correlation)


def _checked(payload: bytes) -> bytes:
    if len(payload) > MAX_PAYLOAD:
        raise ValueError(f"a payload of {len(payload)} bytes, more than {MAX_PAYLOAD}: send a reference to it instead")
    return payload


def _identified(given: str | None, properties: Mapping[str, str] | None) -> tuple[str, list[tuple[str, str]]]:
    if properties and "id" in properties:
        raise ValueError("the property 'id' is the push system's own: pass id= instead")
    uplink_id = uuid.uuid4().hex if given is None else topics.message_id(given)
    return uplink_id, [("id", uplink_id), *(properties or {}).items()]
