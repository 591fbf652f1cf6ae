"""PushClient against a scripted server: receiving and sending on one connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import mqtt5
import pytest
from sdk_server import Peer, Server, bound, connected, make_client, until

from pushclient import (
    BindRefused,
    ClientClosed,
    NotBound,
    NotConnected,
    PushClient,
    PushMessage,
    RequestTimeout,
    UplinkRefused,
)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with Server() as running:
        yield running


async def acked(peer: Peer) -> tuple[int, int]:
    packet = await peer.receive(mqtt5.PubAckPacket)
    return packet.packet_id, int(packet.reason_code)


def puback(packet_id: int | None, code: int = 0, reason: str | None = None) -> mqtt5.PubAckPacket:
    return mqtt5.PubAckPacket(packet_id or 0, reason_code=mqtt5.PubAckReasonCode(code), reason_str=reason)


def user_properties(packet: mqtt5.PublishPacket) -> dict[str, str]:
    return dict(packet.user_properties)


# --- arguments and life ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"servers": []},
        {"dispatch": "http://h"},
        {"client_id": "a b"},
        {"receive_max": 0},
        {"receive_max": 513},
        {"keep_alive": 65_536},
        {"session_expiry": -1},
        {"max_packet_size": 10},
        {"uplinks_max": 0},
        {"queue_max": 0},
        {"remember": 0},
    ],
)
async def test_given_a_wrong_argument_then_value_error(server: Server, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"."):
        make_client(server, **wrong)


async def test_given_a_client_when_it_connects_then_connect_says_who_and_where(server: Server) -> None:
    async with connected(server, network="3g", receive_max=9) as (client, peer):
        hello = peer.hello
        assert (hello.client_id, hello.password, hello.username) == ("c1", b"secret", None)
        assert (hello.clean_start, hello.session_expiry_interval, hello.keep_alive) == (True, 0, 300)
        assert (hello.receive_max, hello.topic_alias_max, hello.user_properties) == (9, 0, [("network", "3g")])
        assert client.connected


async def test_given_nothing_else_is_asked_for_then_the_session_shall_be_kept_for_a_minute(server: Server) -> None:
    client = PushClient(client_id="c1", token="secret", servers=[server.address])
    starting = asyncio.ensure_future(client.start())
    peer = await server.peer()
    await starting
    assert (peer.hello.clean_start, peer.hello.session_expiry_interval) == (True, 60)
    await client.close()


async def test_given_a_context_when_left_then_it_says_goodbye_and_ends_the_session(server: Server) -> None:
    async with connected(server, session_expiry=60) as (client, peer):
        await client.close()
        goodbye = await peer.receive(mqtt5.DisconnectPacket)
        assert (int(goodbye.reason_code), goodbye.session_expiry_interval) == (0, 0)
        await peer.gone()
        assert not client.connected
        await client.close()


async def test_given_a_closed_client_then_every_call_raises_and_messages_end(server: Server) -> None:
    async with bound(server) as (client, peer):
        peer.push("1", 1)
        await until(lambda: client.stats.received)
        waiting = [asyncio.ensure_future(client.uplink("demo", "t")), asyncio.ensure_future(client.bind("other"))]
        await peer.receive(mqtt5.PublishPacket)
        await client.close()
        for call in (*waiting, client.uplink("demo", "t"), client.bind("x"), client.start(), client.wait_connected()):
            with pytest.raises(ClientClosed):
                await call
        assert [message async for message in client.messages()] == []


async def test_given_start_is_cancelled_then_the_context_leaves_nothing_behind(server: Server) -> None:
    before = asyncio.all_tasks()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05), make_client(server):
            pytest.fail("no CONNACK was sent")
    await (await server.raw()).gone()
    assert asyncio.all_tasks() <= before | {asyncio.current_task()}


async def test_given_an_idle_connected_client_then_it_has_no_task(server: Server) -> None:
    async with connected(server):
        await until(lambda: not [task for task in asyncio.all_tasks() if task.get_name() == "push c1"])


# --- binds -------------------------------------------------------------------------------------------------------------


async def test_given_a_bind_with_groups_then_one_subscribe_and_the_lowest_granted_qos(server: Server) -> None:
    async with connected(server) as (client, peer):
        binding = asyncio.ensure_future(client.bind("demo", groups=("news", "vip")))
        asked = await peer.grant(1, 0, 1)
        assert [f.pattern for f in asked.topic_filters] == ["push/demo", "push/demo/news", "push/demo/vip"]
        assert {int(f.max_qos) for f in asked.topic_filters} == {1}
        assert await binding == 0
        assert await client.bind("demo", groups=("news",)) == 0, "settled: no second SUBSCRIBE"


async def test_given_a_refused_group_then_bind_refused_names_it_and_the_rest_stays(server: Server) -> None:
    async with connected(server) as (client, peer):
        binding = asyncio.ensure_future(client.bind("demo", groups=("vip",)))
        await peer.grant(1, 0x87)
        with pytest.raises(BindRefused, match=r"push/demo/vip \(0x87\)") as raised:
            await binding
        assert raised.value.refused == {"push/demo/vip": 0x87}
        assert await client.bind("demo") == 1


async def test_given_unbind_then_the_product_and_its_groups_are_left(server: Server) -> None:
    async with connected(server) as (client, peer):
        binding = asyncio.ensure_future(client.bind("demo", groups=("news",)))
        await peer.grant()
        await binding
        leaving = asyncio.ensure_future(client.unbind("demo"))
        asked = await peer.receive(mqtt5.UnsubscribePacket)
        assert asked.patterns == ["push/demo", "push/demo/news"]
        peer.send(mqtt5.UnsubAckPacket(asked.packet_id, [mqtt5.UnsubAckReasonCode.SUCCESS] * 2))
        await leaving
        await client.unbind("demo")
        await client.unbind("never", groups=("x",))


@pytest.mark.parametrize("name", ["", "UPPER", "a/b", "#", "+", "a" * 65, "é", "a\n"])
async def test_given_a_wrong_name_then_value_error_and_nothing_is_sent(server: Server, name: str) -> None:
    async with connected(server) as (client, _):
        for call in (client.bind(name), client.bind("demo", groups=(name,)), client.uplink("demo", name)):
            with pytest.raises(ValueError, match="does not fit"):
                await call


async def test_given_a_suback_of_the_wrong_length_then_the_connection_is_given_up(server: Server) -> None:
    async with connected(server) as (client, peer):
        binding = asyncio.ensure_future(client.bind("demo"))
        await peer.grant(1, 1)
        assert int((await peer.receive(mqtt5.DisconnectPacket)).reason_code) == 0x82
        await (await server.peer()).grant()
        assert await binding == 1
        assert client.stats.violations == 1


# --- receiving ---------------------------------------------------------------------------------------------------------


async def test_given_messages_then_each_is_acked_when_the_consumer_comes_back(server: Server) -> None:
    async with bound(server) as (client, peer), aclosing(client.messages()) as messages:
        peer.push("1", 1, b"one", properties={"k": "v"}, message_expiry_interval=9)
        peer.push("2", 0x8000, topic="push/demo/news")
        peer.push("3")
        first = await anext(messages)
        assert (first.id, first.payload, first.properties, first.qos) == ("1", b"one", {"k": "v"}, 1)
        assert client.stats.acked == 0
        second = await anext(messages)
        assert await acked(peer) == (1, 0)
        assert (second.id, second.product, second.group) == ("2", "demo", "news")
        assert (await anext(messages)).id == "3"
        assert await acked(peer) == (0x8000, 0)
        assert (client.stats.received, client.stats.acked) == (3, 2)


async def test_given_a_loop_left_with_a_message_in_hand_then_the_next_loop_begins_with_it(server: Server) -> None:
    async with bound(server) as (client, peer):
        peer.push("1", 1)
        peer.push("2", 2)
        async with aclosing(client.messages()) as messages:
            assert (await anext(messages)).id == "1"
        seen = []
        async for message in client.messages():
            seen.append(message.id)
            await message.ack()
            if len(seen) == 2:
                break
        assert seen == ["1", "2"]
        assert [await acked(peer), await acked(peer)] == [(1, 0), (2, 0)]


async def test_given_manual_acks_then_only_those_settle_and_a_rejection_says_why(server: Server) -> None:
    async with bound(server) as (client, peer), aclosing(client.messages(ack="manual")) as messages:
        peer.push("1", 1)
        peer.push("2", 2)
        first, second = await anext(messages), await anext(messages)
        await second.reject("no room", 0x97)
        await second.ack()
        rejection = await peer.receive(mqtt5.PubAckPacket)
        assert (rejection.packet_id, int(rejection.reason_code), rejection.reason_str) == (2, 0x97, "no room")
        await first.ack()
        assert await acked(peer) == (1, 0)
        assert (client.stats.acked, client.stats.rejected) == (1, 1)


async def test_given_a_settled_id_when_it_comes_again_then_it_is_acked_and_not_delivered(server: Server) -> None:
    async with bound(server) as (client, peer), aclosing(client.messages(ack="manual")) as messages:
        peer.push("1", 1)
        await (await anext(messages)).reject("", 0x80)
        assert await acked(peer) == (1, 0x80)
        peer.push("1", 2, duplicate=True)
        assert await acked(peer) == (2, 0x80), "the same answer as the first time"
        peer.push("2", 3)
        assert (await anext(messages)).id == "2"
        assert client.stats.duplicates == 1


async def test_given_a_full_queue_at_qos_0_then_the_oldest_goes_and_is_counted(server: Server) -> None:
    async with bound(server, queue_max=2) as (client, peer), aclosing(client.messages()) as messages:
        for i in range(5):
            peer.push(str(i))
        await until(lambda: client.stats.received == 5)
        assert [(await anext(messages)).id for _ in range(2)] == ["3", "4"]
        assert client.stats.dropped == 3


async def test_given_a_callback_then_it_gets_the_messages_and_an_error_leaves_one_unacked(server: Server) -> None:
    seen: list[str | None] = []

    def on_message(message: PushMessage) -> None:
        seen.append(message.id)
        if len(seen) == 1:
            raise RuntimeError("not today")

    async with bound(server, on_message=on_message) as (client, peer):
        peer.push("1", 1)
        peer.push("2", 2)
        assert await acked(peer) == (2, 0)
        peer.push("1", 1, duplicate=True)
        assert await acked(peer) == (1, 0)
        assert seen == ["1", "2", "1"]
        assert (client.stats.callback_errors, client.stats.duplicates) == (1, 0)


# --- sending -----------------------------------------------------------------------------------------------------------


async def test_given_an_uplink_then_it_returns_its_id_after_the_puback(server: Server) -> None:
    async with connected(server) as (client, peer):
        sending = asyncio.ensure_future(client.uplink("demo", "position", b"here", properties={"k": "v"}, expires_in=5))
        sent = await peer.receive(mqtt5.PublishPacket)
        assert (sent.topic, sent.payload, int(sent.qos), sent.duplicate) == ("up/demo/position", b"here", 1, False)
        assert sent.message_expiry_interval == 5
        assert not sending.done()
        peer.send(puback(sent.packet_id))
        assert user_properties(sent) == {"id": await sending, "k": "v"}


async def test_given_a_refusal_then_uplink_refused_carries_code_and_reason(server: Server) -> None:
    async with connected(server) as (client, peer):
        sending = asyncio.ensure_future(client.uplink("demo", "t", id="mine"))
        sent = await peer.receive(mqtt5.PublishPacket)
        peer.send(puback(sent.packet_id, 0x97, "slow down"))
        with pytest.raises(UplinkRefused, match="slow down") as raised:
            await sending
        assert (raised.value.code, user_properties(sent)["id"]) == (0x97, "mine")


async def test_given_the_servers_receive_maximum_then_no_more_are_on_their_way(server: Server) -> None:
    async with connected(server, {"receive_max": 2}) as (client, peer):
        sending = [asyncio.ensure_future(client.uplink("demo", "t", bytes([i]))) for i in range(3)]
        first, second = await peer.receive(mqtt5.PublishPacket), await peer.receive(mqtt5.PublishPacket)
        await client.uplink("demo", "t", b"between", qos=0)
        assert (await peer.receive(mqtt5.PublishPacket)).payload == b"between", "the third waits"
        peer.send(puback(first.packet_id))
        third = await peer.receive(mqtt5.PublishPacket)
        assert [first.payload, second.payload, third.payload] == [b"\0", b"\1", b"\2"]
        peer.send(puback(second.packet_id), puback(third.packet_id))
        await asyncio.gather(*sending)


async def test_given_a_cancelled_uplink_then_its_place_is_free_and_a_late_puback_harmless(server: Server) -> None:
    async with connected(server, uplinks_max=1) as (client, peer):
        sending = asyncio.ensure_future(client.uplink("demo", "t", b"first"))
        queued = asyncio.ensure_future(client.uplink("demo", "t", b"never"))
        first = await peer.receive(mqtt5.PublishPacket)
        queued.cancel()
        sending.cancel()
        await asyncio.wait([sending, queued])
        after = asyncio.ensure_future(client.uplink("demo", "t", b"after"))
        peer.send(puback(first.packet_id))
        second = await peer.receive(mqtt5.PublishPacket)
        assert second.payload == b"after"
        peer.send(puback(second.packet_id), puback(second.packet_id))
        await after


async def test_given_a_packet_larger_than_the_server_takes_then_uplink_refused(server: Server) -> None:
    async with connected(server, {"max_packet_size": 200}) as (client, _):
        for qos in (0, 1):
            with pytest.raises(UplinkRefused, match="this server takes 200") as raised:
                await client.uplink("demo", "t", b"x" * 200, qos=qos)
            assert raised.value.code == 0x95


async def test_given_no_connection_then_qos_0_raises_at_once(server: Server) -> None:
    client = make_client(server)
    with pytest.raises(NotConnected):
        await client.uplink("demo", "t", qos=0)
    await client.close()


@pytest.mark.parametrize("wrong", [{"id": "a b"}, {"properties": {"id": "1"}}, {"payload": b"x" * (1 << 20) + b"x"}])
async def test_given_a_wrong_uplink_then_value_error(server: Server, wrong: dict[str, Any]) -> None:
    async with connected(server) as (client, _):
        with pytest.raises(ValueError, match=r"."):
            await client.uplink("demo", "t", **wrong)


# --- requests ----------------------------------------------------------------------------------------------------------


async def ask(client: PushClient, peer: Peer, **options: Any) -> tuple[asyncio.Future[PushMessage], mqtt5.PublishPacket]:
    asking = asyncio.ensure_future(client.request("demo", "echo", b"hi", **options))
    return asking, await peer.receive(mqtt5.PublishPacket)


async def test_given_a_request_then_the_reply_with_its_correlation_data_is_its_result(server: Server) -> None:
    async with bound(server) as (client, peer), aclosing(client.messages()) as messages:
        asking, asked = await ask(client, peer)
        assert (asked.topic, asked.response_topic, int(asked.qos)) == ("up/demo/echo", "push/demo", 1)
        peer.push("other", 1, correlation_data=b"someone else's")
        peer.push("reply", 2, b"hello", correlation_data=asked.correlation_data)
        assert await acked(peer) == (2, 0)
        assert not asking.done(), "the reply overtook the PUBACK"
        peer.send(puback(asked.packet_id))
        assert (await asking).payload == b"hello"
        assert (await anext(messages)).id == "other"


async def test_given_two_requests_then_their_correlation_data_differ(server: Server) -> None:
    async with bound(server) as (client, peer):
        (one, first), (two, second) = await ask(client, peer), await ask(client, peer)
        assert first.correlation_data != second.correlation_data
        peer.send(puback(first.packet_id), puback(second.packet_id))
        peer.push("b", correlation_data=second.correlation_data, payload=b"2")
        peer.push("a", correlation_data=first.correlation_data, payload=b"1")
        assert [(await one).payload, (await two).payload] == [b"1", b"2"]


async def test_given_no_reply_in_time_then_request_timeout_and_a_late_one_is_acked_and_counted(server: Server) -> None:
    async with bound(server) as (client, peer):
        asking, asked = await ask(client, peer, timeout=0.05)
        peer.send(puback(asked.packet_id))
        with pytest.raises(RequestTimeout, match="up/demo/echo"):
            await asking
        peer.push("late", 1, correlation_data=asked.correlation_data)
        assert await acked(peer) == (1, 0)
        assert client.stats.late_replies == 1


async def test_given_a_refused_request_then_uplink_refused(server: Server) -> None:
    async with bound(server) as (client, peer):
        asking, asked = await ask(client, peer)
        peer.send(puback(asked.packet_id, 0x87))
        with pytest.raises(UplinkRefused):
            await asking


async def test_given_no_bind_then_a_request_says_so(server: Server) -> None:
    async with connected(server) as (client, _):
        with pytest.raises(NotBound, match="bind"):
            await client.request("demo", "echo")
