"""The devices: real SDK clients on real connections, which note everything that comes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final

from pushclient import Backoff, ConnectionState, PushClient, PushMessage
from pushclient.errors import PullRefused, PushError
from tests.chaos.history import History

PRODUCT: Final = "demo"
SECOND: Final = "chat"
"""Bound by all devices too, by some at QoS 0; some reject some of its messages."""
PRODUCTS: Final = (PRODUCT, SECOND)
REFUSED: Final = 0x83
WINDOW: Final = 32
CONNECTING: Final = 64
PULL_TIMEOUT: Final = 90.0
FLASH: Final = 30
"""Every second device asks for its session to be kept for so many seconds."""


def hash_of(client: str) -> int:
    """The same in every run."""
    return sum(client.encode())


def qos_of(client: str, product: str) -> int:
    """What a device asks for."""
    return 0 if product == SECOND and hash_of(client) % 3 == 0 else 1


def rejects(client: str, product: str, token: str) -> bool:
    """Every fifth device rejects half of what comes in the second product."""
    return product == SECOND and hash_of(client) % 5 == 0 and hash_of(token) % 2 == 0


def token_of(payload: bytes) -> str:
    """What a message is known by: its payload's first word."""
    return payload[:64].decode(errors="replace").partition(" ")[0]


class Device:
    """One device over all its connections."""

    def __init__(self, client: str, token: str, fleet: Fleet, servers: Sequence[tuple[str, int]] = ()) -> None:
        self.client = client
        self.port = 0
        self.connections = 0
        self.final = ""  # why the server told it not to come back
        self._pulls: set[asyncio.Task[None] | None] = set()
        self.got: set[str] = set()
        self._fleet = fleet
        self.push = PushClient(
            client_id=client,
            token=token,
            dispatch=None if servers else fleet.dispatch,
            servers=servers,
            backoff=Backoff(base_s=0.5, cap_s=4.0),
            session_expiry=FLASH if hash_of(client) % 2 else 0,
            receive_max=WINDOW,
            on_message=self._take,
            on_state=self._state,
            remember=8192,
        )

    def _take(self, message: PushMessage) -> None:
        if message.pull is not None:
            self._pulls.add(asyncio.create_task(self._pull(message)))
            return
        self._note(message)
        if message.settler is not None and rejects(self.client, message.product, token_of(message.payload)):
            message.settler.settle(message, REFUSED, "chaos")

    async def _pull(self, notice: PushMessage) -> None:
        """What can't be had now is noticed again by the next session, or is pending at the end."""
        try:
            body = await self.push.pull(notice, timeout=PULL_TIMEOUT)
            if not body.settled:  # else its PUBACK had been lost
                self._note(body)
                await body.ack()
        except PullRefused:
            self._fleet.note("refused", id=notice.id, client=self.client)
        except PushError:
            self._fleet.note("not-pulled", id=notice.id, client=self.client)
        finally:
            self._pulls.discard(asyncio.current_task())

    def _note(self, message: PushMessage) -> None:
        token = token_of(message.payload)
        self.got.add(token)
        self._fleet.note("got", token=token, product=message.product, id=message.id, client=self.client)

    def _state(self, state: ConnectionState) -> None:
        if not state.connected and state.retry_in_s is None:
            self.final = state.text
        if state.connected and state.address is not None:
            self.port = state.address[1]
            self.connections += 1
            self._fleet.returns.append((time.monotonic(), self.client))

    async def join(self) -> None:
        """Connect and bind."""
        await self.push.start()
        for product in PRODUCTS:
            await self.push.bind(product, qos=qos_of(self.client, product))


class Fleet:
    """All devices by client id. `history` is the present row's; `returns`: (when, who) of every connection in it."""

    def __init__(self, dispatch: str, token: Callable[[str], str]) -> None:
        self.dispatch = dispatch
        self._token = token
        self.devices: dict[str, Device] = {}
        self.history: History | None = None
        self.returns: list[tuple[float, str]] = []
        self._repeats: dict[str, int] = {}
        self._connections: dict[str, int] = {}

    def note(self, kind: str, /, **fields: object) -> None:
        """Into the present row's history."""
        if self.history is not None:
            self.history.note(kind, **fields)

    async def join(self, clients: Sequence[str], *, servers: Sequence[tuple[str, int]] = (), within: float = 120.0) -> None:
        """Connect and bind these clients, `CONNECTING` at a time; raises TimeoutError."""
        places = asyncio.Semaphore(CONNECTING)

        async def one(client: str) -> None:
            async with places:
                device = self.devices[client] = Device(client, self._token(client), self, servers)
                await device.join()

        async with asyncio.timeout(within):
            await asyncio.gather(*(one(client) for client in clients))

    async def leave(self, clients: Sequence[str]) -> None:
        """Close these devices, and forget them and what was counted of them."""
        await asyncio.gather(*(self.devices.pop(client).push.close() for client in clients))
        for client in clients:
            self._repeats.pop(client, None)
            self._connections.pop(client, None)

    def connected(self) -> int:
        """How many are connected now."""
        return sum(device.push.connected for device in self.devices.values())

    def finals(self) -> list[str]:
        """Devices that were told not to come back: a problem in every row."""
        found = [f"{client}: {device.final}" for client, device in self.devices.items() if device.final]
        return [f"{len(found)} devices were told not to come back, as {found[0]}"] if found else []

    def connections(self) -> dict[str, int]:
        """How often each device has connected."""
        return {client: device.connections for client, device in self.devices.items()}

    def begin_row(self, history: History) -> None:
        """From here on everything goes into this history; what a device's counters show counts from here."""
        self.history = history
        self.returns = []
        self._repeats = {client: device.push.stats.duplicates for client, device in self.devices.items()}
        self._connections = self.connections()

    def end_row(self, *, per_connection: int, for_all: int) -> None:
        """Note repeats, and how many each device may have had: a window (and broadcasts) for each time that it came back."""
        for client, device in self.devices.items():
            repeats = device.push.stats.duplicates - self._repeats.get(client, 0)
            if repeats:
                self.note("repeats", client=client, count=repeats)
            back = device.connections - self._connections.get(client, 1)
            if allowed := back * per_connection + for_all:
                self.note("allow", client=client, count=allowed, why=f"{back} reconnects")
            if client in self._connections:  # online from the row's begin to its end
                self.note("online", client=client, returns=back)

    async def uplink(self, client: str, uplink: str, payload: bytes) -> bool:
        """Send one uplink; True if its PUBACK came."""
        self.note("uplink", id=uplink, client=client)
        try:
            async with asyncio.timeout(90):
                await self.devices[client].push.uplink(PRODUCT, "chaos", payload, id=uplink)
        except (PushError, TimeoutError):
            return False
        self.note("puback", id=uplink, client=client)
        return True
