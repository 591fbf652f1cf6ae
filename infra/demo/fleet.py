"""The demo's devices: real `pushclient` devices on real TCP connections, that write down everything they get."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

from pushclient import ConnectionState, PushClient, PushMessage

CONNECTING: Final = 50
PRODUCT: Final = "demo"


class Device:
    """One device: what came, in order and with its time, also what the SDK kept from the application as a repeat."""

    def __init__(self, client: str, token: str, dispatch: str) -> None:
        self.client = client
        self.got: list[str] = []
        self.at: dict[str, float] = {}
        self.port = 0
        self.push = PushClient(
            client_id=client, token=token, dispatch=dispatch, on_message=self._take, on_state=self._state, remember=4096
        )

    def _take(self, message: PushMessage) -> None:
        if message.id is not None:
            self.got.append(message.id)
            self.at.setdefault(message.id, time.monotonic())

    def _state(self, state: ConnectionState) -> None:
        if state.connected and state.address is not None:
            self.port = state.address[1]

    async def join(self) -> None:
        """Connect by the dispatcher and bind."""
        await self.push.start()
        await self.push.bind(PRODUCT, qos=1)


class Fleet:
    """All devices by client id."""

    def __init__(self, dispatch: str, token: Callable[[str], str]) -> None:
        self._dispatch = dispatch
        self._token = token
        self.devices: dict[str, Device] = {}

    async def join(self, clients: Sequence[str], *, within: float = 60.0) -> None:
        """Connect and bind these clients, `CONNECTING` at a time; raises TimeoutError."""
        places = asyncio.Semaphore(CONNECTING)

        async def one(client: str) -> None:
            async with places:
                device = self.devices.setdefault(client, Device(client, self._token(client), self._dispatch))
                await device.join()

        async with asyncio.timeout(within):
            await asyncio.gather(*(one(client) for client in clients))

    async def leave(self) -> None:
        """Close every device."""
        await asyncio.gather(*(device.push.close() for device in self.devices.values()))

    def having(self, message: str) -> int:
        """How many devices got this message."""
        return sum(message in device.at for device in self.devices.values())

    def connected(self) -> int:
        """How many are connected now."""
        return sum(device.push.connected for device in self.devices.values())

    def on_port(self, port: int) -> list[str]:
        """The clients whose last connection was to this port."""
        return [device.client for device in self.devices.values() if device.port == port]

    def spread(self, message: str) -> float:
        """Seconds from the first to the last device that got it."""
        times = [device.at[message] for device in self.devices.values() if message in device.at]
        return max(times) - min(times) if times else 0.0

    def seen(self) -> Counter[tuple[str, str]]:
        """(message, client) → how often it came to the application: once, unless something is wrong."""
        return Counter((message, device.client) for device in self.devices.values() for message in device.got)

    def repeats(self) -> int:
        """Repeats on the wire, which the SDK recognised by their id."""
        return sum(device.push.stats.duplicates for device in self.devices.values())
