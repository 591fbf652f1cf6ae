"""Uplinks: what is let in, what is refused and how, order, overload."""

from __future__ import annotations

from typing import Any

import mqtt5
import pytest
from gateway_world import World

from infra.wire import UplinkResult


def test_given_an_uplink_when_it_is_in_kafka_then_and_only_then_it_is_acknowledged() -> None:
    world = World()
    device = world.device("c1", "push/demo")
    device.publish(
        "up/demo/pos",
        b"body",
        packet_id=7,
        content_type="text",
        correlation_data=b"k",
        response_topic="push/demo",
        user_properties=[("id", "own-1"), ("a", "b"), ("job", "mine")],
    )
    assert device.socket.raw == []
    item = world.coordinator.answer()
    assert device.socket.raw == [b"\x40\x02\x00\x07"]
    assert (item.id, item.key, item.user, item.product, item.type) == ("own-1", "main:c1", "u1", "demo", "pos")
    assert (item.payload, item.qos, item.room, item.wants_reply, item.group) == (b"body", 1, "r1", True, "")
    assert (item.correlation, item.content_type, item.properties) == (b"k", "text", [("a", "b")])


def test_given_no_valid_id_when_published_then_the_room_numbers_it() -> None:
    world = World()
    device = world.device("c1")
    device.publish("up/demo/pos", packet_id=1)
    device.publish("up/demo/pos", packet_id=2, user_properties=[("id", "no good")])
    assert [world.coordinator.answer().id, world.coordinator.answer().id] == ["r1.5.1.1", "r1.5.1.2"]


@pytest.mark.parametrize(
    ("topic", "fields", "code"),
    [
        ("up/demo", {}, 0x90),
        ("push/demo", {}, 0x90),
        ("up/demo/Po s", {}, 0x90),
        ("up/none/pos", {}, 0x87),
        ("up/demo/pos", {"payload": b"x" * 101}, 0x97),
        ("up/demo/pos", {"response_topic": "push/chat"}, 0x87),
        ("up/demo/pos", {"response_topic": "push/demo/sport"}, 0x87),
        ("up/demo/pos", {"response_topic": "elsewhere"}, 0x87),
        ("up/chat/pos", {"response_topic": "push/demo"}, 0x87),
        ("up/demo/pos", {"correlation_data": b"x" * 1025}, 0x97),
        ("up/demo/pos", {"content_type": "x" * 129}, 0x83),
        ("up/demo/pos", {"user_properties": [("a", "b")] * 17}, 0x97),
        ("up/demo/pos", {"user_properties": [("a", "b" * 5000)]}, 0x97),
    ],
)
def test_given_an_uplink_that_is_not_allowed_when_published_then_it_is_refused_or_dropped(
    topic: str, fields: dict[str, Any], code: int
) -> None:
    world = World()
    device = world.device("c1", "push/demo")
    device.publish(topic, packet_id=1, **fields)
    ack = device.socket.one(mqtt5.PubAckPacket)
    assert int(ack.reason_code) == code
    assert ack.reason_str
    device.publish(topic, packet_id=None, **fields)
    assert device.socket.raw == []
    assert not world.coordinator.waiting
    assert not device.socket.closed


def test_given_a_refusal_of_the_coordinator_when_it_comes_then_its_code_and_text_are_said() -> None:
    world = World()
    device = world.device("c1")
    device.publish("up/demo/pos", packet_id=1)
    world.coordinator.answer(UplinkResult("refused", 0x99, "no"))
    ack = device.socket.one(mqtt5.PubAckPacket)
    assert (int(ack.reason_code), ack.reason_str) == (0x99, "no")


def test_given_uplinks_when_a_batch_is_under_way_then_the_next_waits_and_order_holds() -> None:
    world = World()
    device = world.device("c1")
    for i in range(1, 4):
        device.publish("up/demo/pos", b"%d" % i, packet_id=i)
    assert len(world.coordinator.waiting) == 1
    world.coordinator.answer()
    assert [asked.item.payload for asked in world.coordinator.waiting] == [b"2", b"3"]


def test_given_uplinks_whose_results_come_together_then_their_pubacks_are_one_write_in_the_order_sent() -> None:
    world = World()
    device = world.device("c1")
    for i in range(1, 6):
        device.publish("up/demo/pos", packet_id=i)
    world.coordinator.answer()
    device.socket.raw.clear()
    ok, refused = UplinkResult("ok"), UplinkResult("refused", 0x99, "no")
    world.coordinator.answer_all(ok, ok, refused, ok)
    assert len(device.socket.raw) == 3
    acks = [packet for packet in device.socket.take() if isinstance(packet, mqtt5.PubAckPacket)]
    assert [(ack.packet_id, int(ack.reason_code)) for ack in acks] == [(2, 0), (3, 0), (4, 0x99), (5, 0)]


def test_given_a_lost_socket_between_results_of_one_batch_then_nothing_is_written_to_it() -> None:
    world = World()
    device = world.device("c1")
    for i in range(1, 4):
        device.publish("up/demo/pos", packet_id=i)
    world.coordinator.answer()
    device.socket.raw.clear()
    first, second = (world.coordinator.waiting.popleft() for _ in range(2))
    first.done(UplinkResult("ok"))
    device.lose()
    second.done(UplinkResult("ok"))
    world.coordinator.answer_all()
    assert device.socket.raw == []


def test_given_seventeen_uplinks_when_none_is_acknowledged_then_0x93() -> None:
    world = World()
    device = world.device("c1")
    for i in range(1, 18):
        device.publish("up/demo/pos", packet_id=i)
    assert int(device.socket.one(mqtt5.DisconnectPacket).reason_code) == 0x93


def test_given_a_packet_id_when_it_is_used_twice_then_it_is_a_protocol_error() -> None:
    device = World().device("c1")
    device.publish("up/demo/pos", packet_id=1)
    device.publish("up/demo/pos", packet_id=1)
    assert int(device.socket.one(mqtt5.DisconnectPacket).reason_code) == 0x82


def test_given_a_flood_at_qos_0_when_nothing_is_answered_then_what_waits_is_bounded() -> None:
    world = World()
    device = world.device("c1")
    for _ in range(200):
        device.publish("up/demo/pos", packet_id=None)
    taken = 0
    while world.coordinator.waiting:
        world.coordinator.answer()
        taken += 1
    assert taken == 64


def test_given_overload_when_an_uplink_comes_then_reading_stops_until_relieved() -> None:
    world = World()
    device = world.device("c1")
    world.coordinator.overloaded = True
    device.publish("up/demo/pos", packet_id=1)
    assert device.socket.paused
    assert device.socket.raw == []
    world.pass_time(1000)
    assert not device.socket.closed  # its silence is ours
    world.coordinator.answer()
    world.coordinator.relieve()
    assert not device.socket.paused


def test_given_a_lost_socket_when_the_answer_comes_then_nothing_is_written() -> None:
    world = World()
    device = world.device("c1")
    device.publish("up/demo/pos", packet_id=1)
    device.socket.closed = True
    device.lose()
    world.coordinator.answer()
    assert device.socket.raw == []
