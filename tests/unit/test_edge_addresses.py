"""PITFALLS, The edge: caps by address and /64, the accept-rate bucket, denied networks. Nothing is kept of who is turned away."""

from __future__ import annotations

import asyncio

import mqtt5
from live_room import Client, Live, connect, counted, live, served

from infra.documents import Access, Policy

COUNTED = Access(uncounted=())
ATTACKER = "127.0.0.66"


async def knock(room: Live, *data: bytes, source: str = ATTACKER) -> Client | None:
    """A socket from there; None where the reset came before it was known to be open."""
    try:
        return await room.client(*data, source=source)
    except ConnectionError:
        return None


async def reset(client: Client | None) -> bool:
    return client is None or await client.closed() == b""


async def test_given_an_address_at_its_cap_then_its_further_sockets_are_reset_and_others_are_served() -> None:
    async with live(policy=Policy(connections_per_address=20), access=COUNTED, connect_timeout=30) as room, served(room):
        before = counted("turned_away", reason="address")
        flood = [await knock(room) for _ in range(100)]
        await room.until(lambda: counted("turned_away", reason="address") == before + 80)
        assert all(await asyncio.gather(*(reset(client) for client in flood[20:])))
        assert len(list(room.world.room.sessions)) == 21
        other = await room.client(connect("c2"), source="127.0.0.3")
        assert isinstance(await other.packet(), mqtt5.ConnAckPacket)
        assert flood[0] is not None
        flood[0].writer.transport.abort()
        await room.until(lambda: len(list(room.world.room.sessions)) == 21)  # the other, and one less of the attacker's
        late = await room.client(connect("c3"), source=ATTACKER)
        assert isinstance(await late.packet(), mqtt5.ConnAckPacket)


async def test_given_an_address_that_opens_sockets_too_fast_then_they_are_reset_and_others_are_served() -> None:
    policy = Policy(accepts_per_address=5, accept_burst=2, connections_per_address=1_000)
    async with live(policy=policy, access=COUNTED) as room, served(room):
        before = counted("turned_away", reason="address_rate")
        for _ in range(60):
            client = await knock(room)
            if client is not None:
                client.writer.transport.abort()
        await room.until(lambda: counted("turned_away", reason="address_rate") >= before + 20)
        other = await room.client(connect("c2"), source="127.0.0.3")
        assert isinstance(await other.packet(), mqtt5.ConnAckPacket)


async def test_given_more_sockets_than_the_room_accepts_in_a_second_then_the_rest_is_reset_and_a_later_one_is_let_in() -> None:
    async with live(policy=Policy(accept_rate=10), access=COUNTED) as room, served(room):
        before = counted("turned_away", reason="accept_rate")
        flood = [await knock(room, source=f"127.0.1.{index}") for index in range(1, 60)]
        await room.until(lambda: counted("turned_away", reason="accept_rate") > before + 20)
        assert flood[0] is not None
        await asyncio.sleep(1.1)
        late = await room.client(connect("c2"))
        assert isinstance(await late.packet(), mqtt5.ConnAckPacket)


async def test_given_a_denied_network_then_new_sockets_are_reset_old_ones_have_to_go_and_others_are_served() -> None:
    async with live(access=COUNTED) as room, served(room):
        old = await room.client(connect("c1"), source=ATTACKER)
        assert isinstance(await old.packet(), mqtt5.ConnAckPacket)
        room.world.room.load(Access.model_validate({"deny": {"networks": ["127.0.0.64/26"]}}))
        end = await old.packet()
        assert isinstance(end, mqtt5.DisconnectPacket)
        assert int(end.reason_code) == 0x98
        before = counted("turned_away", reason="denied")
        assert await reset(await knock(room, connect("c2")))
        assert counted("turned_away", reason="denied") == before + 1
