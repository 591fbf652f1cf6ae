"""NATS as this system uses it: requests to queue groups and rooms, plain hints, and KV buckets.

Everything on the bus is a hint or is retried by its sender: a message may vanish at any time (docs/design.md, principle 1). So
nothing is sent while the connection is down (nats-py would buffer it and send it stale), every inbox is bounded and says
"busy" when it is full, and a connection that is closed for ever ends the process.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import nats
import nats.errors
import nats.js.errors
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import KeyValueConfig, StorageType
from nats.js.kv import KeyValue
from nats.micro import add_service
from nats.micro.request import Request
from nats.micro.service import EndpointConfig, Service
from prometheus_client import Counter

from infra.lifecycle import Loops
from infra.settings import NatsSettings
from schemas import names

PING_INTERVAL: Final = 3
INBOX: Final = 256
"""Requests that wait for a handler, for each endpoint; beyond it the sender is told that we are busy."""
MAX_VALUE: Final = 256 * 1024
"""Bytes of a value in a KV bucket, at most."""

_BUSY: Final = "503"
_FAILED: Final = "500"

log = structlog.get_logger("bus")
dropped = Counter("longwire_bus_dropped_total", "Messages that a full inbox could not take", ["subject"])
failed = Counter("longwire_bus_handler_failures_total", "Requests whose handler raised", ["subject"])

Handler = Callable[[bytes], Awaitable[bytes]]


class BusError(Exception):
    """A request that was not answered. Nothing is known of what the receiver did: retry, it is idempotent."""


class BusDown(BusError):
    """The connection to NATS is down; nothing was sent."""


class NoResponders(BusError):
    """Nobody serves the subject now; nothing was handled."""


class BusTimeout(BusError):
    """No answer in time: the outcome is unknown."""


class Refused(BusError):
    """The receiver answered that it is busy or that its handler failed."""


class Bus:
    """One connection to NATS. `fail(reason)` is called if it is closed for ever."""

    def __init__(
        self, settings: NatsSettings, *, name: str, version: str, fail: Callable[[str], None] = lambda reason: None
    ) -> None:
        self._settings = settings
        self._name = name
        self._version = version
        self._fail = fail
        self._client = Client()
        self._service: Service | None = None
        self._loops = Loops(fail)
        self._stopping = False
        self.on_reconnect: list[Callable[[], None]] = []
        """Called after the connection came back: whoever relies on hints starts a resync."""

    @property
    def connected(self) -> bool:
        """False while the connection is down: then nothing is sent."""
        return self._client.is_connected

    async def start(self) -> None:
        """Connect; raises BusDown with the address if the server can't be reached within the request timeout."""
        try:
            async with asyncio.timeout(10):
                await self._client.connect(
                    servers=[self._settings.url],
                    name=self._name,
                    user_credentials=str(self._settings.credentials) if self._settings.credentials else None,
                    max_reconnect_attempts=-1,
                    reconnect_time_wait=1,
                    ping_interval=PING_INTERVAL,
                    max_outstanding_pings=2,
                    error_cb=self._on_error,
                    disconnected_cb=self._on_disconnected,
                    reconnected_cb=self._on_reconnected,
                    closed_cb=self._on_closed,
                )
        except Exception as error:
            raise BusDown(f"NATS at {self._settings.url} can't be reached: {type(error).__name__}: {error}") from error
        self._service = await add_service(self._client, name=self._name, version=self._version)

    async def stop(self) -> None:
        """Stop all handlers and close the connection."""
        self._stopping = True
        await self._loops.stop()
        try:
            async with asyncio.timeout(5):
                if self._service is not None and self.connected:
                    await self._service.stop()
                await self._client.close()
        except (TimeoutError, nats.errors.Error, RuntimeError):  # RuntimeError: uvloop's, of a socket that is gone
            log.warning("NATS connection not closed cleanly", connection=self._name)

    # --- sending -------------------------------------------------------------------------------------------------------

    async def request(self, subject: str, payload: bytes, *, timeout: float | None = None) -> bytes:
        """Send and wait for the answer; raises a BusError."""
        if not self.connected:
            raise BusDown(subject)
        try:
            answer = await self._client.request(subject, payload, timeout=timeout or self._settings.request_timeout)
        except nats.errors.NoRespondersError as error:
            raise NoResponders(subject) from error
        except (nats.errors.TimeoutError, TimeoutError) as error:
            raise BusTimeout(subject) from error
        except nats.errors.Error as error:
            raise BusDown(f"{subject}: {error}") from error
        if answer.headers and (code := answer.headers.get("Nats-Service-Error-Code")):
            raise Refused(f"{subject}: {code} {answer.headers.get('Nats-Service-Error', '')}")
        return answer.data

    async def publish(self, subject: str, payload: bytes) -> None:
        """Send a hint; raises BusDown if the connection is down. Call it from one task a component (PITFALLS: cancellation)."""
        if not self.connected:
            raise BusDown(subject)
        try:
            await self._client.publish(subject, payload)
        except nats.errors.Error as error:
            raise BusDown(f"{subject}: {error}") from error

    # --- serving -------------------------------------------------------------------------------------------------------

    async def serve(
        self, name: str, subject: str, handler: Handler, *, queue: str | None = None, concurrency: int = 1, inbox: int = INBOX
    ) -> None:
        """Answer requests on `subject` (as a micro endpoint `name`), `concurrency` at a time, in order for 1.

        A handler that raises is answered as failed and logged: the sender retries. A full inbox is answered as busy;
        what waited longer than senders wait is dropped, unanswered.
        """
        assert self._service is not None, "start() comes first"
        waiting: asyncio.Queue[tuple[float, Request]] = asyncio.Queue(maxsize=inbox)

        async def receive(request: Request) -> None:
            try:
                waiting.put_nowait((time.monotonic(), request))
            except asyncio.QueueFull:
                dropped.labels(name).inc()
                await self._answer_error(request, _BUSY, "busy")

        async def work() -> None:
            while True:
                since, request = await waiting.get()
                if time.monotonic() - since > self._settings.request_timeout:
                    dropped.labels(name).inc()  # its sender has given it up, and may have done something else since
                    continue
                await self._handle(name, handler, request)

        for i in range(concurrency):
            self._loops.start(f"{name}-{i}", work())
        await self._service.add_endpoint(
            EndpointConfig(name=name, subject=subject, handler=receive, queue_group=queue or f"only-{name}")
        )

    async def _handle(self, name: str, handler: Handler, request: Request) -> None:
        try:
            answer = await handler(request.data)
        except Exception as error:
            failed.labels(name).inc()
            log.warning("request failed", endpoint=name, error=type(error).__name__, text=str(error)[:200])
            await self._answer_error(request, _FAILED, type(error).__name__)
            return
        try:
            await request.respond(answer)
        except (nats.errors.Error, ValueError):
            dropped.labels(name).inc()  # the sender's timeout brings the request again

    async def _answer_error(self, request: Request, code: str, text: str) -> None:
        try:
            await request.respond_error(code, text)
        except (nats.errors.Error, ValueError):
            log.debug("no answer possible", subject=request.subject)

    async def subscribe(self, subject: str, receive: Callable[[bytes], None]) -> None:
        """Call `receive` with every hint on `subject`. It must not block, and whatever it raises is logged."""

        async def callback(message: Msg) -> None:
            try:
                receive(message.data)
            except Exception:  # an exception here would end the subscription, silently
                failed.labels(subject).inc()
                log.exception("hint not taken", subject=subject)

        await self._client.subscribe(subject, cb=callback, pending_msgs_limit=8192, pending_bytes_limit=16 * 1024 * 1024)

    # --- KV ------------------------------------------------------------------------------------------------------------

    async def bucket(self, name: str) -> KeyValue:
        """The KV bucket `name`, created (one value of history, `names.KV_TTL_S`) if it is missing; raises BusDown."""
        stream = self._client.jetstream(timeout=5)
        try:
            try:
                return await stream.key_value(name)
            except nats.js.errors.NotFoundError:
                return await stream.create_key_value(
                    KeyValueConfig(
                        bucket=name,
                        history=1,
                        storage=StorageType.FILE,
                        max_value_size=MAX_VALUE,
                        ttl=names.KV_TTL_S.get(name),
                    )
                )
        except (nats.errors.Error, TimeoutError) as error:
            raise BusDown(f"KV bucket {name}: {type(error).__name__}: {error}") from error

    async def forget(self, bucket: str, key: str, revision: int) -> None:
        """Take an entry out of a bucket without a trace, unless it was written after `revision`. Raises one of KvErrors."""
        stream = self._client.jetstream(timeout=5)
        await stream.purge_stream(f"KV_{bucket}", subject=f"$KV.{bucket}.{key}", seq=revision + 1)

    # --- the connection's own news: never raise, never block (PITFALLS) ------------------------------------------------

    async def _on_error(self, error: Exception) -> None:
        if isinstance(error, nats.errors.SlowConsumerError):
            dropped.labels(error.subject).inc()
        log.warning("NATS error", connection=self._name, error=type(error).__name__, text=str(error)[:200])

    async def _on_disconnected(self) -> None:
        if not self._stopping:
            log.warning("NATS disconnected", connection=self._name)

    async def _on_reconnected(self) -> None:
        log.info("NATS reconnected", connection=self._name)
        for call in self.on_reconnect:
            try:
                call()
            except Exception:
                log.exception("resync not started", connection=self._name)

    async def _on_closed(self) -> None:
        if not self._stopping:
            self._fail("the NATS connection is closed for ever")


KvErrors: tuple[type[Any], ...] = (nats.errors.Error, TimeoutError, BusError)
"""What a call on a bucket may raise while NATS is away."""
