"""Notices and the bodies pulled for them, against a scripted server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import mqtt5
import pytest
import pytest_asyncio
from sdk_server import Peer, Server, bound, until

from pushclient import ClientClosed, PullRefused, PullTimeout, PushClient, PushMessage

NOTICE = [("id", "m1"), ("pull", "m1"), ("size", "4")]


@pytest_asyncio.fixture
async def server() -> AsyncIterator[Server]:
    async with Server() as made:
        yield made


def send(peer: Peer, packet_id: int, properties: list[tuple[str, str]], payload: bytes = b"") -> None:
    qos = mqtt5.QoS.AT_LEAST_ONCE
    peer.send(mqtt5.PublishPacket("push/demo", payload, qos=qos, packet_id=packet_id, user_properties=properties))


async def noticed(client: PushClient, peer: Peer, *more: tuple[str, str]) -> PushMessage:
    """A notice that the application has, acknowledged."""
    send(peer, 1, [*NOTICE, *more])
    notice = await anext(client.messages(ack="manual"))
    await notice.ack()
    await peer.receive(mqtt5.PubAckPacket)
    return notice


async def test_given_a_notice_then_it_tells_what_to_pull(server: Server) -> None:
    async with bound(server) as (client, peer):
        notice = await noticed(client, peer, ("pull-after", "0.5"), ("k", "v"))
        assert (notice.pull, notice.size, notice.pull_after, notice.payload) == ("m1", 4, 0.5, b"")


@pytest.mark.parametrize(("size", "after"), [("x", "soon"), ("-1", "-1"), ("9" * 40, "nan"), ("", "1e999")])
async def test_given_a_notice_with_nonsense_then_it_says_nothing_of_it(server: Server, size: str, after: str) -> None:
    async with bound(server) as (client, peer):
        send(peer, 1, [("id", "m1"), ("pull", "m1"), ("size", size), ("pull-after", after)])
        notice = await anext(client.messages(ack="manual"))
        assert (notice.size, notice.pull_after) == (None, 0.0)


async def test_given_a_notice_when_pulled_then_the_body_is_the_callers_to_acknowledge(server: Server) -> None:
    async with bound(server) as (client, peer):
        notice = await noticed(client, peer)
        pulling = asyncio.ensure_future(client.pull(notice))
        asked = await peer.receive(mqtt5.PublishPacket)
        assert (asked.topic, asked.payload, asked.user_properties) == ("pull/demo", b"", [("id", "m1")])
        send(peer, 2, [("id", "m1")], b"body")
        peer.send(mqtt5.PubAckPacket(asked.packet_id or 0))
        body = await pulling
        assert (body.payload, body.pull, body.settled) == (b"body", None, False)
        await body.ack()
        assert (await peer.receive(mqtt5.PubAckPacket)).packet_id == 2
        send(peer, 3, [("id", "m2")], b"next")
        assert (await anext(client.messages(ack="manual"))).id == "m2"  # the body is no message of its own


async def test_given_the_puback_first_when_pulled_then_the_body_is_waited_for(server: Server) -> None:
    async with bound(server) as (client, peer):
        notice = await noticed(client, peer)
        pulling = asyncio.ensure_future(client.pull(notice))
        asked = await peer.receive(mqtt5.PublishPacket)
        peer.send(mqtt5.PubAckPacket(asked.packet_id or 0))
        await asyncio.sleep(0.02)
        assert not pulling.done()
        send(peer, 2, [("id", "m1")], b"body")
        assert (await pulling).payload == b"body"


async def test_given_a_wish_to_wait_when_pulled_then_it_is_counted_from_the_arrival(server: Server) -> None:
    async with bound(server) as (client, peer):
        notice = await noticed(client, peer, ("pull-after", "0.1"))
        loop = asyncio.get_running_loop()
        pulling = asyncio.ensure_future(client.pull(notice))
        await peer.receive(mqtt5.PublishPacket)
        assert 0.1 <= loop.time() - notice.arrived < 2
        pulling.cancel()


async def test_given_a_refusal_when_pulled_then_it_is_told(server: Server) -> None:
    async with bound(server) as (client, peer):
        notice = await noticed(client, peer)
        pulling = asyncio.ensure_future(client.pull(notice))
        asked = await peer.receive(mqtt5.PublishPacket)
        code = mqtt5.PubAckReasonCode.IMPLEMENTATION_SPECIFIC_ERROR
        peer.send(mqtt5.PubAckPacket(asked.packet_id or 0, reason_code=code, reason_str="not pending"))
        with pytest.raises(PullRefused, match="not pending") as raised:
            await pulling
        assert raised.value.code == 0x83


async def test_given_a_body_that_has_come_when_the_resent_pull_is_refused_then_it_is_the_result(server: Server) -> None:
    async with bound(server, session_expiry=60) as (client, peer):
        notice = await noticed(client, peer)
        pulling = asyncio.ensure_future(client.pull(notice))
        await peer.receive(mqtt5.PublishPacket)
        peer.cut()
        again = await server.peer(session_present=True)
        asked = await again.receive(mqtt5.PublishPacket)
        assert asked.duplicate
        send(again, 2, [("id", "m1")], b"body")
        code = mqtt5.PubAckReasonCode.IMPLEMENTATION_SPECIFIC_ERROR
        again.send(mqtt5.PubAckPacket(asked.packet_id or 0, reason_code=code))
        assert (await pulling).payload == b"body"


async def test_given_a_pull_that_was_given_up_when_the_body_comes_then_it_is_a_message(server: Server) -> None:
    async with bound(server) as (client, peer):
        notice = await noticed(client, peer)
        with pytest.raises(PullTimeout):
            await client.pull(notice, timeout=0.02)
        send(peer, 2, [("id", "m1")], b"body")
        message = await anext(client.messages(ack="manual"))
        assert (message.payload, message.settled) == (b"body", False)


async def test_given_two_pulls_of_one_body_then_both_get_it(server: Server) -> None:
    async with bound(server) as (client, peer):
        notice = await noticed(client, peer)
        both = [asyncio.ensure_future(client.pull(notice)) for _ in range(2)]
        await peer.receive(mqtt5.PublishPacket)
        send(peer, 2, [("id", "m1")], b"body")
        one, other = await asyncio.gather(*both)
        assert one is other


async def test_given_a_body_in_hand_when_it_comes_again_then_its_puback_goes_where_it_is_waited_for(server: Server) -> None:
    async with bound(server, session_expiry=60) as (client, peer):
        notice = await noticed(client, peer)
        pulling = asyncio.ensure_future(client.pull(notice))
        await peer.receive(mqtt5.PublishPacket)
        send(peer, 2, [("id", "m1")], b"body")
        body = await pulling
        peer.cut()
        again = await server.peer(session_present=True)
        send(again, 2, [("id", "m1")], b"body")
        await until(lambda: client.stats.duplicates == 1)
        await body.ack()
        assert (await again.receive(mqtt5.PubAckPacket)).packet_id == 2


async def test_given_a_body_that_was_settled_when_pulled_again_then_it_comes_and_is_answered(server: Server) -> None:
    async with bound(server) as (client, peer):
        notice = await noticed(client, peer)
        for packet_id in (2, 3):
            pulling = asyncio.ensure_future(client.pull(notice))
            asked = await peer.receive(mqtt5.PublishPacket)
            send(peer, packet_id, [("id", "m1")], b"body")
            peer.send(mqtt5.PubAckPacket(asked.packet_id or 0))
            body = await pulling
            await body.ack()
            assert (await peer.receive(mqtt5.PubAckPacket)).packet_id == packet_id
        assert body.settled


async def test_given_a_new_session_when_the_notice_comes_again_then_it_is_shown_once_more(server: Server) -> None:
    async with bound(server) as (client, peer):
        await noticed(client, peer)
        peer.cut()
        again = await server.peer()
        await again.grant()
        send(again, 1, NOTICE)
        assert (await anext(client.messages(ack="manual"))).pull == "m1"


async def test_given_a_notice_whose_puback_was_lost_when_it_comes_again_then_it_is_only_answered(server: Server) -> None:
    async with bound(server, session_expiry=60) as (client, peer):
        await noticed(client, peer)
        peer.cut()
        again = await server.peer(session_present=True)
        qos = mqtt5.QoS.AT_LEAST_ONCE
        again.send(mqtt5.PublishPacket("push/demo", b"", qos=qos, packet_id=1, duplicate=True, user_properties=NOTICE))
        assert (await again.receive(mqtt5.PubAckPacket)).packet_id == 1
        assert client.stats.duplicates == 1


async def test_given_a_body_lost_with_its_session_when_noticed_again_then_it_is_asked_for_again(server: Server) -> None:
    async with bound(server) as (client, peer):
        notice = await noticed(client, peer)
        pulling = asyncio.ensure_future(client.pull(notice))
        asked = await peer.receive(mqtt5.PublishPacket)
        peer.send(mqtt5.PubAckPacket(asked.packet_id or 0))
        await asyncio.sleep(0.02)
        peer.cut()
        again = await server.peer()
        await again.grant()
        send(again, 1, NOTICE)
        assert (await again.receive(mqtt5.PubAckPacket)).packet_id == 1
        await again.receive(mqtt5.PublishPacket)
        send(again, 2, [("id", "m1")], b"body")
        assert (await pulling).payload == b"body"


async def test_given_a_message_with_its_body_when_pulled_then_it_is_an_error(server: Server) -> None:
    async with bound(server) as (client, peer):
        send(peer, 1, [("id", "m1")], b"x")
        message = await anext(client.messages(ack="manual"))
        with pytest.raises(ValueError, match="no notice"):
            await client.pull(message)


async def test_given_a_client_that_is_closed_when_pulling_then_the_call_ends(server: Server) -> None:
    waiting: list[Any] = []
    async with bound(server) as (client, peer):
        notice = await noticed(client, peer)
        waiting.append(asyncio.ensure_future(client.pull(notice)))
        await peer.receive(mqtt5.PublishPacket)
    with pytest.raises(ClientClosed):
        await waiting[0]
