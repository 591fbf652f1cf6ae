"""A SUBSCRIBE that comes with its CONNECT: one request, one write; and whatever is not plain goes the old way (ADR 31)."""

from __future__ import annotations

from typing import Any

import mqtt5
import pytest

from gateway.mqtt.strict import MAX_FILTERS
from infra.wire import BindItem, ConnectItem, ConnectResult, SyncItem
from pushclient import PushClient
from tests.fuzz.edge import Attack
from tests.unit.gateway_world import Device, World, claims, sign
from tests.unit.live_room import live
from tests.unit.mqtt311_device import connect as old_connect
from tests.unit.mqtt311_device import subscribe as old_subscribe


@pytest.fixture
def world() -> World:
    return World()


def subscribe(*patterns: str, qos: int = 1, packet_id: int = 7, **fields: Any) -> mqtt5.SubscribePacket:
    filters = [mqtt5.TopicFilter(pattern, max_qos=mqtt5.QoS(qos)) for pattern in patterns]
    return mqtt5.SubscribePacket(packet_id, filters, **fields)


def arrive(world: World, packet: mqtt5.SubscribePacket | None = None, **connect: Any) -> Device:
    """A CONNECT with a SUBSCRIBE behind it."""
    device = Device(world)
    device.socket.behind = packet or subscribe("push/demo")
    device.connect(**connect)
    return device


def kinds(device: Device) -> list[type[mqtt5.Packet]]:
    return [type(packet) for packet in device.socket.take()]


def test_given_a_connect_with_a_subscribe_then_one_request_and_one_write_do_both(world: World) -> None:
    world.register.store("m1")
    device = arrive(world, receive_max=3)

    [item] = world.register.items
    assert item.first.bind.product == "demo"
    assert (item.first.bind.user, item.first.bind.qos, item.first.limit) == ("u1", 1, 3)
    assert len(device.socket.raw) == 1
    connack, suback, publish = device.socket.take()
    assert isinstance(connack, mqtt5.ConnAckPacket)
    assert isinstance(suback, mqtt5.SubAckPacket)
    assert (suback.packet_id, [int(code) for code in suback.reason_codes]) == (7, [1])
    assert isinstance(publish, mqtt5.PublishPacket)
    assert not device.socket.paused
    assert ("bound", "demo") in world.fanout.calls


def test_given_it_was_bound_so_then_all_goes_on_as_ever(world: World) -> None:
    device = arrive(world, subscribe("push/demo", "push/demo/news", qos=0))
    [bind] = device.session.client.binds  # type: ignore[union-attr]
    assert (bind.qos, bind.groups, bind.first_bind_ms, bind.ready) == (0, {"news"}, 7, True)
    device.socket.take()
    assert world.push(world.register.store("m1")) == "written"
    assert device.pushed_ids() == ["m1"]
    device.unsubscribe("push/demo")
    assert device.socket.one(mqtt5.UnsubAckPacket)


def test_given_a_saver_of_before_then_the_bind_is_asked_for(world: World) -> None:
    world.register.older = True
    device = arrive(world)
    assert [type(item) for item in world.register.items] == [ConnectItem, BindItem]
    assert kinds(device) == [mqtt5.ConnAckPacket, mqtt5.SubAckPacket]


@pytest.mark.parametrize(
    ("packet", "codes"),
    [
        (subscribe("push/other"), [0x87]),
        (subscribe("push/demo", "push/other"), [1, 0x87]),
        (subscribe("push/demo", "push/chat"), [1, 1]),
        (subscribe("up/demo/x"), [0x8F]),
        (subscribe("push/demo/else"), [0x87]),
    ],
)
def test_given_what_is_refused_or_more_than_one_bind_then_it_has_its_turn(
    world: World, packet: mqtt5.SubscribePacket, codes: list[int]
) -> None:
    device = arrive(world, packet)
    assert world.register.items[0].first is None
    _, suback = device.socket.take()
    assert isinstance(suback, mqtt5.SubAckPacket)
    assert [int(code) for code in suback.reason_codes] == codes


