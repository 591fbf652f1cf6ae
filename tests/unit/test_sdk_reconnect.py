"""PushClient against a scripted server: connections that end, and what comes after."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import mqtt5
import pytest
from sdk_server import QUICK, HttpServer, Peer, Server, bound, connected, make_client, until

from pushclient import (
    Address,
    Backoff,
    BadCredentials,
    Banned,
    ClientIdNotValid,
    ConnectionState,
    Kicked,
    NotAuthorized,
    PushClient,
    SessionEnded,
    TakenOver,
    Timeouts,
)
from pushclient.client import DEFAULT_MAX_PACKET_SIZE


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with Server() as running:
        yield running


FINAL = [
    (0x85, ClientIdNotValid),
    (0x86, BadCredentials),
    (0x87, NotAuthorized),
    (0x8A, Banned),
    (0x84, SessionEnded),
]


# --- coming back -------------------------------------------------------------------------------------------------------


async def test_given_a_lost_connection_then_it_comes_back_and_binds_again_in_one_subscribe(server: Server) -> None:
    async with bound(server) as (client, peer):
        binding = asyncio.ensure_future(client.bind("demo", groups=("news",)))
        await peer.grant()
        await binding
        peer.cut()
        again = await server.peer()
        asked = await again.grant()
        assert [f.pattern for f in asked.topic_filters] == ["push/demo", "push/demo/news"]
        assert again.hello.clean_start
        await until(lambda: client.stats.reconnects == 1)


async def test_given_a_session_that_is_present_then_only_what_was_not_answered_is_asked_again(server: Server) -> None:
    async with bound(server, session_expiry=60) as (client, peer):
        assert peer.hello.clean_start
        binding = asyncio.ensure_future(client.bind("other"))
        await peer.receive(mqtt5.SubscribePacket)
        peer.cut()
        again = await server.peer(session_present=True)
        assert (again.hello.clean_start, again.hello.session_expiry_interval) == (False, 60)
        asked = await again.grant()
        assert [f.pattern for f in asked.topic_filters] == ["push/other"]
        await binding


async def test_given_a_server_that_keeps_no_session_when_the_connection_is_lost_then_another_may_serve(server: Server) -> None:
    async with Server() as other:
        servers = [server.address, other.address]
        async with connected(server, {"session_expiry_interval": 0}, session_expiry=60, servers=servers) as (_, peer):
            peer.cut()
            await other.peer()


async def test_given_a_message_seen_before_when_it_comes_again_with_the_session_then_it_is_answered_only(
    server: Server,
) -> None:
    got: list[str] = []
    async with bound(server, session_expiry=60, on_message=lambda message: got.append(str(message.id))) as (client, peer):
        peer.push("m1", 1)
        await peer.receive(mqtt5.PubAckPacket)
        peer.cut()
        again = await server.peer(session_present=True)
        again.push("m1", 1, duplicate=True)
        assert (await again.receive(mqtt5.PubAckPacket)).packet_id == 1
        assert (got, client.stats.duplicates) == (["m1"], 1)


async def test_given_a_connect_rate_when_refused_then_the_wait_is_the_servers_and_some_more(server: Server) -> None:
    states: list[ConnectionState] = []
    client = make_client(server, on_state=states.append)
    starting = asyncio.ensure_future(client.start())
    (await server.raw()).refuse(0x9F, user_properties=[("retry-after", "40")])
    await until(lambda: states)
    assert (states[0].code, 40 <= (states[0].retry_in_s or 0) <= 60) == (0x9F, True)
    starting.cancel()
    await client.close()


async def test_given_an_attempt_given_up_when_it_takes_over_later_then_the_client_comes_back_once(server: Server) -> None:
    client = make_client(server)
    starting = asyncio.ensure_future(client.start())
    (await server.raw()).cut()  # the server had our CONNECT, and said nothing
    peer = await server.peer()
    await starting
    peer.disconnect(0x8E)
    again = await server.peer()
    await until(lambda: client.connected)
    again.disconnect(0x8E)
    with pytest.raises(TakenOver):
        await anext(client.messages())
    await client.close()


async def test_given_an_unbind_while_away_then_it_is_told_to_a_session_that_is_present(server: Server) -> None:
    async with bound(server, session_expiry=60) as (client, peer):
        peer.cut()
        await until(lambda: not client.connected)
        leaving = asyncio.ensure_future(client.unbind("demo"))
        again = await server.peer(session_present=True)
        asked = await again.receive(mqtt5.UnsubscribePacket)
        again.send(mqtt5.UnsubAckPacket(asked.packet_id, [mqtt5.UnsubAckReasonCode.SUCCESS]))
        await leaving


async def test_given_an_unbind_while_away_then_a_new_session_needs_no_word_of_it(server: Server) -> None:
    async with bound(server, backoff=Backoff(base_s=0.2, cap_s=0.2, random=lambda: 1.0)) as (client, peer):
        peer.cut()
        await until(lambda: not client.connected)
        leaving = asyncio.ensure_future(client.unbind("demo"))
        again = await server.peer()
        await leaving
        binding = asyncio.ensure_future(client.bind("other"))
        assert [f.pattern for f in (await again.grant()).topic_filters] == ["push/other"]
        await binding


async def test_given_a_bind_refused_on_return_then_it_is_counted_and_not_asked_again(server: Server) -> None:
    async with bound(server) as (client, peer):
        peer.cut()
        again = await server.peer()
        await again.grant(0x87)
        await until(lambda: client.stats.binds_refused == 1)
        again.cut()
        third = await server.peer()
        await until(lambda: client.connected)
        await client.uplink("demo", "t", b"marker", qos=0)
        assert (await third.receive(mqtt5.PublishPacket)).payload == b"marker"


async def test_given_an_unacked_uplink_then_it_is_resent_first_with_dup_and_the_same_ids(server: Server) -> None:
    async with connected(server) as (client, peer):
        sending = asyncio.ensure_future(client.uplink("demo", "t", b"1"))
        first = await peer.receive(mqtt5.PublishPacket)
        peer.cut()
        await until(lambda: not client.connected)
        waiting = asyncio.ensure_future(client.uplink("demo", "t", b"2"))
        again = await server.peer()
        resent, fresh = await again.receive(mqtt5.PublishPacket), await again.receive(mqtt5.PublishPacket)
        assert (resent.duplicate, fresh.duplicate) == (True, False)
        assert (resent.packet_id, resent.payload, resent.user_properties) == (
            first.packet_id,
            b"1",
            first.user_properties,
        )
        assert fresh.packet_id != first.packet_id
        again.send(mqtt5.PubAckPacket(resent.packet_id or 0), mqtt5.PubAckPacket(fresh.packet_id or 0))
        assert await sending != await waiting
        assert client.stats.resent == 1


async def test_given_a_cancelled_uplink_then_it_is_not_resent(server: Server) -> None:
    async with connected(server) as (client, peer):
        sending = asyncio.ensure_future(client.uplink("demo", "t", b"1"))
        await peer.receive(mqtt5.PublishPacket)
        sending.cancel()
        await asyncio.wait([sending])
        peer.cut()
        again = await server.peer()
        await client.wait_connected()
        await client.uplink("demo", "t", b"marker", qos=0)
        assert (await again.receive(mqtt5.PublishPacket)).payload == b"marker"


async def test_given_a_message_in_hand_when_it_comes_again_then_its_ack_goes_to_the_new_connection(
    server: Server,
) -> None:
    async with bound(server) as (client, peer), aclosing(client.messages(ack="manual")) as messages:
        peer.push("1", 5)
        held = await anext(messages)
        peer.cut()
        again = await server.peer()
        await again.grant()
        again.push("1", 9, duplicate=True)
        again.push("2", 10)
        assert (await anext(messages)).id == "2", "not delivered twice"
        await held.ack()
        packet = await again.receive(mqtt5.PubAckPacket)
        assert (packet.packet_id, client.stats.duplicates) == (9, 1)


async def test_given_a_message_acked_while_away_when_it_comes_again_then_it_is_acked_at_once(server: Server) -> None:
    async with bound(server) as (client, peer), aclosing(client.messages(ack="manual")) as messages:
        peer.push("1", 5)
        held = await anext(messages)
        peer.cut()
        again = await server.peer()
        await again.grant()
        await held.ack()
        again.push("1", 9, duplicate=True)
        assert (await again.receive(mqtt5.PubAckPacket)).packet_id == 9


# --- what goes with CONNECT --------------------------------------------------------------------------------------------


async def subscribed(peer: Peer) -> list[str]:
    """What is asked for before the server has said a word."""
    return [f.pattern for f in (await peer.receive(mqtt5.SubscribePacket)).topic_filters]


async def test_given_a_session_that_ends_with_its_connection_then_the_binds_come_with_connect(server: Server) -> None:
    got: list[str] = []
    async with bound(server, on_message=lambda message: got.append(str(message.id))) as (client, peer):
        peer.cut()
        again = await server.raw()
        asked = await again.receive(mqtt5.SubscribePacket)
        assert [f.pattern for f in asked.topic_filters] == ["push/demo"]
        again.send(mqtt5.ConnAckPacket(), mqtt5.SubAckPacket(asked.packet_id, [mqtt5.SubAckReasonCode(1)]))
        again.push("m1", 1)
        assert (await again.receive(mqtt5.PubAckPacket)).packet_id == 1
        assert (got, client.connected) == (["m1"], True)


async def test_given_a_bind_before_the_first_connection_then_it_comes_with_connect(server: Server) -> None:
    client = make_client(server, session_expiry=60)
    binding = asyncio.ensure_future(client.bind("demo", groups=("news",)))
    starting = asyncio.ensure_future(client.start())
    peer = await server.raw()
    asked = await peer.receive(mqtt5.SubscribePacket)
    assert [f.pattern for f in asked.topic_filters] == ["push/demo", "push/demo/news"]
    peer.accept()
    peer.send(mqtt5.SubAckPacket(asked.packet_id, [mqtt5.SubAckReasonCode(1), mqtt5.SubAckReasonCode(0)]))
    await starting
    assert await binding == 0
    await client.close()


@pytest.mark.parametrize(
    ("granted", "ended"),
    [(None, "moved"), (None, "elsewhere"), (0, "cut")],
)
async def test_given_a_session_that_can_not_be_there_any_more_then_the_binds_come_with_connect(
    server: Server, granted: int | None, ended: str
) -> None:
    async with Server() as other, bound(server, {"session_expiry_interval": granted}, session_expiry=60) as (client, peer):
        if ended == "moved":
            peer.disconnect(0x9C, server_reference="{}:{}".format(*other.address))
        elif ended == "elsewhere":
            client.reconnect()
            (await server.raw()).refuse(0x9C, server_reference="{}:{}".format(*other.address))
        else:
            peer.cut()
        again = await (server if ended == "cut" else other).raw()
        assert (again.hello.clean_start, await subscribed(again)) == (False, ["push/demo"])


async def test_given_a_kept_session_that_is_gone_all_the_same_then_the_binds_come_after_connack(server: Server) -> None:
    async with bound(server, session_expiry=60) as (_, peer):
        peer.cut()
        again = await server.raw()
        assert await again.says_nothing()
        again.accept()
        assert await subscribed(again) == ["push/demo"]


async def test_given_the_time_of_a_kept_session_is_over_then_the_binds_come_with_connect(server: Server) -> None:
    backoff = Backoff(base_s=1.2, cap_s=1.2, random=iter((0.0, 1.0)).__next__)
    async with bound(server, {"session_expiry_interval": 1}, session_expiry=60, backoff=backoff) as (_, peer):
        peer.cut()
        again = await server.raw()
        assert await again.says_nothing()
        again.cut()
        assert await subscribed(await server.raw()) == ["push/demo"]


async def test_given_a_token_that_can_be_renewed_then_nothing_is_said_before_connack(server: Server) -> None:
    async with bound(server, token=lambda: "secret") as (_, peer):  # it names an Authentication Method (MQTT-3.1.2-30)
        peer.cut()
        again = await server.raw()
        assert await again.says_nothing()
        again.accept()
        assert await subscribed(again) == ["push/demo"]


@pytest.mark.parametrize("products", [[f"p{i}" for i in range(51)], [f"{i}-" + "x" * 60 for i in range(50)]])
async def test_given_more_binds_than_go_with_connect_then_they_come_after_connack(server: Server, products: list[str]) -> None:
    client = make_client(server, token="t" * 1_500)
    binding = [asyncio.ensure_future(client.bind(product)) for product in products]
    starting = asyncio.ensure_future(client.start())
    peer = await server.raw()
    assert await peer.says_nothing()
    peer.accept()
    await starting
    asked = await peer.grant()
    if len(asked.topic_filters) < len(products):
        await peer.grant()
    assert await asyncio.gather(*binding) == [1] * len(products)
    await client.close()


async def test_given_a_refused_connect_then_what_came_with_it_is_asked_for_again(server: Server) -> None:
    async with bound(server) as (client, peer):
        peer.cut()
        refused = await server.raw()
        assert await subscribed(refused) == ["push/demo"]
        refused.refuse(0x88)
        again = await server.raw()
        assert await subscribed(again) == ["push/demo"]
        again.accept()
        await until(lambda: client.connected)


async def test_given_a_server_that_is_not_reached_then_what_would_have_come_is_asked_for_again(server: Server) -> None:
    async with bound(server) as (client, peer):
        await server.refuse_connections()
        peer.cut()
        await until(lambda: client.stats.failures > 3)
        await server.listen_again()
        again = await server.peer()
        assert [f.pattern for f in (await again.grant()).topic_filters] == ["push/demo"]
        await until(lambda: client.connected)


async def test_given_an_unbind_of_what_went_with_connect_then_it_is_told(server: Server) -> None:
    async with bound(server) as (client, peer):
        peer.cut()
        again = await server.raw()
        asked = await again.receive(mqtt5.SubscribePacket)
        leaving = asyncio.ensure_future(client.unbind("demo"))
        await asyncio.sleep(0)
        again.accept()
        again.send(mqtt5.SubAckPacket(asked.packet_id, [mqtt5.SubAckReasonCode(1)]))
        left = await again.receive(mqtt5.UnsubscribePacket)
        assert left.patterns == ["push/demo"]
        assert not leaving.done()
        again.send(mqtt5.UnsubAckPacket(left.packet_id, [mqtt5.UnsubAckReasonCode.SUCCESS]))
        await leaving


async def test_given_a_bind_while_connecting_then_it_comes_after_connack(server: Server) -> None:
    async with bound(server) as (client, peer):
        peer.cut()
        again = await server.raw()
        asked = await again.receive(mqtt5.SubscribePacket)
        binding = asyncio.ensure_future(client.bind("chat"))
        await asyncio.sleep(0)
        again.accept()
        again.send(mqtt5.SubAckPacket(asked.packet_id, [mqtt5.SubAckReasonCode(1)]))
        assert [f.pattern for f in (await again.grant()).topic_filters] == ["push/chat"]
        assert await binding == 1


# --- where to ----------------------------------------------------------------------------------------------------------


async def test_given_use_another_server_then_it_goes_there_at_once(server: Server) -> None:
    async with Server() as other, bound(server, backoff=None) as (_, peer):
        peer.disconnect(0x9C, server_reference="nonsense {}:{}".format(*other.address))
        await (await other.peer()).grant()


async def test_given_a_connack_with_another_server_then_it_goes_there_at_once(server: Server) -> None:
    async with Server() as other:
        client = make_client(server, backoff=None)
        starting = asyncio.ensure_future(client.start())
        (await server.raw()).refuse(0x9C, server_reference="{}:{}".format(*other.address))
        await other.peer()
        await starting
        await client.close()


def dispatched(*servers: Server) -> bytes:
    addresses = [dict(zip(("host", "port"), each.address, strict=True)) for each in servers]
    document = {"addresses": addresses, "ttl_s": 60, "heartbeat_s": 123, "backoff": {"base_s": 0.01, "cap_s": 0.02}}
    return b"HTTP/1.1 200 OK\r\n\r\n" + json.dumps(document).encode()


async def test_given_a_dispatcher_then_it_is_asked_again_after_a_failure_and_its_advice_is_taken(server: Server) -> None:
    async with Server() as other, HttpServer(dispatched(server), dispatched(server, other)) as dispatcher:
        options: dict[str, Any] = {"servers": (), "dispatch": dispatcher.url, "backoff": None}
        async with connected(server, **options) as (client, peer):
            assert peer.hello.keep_alive == 123
            peer.cut()
            await other.peer()
            await until(lambda: client.connected)
        host, port = server.address
        assert dispatcher.targets == [
            "/v1/dispatch?client=c1&network=wifi&attempt=0",
            f"/v1/dispatch?client=c1&network=wifi&attempt=1&failed={host}%3A{port}",
        ]


async def test_given_a_dispatcher_that_went_away_then_the_known_address_serves(server: Server) -> None:
    async with HttpServer(dispatched(server)) as dispatcher:
        client = make_client(server, servers=(), dispatch=dispatcher.url, backoff=None)
        starting = asyncio.ensure_future(client.start())
        peer = await server.peer()
        await starting
    peer.cut()
    await server.peer()
    assert client.stats.dispatch_failures == 1
    await client.close()


async def test_given_no_server_then_it_keeps_trying_and_says_so(server: Server) -> None:
    states: list[ConnectionState] = []
    async with Server() as gone:
        pass
    client = make_client(server, servers=[gone.address, server.address], on_state=states.append)
    starting = asyncio.ensure_future(client.start())
    await server.peer()
    await starting
    assert (states[0].connected, states[0].address, states[0].code) == (False, Address(*gone.address), None)
    assert states[0].retry_in_s is not None
    assert (states[-1].connected, states[-1].address, states[-1].code) == (True, Address(*server.address), 0)
    await client.close()


async def test_given_reconnect_with_a_network_then_the_new_connection_says_it(server: Server) -> None:
    async with connected(server, backoff=None, session_expiry=60) as (client, peer):
        client.reconnect("2g")
        await peer.gone()
        again = await server.peer(session_present=True)
        assert (again.hello.user_properties, again.hello.keep_alive) == ([("network", "2g")], 300)
        await until(lambda: client.connected)


async def test_given_a_long_wait_when_told_to_reconnect_then_the_wait_ends(server: Server) -> None:
    states: list[ConnectionState] = []
    async with connected(server, on_state=states.append) as (client, peer):
        peer.disconnect(0x89, user_properties=[("retry-after", "1000")])
        await until(lambda: not client.connected)
        assert states[-1].code == 0x89
        assert states[-1].retry_in_s is not None
        assert 1_000 <= states[-1].retry_in_s <= 1_500
        client.reconnect()
        await server.peer()


# --- not coming back ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("code", "error"), FINAL)
async def test_given_a_final_connack_then_start_raises_it(server: Server, code: int, error: type[SessionEnded]) -> None:
    client = make_client(server)
    starting = asyncio.ensure_future(client.start())
    (await server.raw()).refuse(code, reason_str="because")
    with pytest.raises(error, match="because") as raised:
        await starting
    assert raised.value.code == code
    await client.close()


@pytest.mark.parametrize(("code", "error"), [(0x98, Kicked), (0x8E, TakenOver), (0x87, NotAuthorized)])
async def test_given_a_final_disconnect_then_messages_raise_after_what_was_received(
    server: Server, code: int, error: type[SessionEnded]
) -> None:
    states: list[ConnectionState] = []
    async with bound(server, on_state=states.append) as (client, peer):
        sending = asyncio.ensure_future(client.uplink("demo", "t"))
        await peer.receive(mqtt5.PublishPacket)
        peer.push("1", 1)
        peer.disconnect(code)
        messages = client.messages()
        assert (await anext(messages)).id == "1"
        with pytest.raises(error):
            await anext(messages)
        for call in (sending, client.bind("x"), client.uplink("demo", "t"), client.wait_connected()):
            with pytest.raises(error):
                await call
        assert (states[-1].connected, states[-1].code, states[-1].retry_in_s) == (False, code, None)
        assert client.stats.connects == 1


async def test_given_a_token_callable_then_an_expired_one_is_replaced_on_return(server: Server) -> None:
    tokens = iter(["first", "second"])

    async def fresh() -> str:
        return next(tokens)

    async with connected(server, token=fresh) as (_, peer):
        assert peer.hello.password == b"first"
        peer.disconnect(0x87)
        assert (await server.peer()).hello.password == b"second"


async def test_given_a_token_callable_that_fails_then_it_is_tried_again(server: Server) -> None:
    answers: list[str | Exception] = [RuntimeError("no network"), "good"]
    states: list[ConnectionState] = []

    def fresh() -> str:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async with connected(server, token=fresh, on_state=states.append) as (_, peer):
        assert peer.hello.password == b"good"
        assert "no network" in states[0].text


async def test_given_a_state_callback_that_fails_then_the_client_goes_on(server: Server) -> None:
    def broken(state: ConnectionState) -> None:
        raise RuntimeError(state.text)

    async with connected(server, on_state=broken) as (client, _):
        assert client.connected
        assert client.stats.callback_errors == 1


# --- silence and nonsense ----------------------------------------------------------------------------------------------


async def test_given_the_servers_keep_alive_then_pings_follow_it_and_answers_keep_it(server: Server) -> None:
    async with connected(server, {"server_keep_alive": 1}, keep_alive=1_000) as (client, peer):
        for _ in range(2):
            await peer.receive(mqtt5.PingReqPacket)
            peer.send(mqtt5.PingRespPacket())
        assert client.stats.failures == 0


async def test_given_no_answer_to_a_ping_then_it_comes_back_on_a_new_connection(server: Server) -> None:
    states: list[ConnectionState] = []
    options: dict[str, Any] = {"keep_alive": 1, "timeouts": Timeouts(ping=0.05), "on_state": states.append}
    async with connected(server, **options) as (client, peer):
        await peer.receive(mqtt5.PingReqPacket)
        await peer.gone()
        await server.peer()
        await until(lambda: client.connected)
        assert "no answer to a ping" in states[1].text


async def test_given_no_connack_then_it_tries_again(server: Server) -> None:
    client = make_client(server, timeouts=Timeouts(connect=0.05))
    starting = asyncio.ensure_future(client.start())
    await (await server.raw()).gone()
    await server.peer()
    await starting
    await client.close()


@pytest.mark.parametrize(
    ("data", "code"),
    [
        pytest.param(b"\xf7\xff\xff\xff\xff", 0x81, id="malformed"),
        pytest.param(b"\x30" + b"\xff\xff\x7f", 0x95, id="announced larger than we take"),
        pytest.param(mqtt5.PublishPacket("up/demo", b"").write(), 0x90, id="not a push topic"),
    ],
)
async def test_given_nonsense_then_it_says_why_and_comes_back(server: Server, data: bytes, code: int) -> None:
    async with connected(server) as (client, peer):
        peer.writer.write(data)
        assert int((await peer.receive(mqtt5.DisconnectPacket)).reason_code) == code
        await server.peer()
        await until(lambda: client.connected)
        assert (client.stats.violations, client.stats.reconnects) == (1, 1)


async def test_given_a_payload_of_64_kib_then_it_fits(server: Server) -> None:
    async with bound(server) as (client, peer), aclosing(client.messages()) as messages:
        assert peer.hello.max_packet_size == DEFAULT_MAX_PACKET_SIZE
        peer.push("1", 1, b"x" * 65_536)
        assert len((await anext(messages)).payload) == 65_536


async def test_given_many_clients_when_the_server_drops_them_then_all_return(server: Server) -> None:
    clients = [PushClient(client_id=f"c{i}", token="t", servers=[server.address], backoff=QUICK) for i in range(100)]
    starting = [asyncio.ensure_future(client.start()) for client in clients]
    peers = [await server.peer() for _ in clients]
    await asyncio.gather(*starting)
    for peer in peers:
        peer.cut()
    assert {(await server.peer()).hello.client_id for _ in clients} == {f"c{i}" for i in range(100)}
    await asyncio.gather(*(client.close() for client in clients))
