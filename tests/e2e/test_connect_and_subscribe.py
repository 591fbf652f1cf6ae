"""CONNECT and SUBSCRIBE in one segment, on the real system: let in and bound in one step, wherever the client was before."""

from __future__ import annotations

import asyncio

import mqtt5
import pytest
from system import PRODUCT, Stand, Wire, claims, eventually, signed, unique

from pushclient import PushClient

pytestmark = [pytest.mark.xdist_group("demo"), pytest.mark.timeout(120)]


async def test_given_both_at_once_then_what_waits_comes_with_the_answers_in_this_room_and_after_it_in_another(
    system: Stand,
) -> None:
    client = unique("both")
    connect = mqtt5.ConnectPacket(client, password=signed(system, claims(client)))
    filters = [mqtt5.TopicFilter(f"push/{PRODUCT}", max_qos=mqtt5.QoS.AT_LEAST_ONCE)]
    hello = connect.write() + mqtt5.SubscribePacket(1, filters).write()
    for place, room in enumerate(system.address.rooms):  # in the second one the session is elsewhere
        await system.send(client, f"waiting {place}")

        async def waits() -> bool:
            return await system.pending(client) == 1

        await eventually(waits, what="the message is pending")
        async with Wire.to(room) as wire:
            wire.write(hello)
            connack, suback, waiting = [await wire.packet() for _ in range(3)]
            assert isinstance(connack, mqtt5.ConnAckPacket)
            assert (int(connack.reason_code), connack.session_present) == (0, False)
            assert isinstance(suback, mqtt5.SubAckPacket)
            assert [int(code) for code in suback.reason_codes] == [1]
            assert isinstance(waiting, mqtt5.PublishPacket)
            assert waiting.payload == b"waiting %d" % place

            await system.send(client, f"hinted {place}")
            hinted = await wire.packet()
            assert isinstance(hinted, mqtt5.PublishPacket)
            assert hinted.payload == b"hinted %d" % place
            for packet in (waiting, hinted):
                assert packet.packet_id is not None
                wire.write(mqtt5.PubAckPacket(packet.packet_id).write())

            async def settled() -> bool:
                return await system.pending(client) == 0

            await eventually(settled, what="both are settled")


async def test_given_the_sdk_and_a_token_that_is_not_renewed_then_its_binds_come_with_connect(system: Stand) -> None:
    got: list[str] = []
    client = unique("sdk")
    room = system.room
    push = PushClient(
        client_id=client,
        token=system.token(client),
        servers=[(room.host, room.port)],
        session_expiry=0,
        on_message=lambda message: got.append(str(message.id)),
    )

    async def binds() -> float:
        return await system.metric("saver", "longwire_responder_items_total", endpoint="bind")

    before = await binds()
    binding = asyncio.ensure_future(push.bind(PRODUCT))
    async with push:
        await binding
        for place in range(2):
            if place:
                push.reconnect()
            message = await system.send(client, f"{place}")
            await system.settled(client, message)
            assert got[-1] == message
        assert (await binds(), push.stats.reconnects) == (before, 1)
