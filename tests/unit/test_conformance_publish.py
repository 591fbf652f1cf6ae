"""MQTT 5 §3.3 to §3.7, §4.3, §4.4: PUBLISH and PUBACK both ways. docs/conformance.md says which test shows which statement."""

from __future__ import annotations

import mqtt5
import pytest
from gateway_world import Device, World
from wire_bytes import publish, say, string

from gateway.client import FIRST_BROADCAST_ID
from gateway.reasons import Reason
from infra.wire import Downlink, UplinkResult


def back(world: World, **connect: object) -> Device:
    device = world.accept()
    device.connect("c1", **{"session_expiry_interval": 30, **connect})  # type: ignore[arg-type]
    return device


# --- what a room writes ---------------------------------------------------------------------------------------------------


def test_given_a_new_message_at_qos_1_then_dup_0_and_it_is_in_the_window_until_its_puback() -> None:
    world = World()
    device = world.device("c1", "push/demo")
    world.push(world.register.store("m1"))
    [packet] = device.pushed()
    assert (int(packet.qos), packet.duplicate, bool(packet.packet_id)) == (1, False, True)
    client = device.session.client
    assert client is not None
    assert list(client.inflight or ()) == [packet.packet_id]
    device.puback(packet.packet_id or 0)
    assert client.inflight is None


def test_given_ids_in_use_when_the_numbers_begin_anew_then_they_are_left_out() -> None:
    world = World()
    device = world.device("c1", "push/demo")
    client = device.session.client
    assert client is not None
    for number in range(3):
        world.push(world.register.store(f"m{number}"))
    client.next_packet_id = FIRST_BROADCAST_ID - 1
    for number in range(3, 6):
        world.push(world.register.store(f"m{number}"))
    assert [packet.packet_id for packet in device.pushed()] == [1, 2, 3, FIRST_BROADCAST_ID - 1, 4, 5]


def test_given_a_message_that_comes_again_at_qos_0_then_dup_is_0() -> None:
    world = World()
    device = world.device("c1", session_expiry_interval=30)
    device.subscribe("push/demo", qos=0)
    device.socket.take()
    device.socket.stalled = True
    world.push(world.register.store("m1"))
    assert [packet.duplicate for packet in device.pushed()] == [False]
    device.lose()
    device = back(world)
    world.flush()
    _, packet = device.socket.take()
    assert isinstance(packet, mqtt5.PublishPacket)
    assert (packet.user_properties[0], int(packet.qos), packet.duplicate) == (("id", "m1"), 0, False)


def test_given_a_client_that_takes_topic_aliases_then_none_is_sent() -> None:
    world = World()
    device = world.device("c1", "push/demo", topic_alias_max=10)
    world.push(world.register.store("m1"))
    world.push(world.register.store("m2"))
    assert [(packet.topic, packet.topic_alias) for packet in device.pushed()] == [("push/demo", None)] * 2


@pytest.mark.parametrize("handling", [0, 1, 2])
@pytest.mark.parametrize("as_published", [True, False])
def test_given_any_retain_option_then_nothing_is_retained_and_retain_is_0(handling: int, as_published: bool) -> None:
    world = World()
    device = world.device("c1")
    item = mqtt5.TopicFilter(
        "push/demo",
        max_qos=mqtt5.QoS(1),
        retain_as_published=as_published,
        retain_handling=mqtt5.RetainHandling(handling),
    )
    world.push(Downlink("before", 0, b"x"))
    for packet_id in (1, 2):
        device.send(mqtt5.SubscribePacket(packet_id, [item]))
        assert [int(code) for code in device.socket.one(mqtt5.SubAckPacket).reason_codes] == [1]
        world.push(world.register.store(f"m{packet_id}"))
        assert [(packet.topic, packet.retain) for packet in device.pushed()] == [("push/demo", False)]


def test_given_a_rejected_message_when_the_client_is_back_then_it_is_not_written_again() -> None:
    world = World()
    device = world.device("c1", "push/demo", session_expiry_interval=30)
    world.push(world.register.store("m1"))
    world.push(world.register.store("m2"))
    device.puback(1, 0x83)
    device.lose()
    device = back(world)
    _, *again = device.socket.take()
    assert [(packet.packet_id, packet.duplicate) for packet in again] == [(2, True)]  # type: ignore[union-attr]


def test_given_a_connection_that_stays_when_nothing_is_acknowledged_then_nothing_is_written_again() -> None:
    world = World()
    device = world.device("c1", "push/demo")
    world.push(world.register.store("m1"))
    device.socket.take()
    for _ in range(5):
        world.pass_time(5)
        device.session.delivery.sync_soon()  # type: ignore[union-attr]
        world.flush()
    assert device.pushed() == []


