"""A drain by an operator: who is sent where, how fast, and how it ends."""

from __future__ import annotations

import asyncio

import mqtt5

from gateway.evacuation import STEP_S, Evacuation
from infra.wire import Drain
from tests.unit.live_room import Live, connect, live


class SignTwin:
    def __init__(self) -> None:
        self.told: list[str] = []

    async def drain(self) -> None:
        self.told.append("draining")

    async def reopen(self) -> None:
        self.told.append("open")


def evacuation(room: Live, *elsewhere: str) -> tuple[Evacuation, SignTwin]:
    async def others() -> dict[str, list[str]]:
        return {"mqtt": list(elsewhere)}

    def fail(reason: str) -> None:
        raise AssertionError(reason)

    sign = SignTwin()
    return Evacuation(room.world.room, sign, elsewhere=others, fail=fail), sign


async def connected(room: Live, count: int) -> list[mqtt5.ConnAckPacket]:
    found = []
    for number in range(count):
        packet = await (await room.client(connect(f"c{number}"))).packet()
        assert isinstance(packet, mqtt5.ConnAckPacket)
        found.append(packet)
    return found


async def test_given_an_order_then_clients_leave_at_its_rate_for_its_addresses_and_nobody_comes_in() -> None:
    async with live() as room:
        leaving, sign = evacuation(room, "10.0.0.9:1883")
        await connected(room, 10)
        begun = asyncio.get_running_loop().time()
        reply = await leaving.obey(Drain(20, ["10.0.0.1:1883"]))
        assert (reply.status, reply.persons, sign.told) == ("ok", 10, ["draining"])
        goodbyes = [await client.packet() for client in room.clients]
        took = asyncio.get_running_loop().time() - begun
        assert 0.3 < took < 3
        for packet in goodbyes:
            assert isinstance(packet, mqtt5.DisconnectPacket)
            assert (int(packet.reason_code), packet.server_reference) == (0x9C, "10.0.0.1:1883")
        refused = await (await room.client(connect("late"))).packet()
        assert isinstance(refused, mqtt5.ConnAckPacket)
        assert int(refused.reason_code) == 0x9C
        await leaving.stop()


async def test_given_no_addresses_then_other_rooms_are_named() -> None:
    async with live() as room:
        leaving, _ = evacuation(room, "10.0.0.9:1883")
        await connected(room, 1)
        await leaving.obey(Drain(100))
        packet = await room.clients[0].packet()
        assert isinstance(packet, mqtt5.DisconnectPacket)
        assert packet.server_reference == "10.0.0.9:1883"
        await leaving.stop()


async def test_given_a_drain_that_is_stopped_then_who_is_left_stays_and_others_come_in() -> None:
    async with live() as room:
        leaving, sign = evacuation(room)
        await connected(room, 5)
        await leaving.obey(Drain(1))
        assert (await leaving.obey(Drain(0))).status == "ok"
        assert sign.told == ["draining", "open"]
        await asyncio.sleep(15 * STEP_S)
        assert room.world.room.connections == 5
        packet = await (await room.client(connect("late"))).packet()
        assert isinstance(packet, mqtt5.ConnAckPacket)
        assert int(packet.reason_code) == 0
        await leaving.stop()


async def test_given_a_room_that_ends_then_it_is_not_opened_again() -> None:
    async with live() as room:
        leaving, sign = evacuation(room)
        room.world.room.draining = room.world.room.ending = True
        assert [(await leaving.obey(Drain(rate))).status for rate in (5, 0)] == ["refused", "refused"]
        assert room.world.room.draining
        assert sign.told == []
        await leaving.stop()
