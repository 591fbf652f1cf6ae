"""How a room sends its clients away: in which order, how spread, and where to."""

from __future__ import annotations

from typing import Any
from unittest.mock import AsyncMock

import mqtt5
import pytest

import gateway.door
from gateway.door import DRAIN_STEPS_S, Door
from infra.settings import RoomSettings
from tests.unit.gateway_world import Device, Socket, World
from tests.unit.mqtt311_device import old_device

DRAIN_S = 10.0


class Moves:
    """A door whose time is the world's; `told` says when each client had its DISCONNECT."""

    def __init__(self, clients: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.world = World(settings=RoomSettings(drain=DRAIN_S))
        self.devices = [self.world.device(f"c{number}") for number in range(clients)]
        self.told: dict[int, float] = {}
        self.door: Any = Door.__new__(Door)
        self.door._room = self.world.room
        monkeypatch.setattr(gateway.door.asyncio, "sleep", self._sleep)

    async def _sleep(self, seconds: float) -> None:
        self._look()
        self.world.now += seconds

    def _look(self) -> None:
        for number, device in enumerate(self.devices):
            if device.socket.closed:
                self.told.setdefault(number, round(self.world.now, 3))

    async def go(self, *elsewhere: str) -> list[float]:
        await self.door._move([device.session for device in self.devices], {"mqtt": list(elsewhere)})
        self._look()
        return [self.told[number] for number in range(len(self.devices))]


def goodbye(device: Device) -> mqtt5.DisconnectPacket:
    return device.socket.one(mqtt5.DisconnectPacket)


@pytest.mark.parametrize("clients", [7, 20, 500])
async def test_given_clients_when_the_room_ends_then_they_leave_evenly_over_the_drain(
    clients: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = await Moves(clients, monkeypatch).go()
    assert times == sorted(times)
    for number, at in enumerate(times):
        assert abs(at - DRAIN_S * number / clients) <= DRAIN_STEPS_S + 1e-6


async def test_given_one_client_when_the_room_ends_then_it_leaves_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    moves = Moves(1, monkeypatch)
    assert await moves.go() == [0.0]
    assert moves.world.now == 0.0


async def test_given_other_rooms_when_clients_are_sent_away_then_each_is_told_up_to_three_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    moves = Moves(30, monkeypatch)
    rooms = [f"10.0.0.{number}:1883" for number in range(8)]
    await moves.go(*rooms)
    named = [(goodbye(device).server_reference or "").split(" ") for device in moves.devices]
    assert all(len(set(each)) == 3 and set(each) <= set(rooms) for each in named)
    assert {each[0] for each in named} != {named[0][0]}  # not all to the same
    assert [item.reason for item in moves.world.register.disconnects] == ["moving"] * 30


async def test_given_no_other_room_when_clients_are_sent_away_then_without_a_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    moves = Moves(2, monkeypatch)
    await moves.go()
    packet = goodbye(moves.devices[0])
    assert (int(packet.reason_code), packet.server_reference) == (0x9C, None)


async def test_given_clients_by_tls_when_sent_away_then_they_are_told_of_ports_with_tls(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    moves = Moves(2, monkeypatch)
    moves.devices[1].socket.transport = "mqtts"
    rooms = {"mqtt": ["10.0.0.1:1883"], "mqtts": ["10.0.0.1:8883"]}
    await moves.door._move([device.session for device in moves.devices], rooms)
    assert [goodbye(device).server_reference for device in moves.devices] == ["10.0.0.1:1883", "10.0.0.1:8883"]


async def test_given_an_acknowledgement_not_yet_saved_when_sent_away_then_the_end_carries_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    moves = Moves(1, monkeypatch)
    [device] = moves.devices
    device.subscribe("push/demo")
    assert moves.world.push(moves.world.register.store("m1", key="main:c0"), key="main:c0") == "written"
    device.socket.take()
    device.puback(1)
    await moves.go()
    assert [(ack.id, ack.state) for ack in moves.world.register.disconnects[0].acks] == [("m1", "acked")]


class Front:
    """Says which sockets were open when nobody was to come in any more."""

    def __init__(self, *sockets: Socket) -> None:
        self._sockets = sockets
        self.open_then: list[bool] = []

    def listen_no_more(self) -> bool:
        self.open_then = [not socket.closed for socket in self._sockets]
        return True

    def stop(self) -> None:
        pass


class Quiet:
    """The lease and the saver of a room that ends: done at once."""

    async def drain(self) -> None:
        pass

    async def stop(self) -> None:
        pass

    async def flush(self, seconds: float) -> bool:
        return True


async def test_given_clients_of_both_versions_when_the_room_ends_then_it_listens_no_more_before_it_closes_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(settings=RoomSettings(drain=DRAIN_S))
    old, new = old_device(world, "push/demo"), world.device("c2", "push/demo")
    monkeypatch.setattr(gateway.door.asyncio, "sleep", AsyncMock())
    front, quiet = Front(old.socket, new.socket), Quiet()
    door = Door(world.room, quiet, quiet, front, elsewhere=AsyncMock(return_value={}), fail=pytest.fail)  # type: ignore[arg-type]
    await door.stop()
    assert front.open_then == [True, True]
    assert (old.socket.closed, old.said_bytes()) == (True, b"")
    assert int(goodbye(new).reason_code) == 0x9C
