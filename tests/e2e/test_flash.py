"""Flash disconnect, on the real system and with the SDK."""

from __future__ import annotations

import pytest
from system import PRODUCT, Stand, eventually, unique

from pushclient import ConnectionState, PushClient

pytestmark = [pytest.mark.xdist_group("demo"), pytest.mark.timeout(120)]


class _Flash:
    """A device that asks for its session to be kept, and what it saw."""

    def __init__(self, stand: Stand) -> None:
        self.client = unique("flash")
        self.got: list[str] = []
        self.states: list[ConnectionState] = []
        room = stand.room
        self.push = PushClient(
            client_id=self.client,
            token=stand.token(self.client),
            servers=[(room.host, room.port)],
            session_expiry=30,
            on_message=lambda message: self.got.append(str(message.id)),
            on_state=self.states.append,
        )

    async def blink(self) -> None:
        """Lose the socket, and wait until it is back."""
        before = len(self.states)
        self.push.reconnect()

        async def back() -> bool:
            return any(state.connected for state in self.states[before:])

        await eventually(back, what="the connection")


async def _saver_calls(stand: Stand) -> dict[str, float]:
    names = ("connect", "bind", "disconnect")
    return {name: await stand.metric("saver", "longwire_responder_items_total", endpoint=name) for name in names}


async def test_given_a_blink_when_the_device_is_back_then_its_session_is_present_and_nobody_was_asked(system: Stand) -> None:
    device = _Flash(system)
    async with device.push:
        await device.push.bind(PRODUCT)
        first = await system.send(device.client, "before")
        await system.settled(device.client, first)
        before = await _saver_calls(system)
        await device.blink()
        assert device.states[-1].session_present
        second = await system.send(device.client, "after")
        await system.settled(device.client, second)
        assert device.got == [first, second]
        assert await _saver_calls(system) == before