@pytest.mark.parametrize(
    ("packet", "code"),
    [
        (subscribe("push/demo", subscription_id=3), 0xA1),
        (subscribe("push/#"), 0xA2),
        (subscribe("$share/g/push/demo"), 0x9E),
        (subscribe(*(["push/demo"] * (MAX_FILTERS + 1))), 0x97),
    ],
)
def test_given_what_ends_the_connection_then_the_connack_comes_first(
    world: World, packet: mqtt5.SubscribePacket, code: int
) -> None:
    device = arrive(world, packet)
    assert world.register.items[0].first is None
    connack, disconnect = device.socket.take()
    assert isinstance(connack, mqtt5.ConnAckPacket)
    assert isinstance(disconnect, mqtt5.DisconnectPacket)
    assert int(disconnect.reason_code) == code
    assert device.socket.closed


def test_given_a_refused_connect_then_the_subscribe_is_lost_with_it(world: World) -> None:
    device = arrive(world, password=b"no token")
    assert device.socket.one(mqtt5.ConnAckPacket).reason_code != 0
    assert world.register.items == []
    assert device.socket.closed


def test_given_a_session_elsewhere_then_it_is_asked_for_again_with_the_bind(world: World) -> None:
    world.register.held = True
    device = arrive(world)
    world.register.answer(ConnectResult("elsewhere", 1, 9, 5))
    assert [item.first is not None for item in world.register.of(ConnectItem)] == [True, True]
    assert world.register.items[1].seen == (1, 9)
    world.register.answer()
    assert kinds(device) == [mqtt5.ConnAckPacket, mqtt5.SubAckPacket]


def test_given_it_is_superseded_then_nothing_is_said(world: World) -> None:
    world.register.superseded = True
    device = arrive(world)
    assert device.socket.take() == []
    assert device.socket.closed


def test_given_a_socket_that_is_lost_before_the_answer_then_the_saver_hears_of_the_end(world: World) -> None:
    world.register.held = True
    device = arrive(world)
    device.lose()
    world.register.answer()
    [item] = world.register.disconnects
    assert (item.key, item.number) == ("main:c1", 1)
    assert device.socket.take() == []
    assert world.push(world.register.store("m1")) == "gone"  # nobody is expected any more


def test_given_a_hint_between_the_script_and_its_answer_then_the_message_is_fetched(world: World) -> None:
    world.register.held = world.register.early = True
    device = arrive(world)
    message = world.register.store("m1")  # after the script, so the page has it not
    assert world.push(message) == "behind"
    assert world.push(message, product="chat") == "gone"
    world.register.answer()
    assert kinds(device) == [mqtt5.ConnAckPacket, mqtt5.SubAckPacket]
    assert world.register.of(SyncItem) == [world.register.waiting[0].item]
    world.register.answer()
    assert device.pushed_ids() == ["m1"]


def test_given_the_room_was_cut_off_before_the_answer_then_the_bind_is_asked_for_anew(world: World) -> None:
    world.register.held = world.register.early = True
    world.register.store("m1")
    device = arrive(world)
    world.register.store("m2")  # its hint is lost: NATS is away
    world.room.resync()
    world.register.answer()
    assert kinds(device) == [mqtt5.ConnAckPacket]
    world.register.answer()
    assert kinds(device) == [mqtt5.SubAckPacket, mqtt5.PublishPacket, mqtt5.PublishPacket]
    assert [type(item) for item in world.register.items] == [ConnectItem, BindItem]


def test_given_two_sockets_of_a_client_then_whichever_is_let_in_misses_no_hint(world: World) -> None:
    world.register.held = world.register.early = True
    first = arrive(world)
    second = arrive(world)
    world.push(world.register.store("m1"))  # the second is told
    second.lose()
    world.register.answer()
    assert kinds(first) == [mqtt5.ConnAckPacket, mqtt5.SubAckPacket]
    assert world.register.of(SyncItem)


def test_given_a_hint_at_qos_0_meanwhile_then_it_is_dropped_as_for_any_who_are_not_bound(world: World) -> None:
    world.register.held = True
    arrive(world)
    message = world.register.store("m1")
    assert world.room.push([]) == []
    assert world.push(type(message)("m2", 0, b"x")) == "dropped"