def test_given_a_full_window_then_everything_but_publish_goes_on() -> None:
    world = World()
    device = world.device("c1", "push/demo", receive_max=1)
    world.push(world.register.store("m1"))
    world.push(world.register.store("m2"))
    assert device.pushed_ids() == ["m1"]
    device.send(mqtt5.PingReqPacket())
    device.subscribe("push/chat", packet_id=5)
    device.unsubscribe("push/chat", packet_id=6)
    device.publish("up/demo/pos", packet_id=7)
    world.coordinator.answer()
    kinds = [type(packet) for packet in device.socket.take()]
    assert kinds == [mqtt5.PingRespPacket, mqtt5.SubAckPacket, mqtt5.UnsubAckPacket, mqtt5.PubAckPacket]


# --- what a client publishes ----------------------------------------------------------------------------------------------


def test_given_an_id_that_was_acknowledged_when_it_comes_again_then_it_is_a_new_message() -> None:
    world = World()
    device = world.device("c1")
    for body, duplicate in ((b"one", False), (b"two", True)):
        device.publish("up/demo/pos", body, packet_id=7, duplicate=duplicate)
        assert world.coordinator.answer().payload == body
        assert device.socket.one(mqtt5.PubAckPacket).packet_id == 7


@pytest.mark.parametrize("topic", ["up/demo/+", "up/+/pos", "up/demo/#", "#", "up/demo/a+b"])
def test_given_a_wildcard_in_a_topic_name_then_0x90_and_nothing_is_taken(topic: str) -> None:
    world = World()
    device = world.device("c1")
    say(device, publish(topic))
    assert int(device.socket.one(mqtt5.PubAckPacket).reason_code) == Reason.TOPIC_NAME_INVALID
    say(device, publish(topic, first=0x30))
    assert (device.socket.raw, list(world.coordinator.waiting)) == ([], [])


@pytest.mark.parametrize("topic", ["push/+", "#", "push/demo/#"])
def test_given_a_wildcard_in_a_response_topic_then_0x87_and_nothing_is_taken(topic: str) -> None:
    world = World()
    device = world.device("c1", "push/demo", "push/demo/news")
    say(device, publish("up/demo/pos", b"\x08" + string(topic)))
    assert int(device.socket.one(mqtt5.PubAckPacket).reason_code) == Reason.NOT_AUTHORIZED
    assert not world.coordinator.waiting


def test_given_a_topic_of_messages_when_a_client_publishes_there_then_nobody_gets_it() -> None:
    world = World()
    device, other = world.device("c1", "push/demo"), world.device("c2", "push/demo")
    device.publish("push/demo", packet_id=1)
    assert int(device.socket.one(mqtt5.PubAckPacket).reason_code) == Reason.TOPIC_NAME_INVALID
    assert other.socket.raw == []


def test_given_user_properties_in_an_order_then_an_uplink_keeps_it() -> None:
    world = World()
    device = world.device("c1")
    device.publish("up/demo/pos", packet_id=1, user_properties=[("b", "2"), ("a", "1"), ("b", "1")])
    assert world.coordinator.answer().properties == [("b", "2"), ("a", "1"), ("b", "1")]


def test_given_qos_0_then_it_is_taken_and_not_answered() -> None:
    world = World()
    device = world.device("c1")
    say(device, publish(first=0x30))
    assert world.coordinator.answer().qos == 0
    assert device.socket.raw == []


@pytest.mark.parametrize("code", [0x84, 0x8F, 0xFE, 0x400])
def test_given_a_code_that_puback_does_not_have_then_it_is_said_as_0x83(code: int) -> None:
    world = World()
    device = world.device("c1")
    device.publish("up/demo/pos", packet_id=1)
    world.coordinator.answer(UplinkResult("refused", code, "why"))
    ack = device.socket.one(mqtt5.PubAckPacket)
    assert (int(ack.reason_code), ack.reason_str) == (0x83, "why")


@pytest.mark.parametrize("who", ["the room", "the coordinator", "the store"])
def test_given_a_refusal_whose_text_the_client_does_not_take_then_it_is_left_out(who: str) -> None:
    world = World()
    device = world.device("c1", "push/demo", max_packet_size=60)
    if who == "the room":
        device.publish("up/demo/" + "x" * 100, packet_id=1)
    elif who == "the coordinator":
        device.publish("up/demo/pos", packet_id=1)
        world.coordinator.answer(UplinkResult("refused", 0x97, "too much " * 10))
    else:
        world.push(world.register.store("m1", payload=b"b" * 100, or_notice=True))
        device.socket.take()
        device.publish("pull/demo", b"", packet_id=1, user_properties=[("id", "m1")])
    [said] = device.socket.raw
    assert len(said) <= 60
    ack = device.socket.one(mqtt5.PubAckPacket)
    assert int(ack.reason_code) >= 0x80
    if who != "the store":
        assert ack.reason_str is None