def test_given_a_kept_session_then_it_goes_on_and_the_subscribe_has_its_turn(world: World) -> None:
    device = world.device("c1", "push/demo", session_expiry_interval=60)
    device.lose()
    asked = len(world.register.items)
    again = arrive(world, clean_start=False, session_expiry_interval=60)
    assert again.socket.one(mqtt5.ConnAckPacket).session_present
    assert again.socket.behind is not None  # its reader has it still
    assert len(world.register.items) == asked


def test_given_an_older_session_here_that_acknowledged_something_then_it_does_not_come_again(world: World) -> None:
    device = arrive(world, session_expiry_interval=30)
    world.push(message := world.register.store("m1"), number=world.register.number)
    *_, publish = device.socket.take()
    assert isinstance(publish, mqtt5.PublishPacket)
    assert publish.packet_id is not None
    device.puback(publish.packet_id)
    device.lose()

    again = arrive(world, clean_start=True)
    assert kinds(again) == [mqtt5.ConnAckPacket]  # the SUBSCRIBE is behind it yet
    again.subscribe("push/demo")
    assert kinds(again) == [mqtt5.SubAckPacket]
    assert world.register.settled == [(message.id, "acked")]


def test_given_a_revoked_token_before_the_answer_then_it_is_refused(world: World) -> None:
    world.register.held = True
    device = arrive(world)
    device.session.revoke()
    world.register.answer()
    assert int(device.socket.one(mqtt5.ConnAckPacket).reason_code) == 0x87
    assert len(world.register.disconnects) == 1


# --- on a socket -------------------------------------------------------------------------------------------------------


def heard(data: bytes, *cut: int) -> tuple[bytes, list[type[Any]]]:
    attack = Attack(cut)
    try:
        attack.run([data])
        attack.judge()
        return bytes(attack.connections[0].heard), [type(item) for item in attack.world.register.items if item.key == "main:c1"]
    finally:
        attack.end()


def hello(**connect: Any) -> bytes:
    return mqtt5.ConnectPacket("c1", password=sign(claims()), **connect).write()


def test_given_connect_and_subscribe_cut_anywhere_then_the_same_bytes_come_back() -> None:
    connect = hello()
    both = connect + subscribe("push/demo").write()
    whole, asked = heard(both)
    assert asked == [ConnectItem]
    for at in range(1, len(both)):
        cut, asked = heard(both, at, len(both))
        assert cut == whole, at
        assert asked == ([ConnectItem] if at < len(connect) else [ConnectItem, BindItem]), at


@pytest.mark.parametrize(
    "behind",
    [
        subscribe("push/demo").write() + mqtt5.PingReqPacket().write(),
        mqtt5.PingReqPacket().write() + subscribe("push/demo").write(),
        subscribe("push/demo").write() * 2,
        subscribe("push/demo").write()[:-1],
        subscribe("push/demo").write()[:-1] + b"\xff",
        mqtt5.UnsubscribePacket(3, ["push/demo"]).write(),
        b"\x82\xff\xff\xff\x7f",
        b"\x82\xff\xff\xff\xff\xff",
    ],
)
def test_given_anything_else_behind_a_connect_then_it_has_its_turn(behind: bytes) -> None:
    first = hello()
    whole, asked = heard(first + behind)
    assert (whole, asked) == heard(first + behind, len(first), len(behind))


def test_given_the_old_version_then_its_subscribe_has_its_turn() -> None:
    _, asked = heard(old_connect(password=sign(claims())) + old_subscribe("push/demo"))
    assert asked == [ConnectItem, BindItem]


async def test_given_the_sdk_when_it_comes_back_without_a_session_then_all_is_one_request() -> None:
    async with live() as room:
        register = room.world.register
        push = PushClient(client_id="c1", token=sign(claims()).decode(), servers=[("127.0.0.1", room.port)], session_expiry=0)
        async with push:
            await push.bind("demo", groups=("news",))
            before = len(register.items)
            push.reconnect()
            await room.until(lambda: push.stats.reconnects == 1 and len(register.items) > before)
            [item] = register.items[before:]
            assert isinstance(item, ConnectItem)
            assert item.first is not None
            assert (item.first.bind.product, item.first.bind.groups) == ("demo", ["news"])
            await room.until(lambda: push.connected)
