"""Notices and pulls in a room: a notice's PUBACK frees the window and settles nothing; the body's PUBACK settles."""

from __future__ import annotations

import mqtt5
import pytest

from gateway.client import FIRST_BROADCAST_ID
from tests.unit.gateway_world import Device, World


def pull(device: Device, message_id: str, *, packet_id: int | None = 1, topic: str = "pull/demo") -> None:
    device.publish(topic, b"", packet_id=packet_id, user_properties=[("id", message_id)])


def taken(device: Device) -> tuple[list[mqtt5.PublishPacket], list[mqtt5.PubAckPacket]]:
    packets = device.socket.take()
    return (
        [packet for packet in packets if isinstance(packet, mqtt5.PublishPacket)],
        [packet for packet in packets if isinstance(packet, mqtt5.PubAckPacket)],
    )


@pytest.fixture
def world() -> World:
    return World()


def test_given_a_notice_then_it_has_no_payload_and_says_what_to_pull(world: World) -> None:
    device = world.device("c1", "push/demo")
    message = world.register.store("m1", payload=b"", size=40, pull_after_ms=1500, properties=[("k", "v")])
    assert world.push(message) == "written"
    [packet] = device.pushed()
    assert (packet.payload, packet.topic) == (b"", "push/demo")
    assert packet.user_properties == [("id", "m1"), ("pull", "m1"), ("size", "40"), ("pull-after", "1.5"), ("k", "v")]


def test_given_a_notice_when_acknowledged_then_the_window_is_free_and_nothing_is_settled(world: World) -> None:
    device = world.device("c1", "push/demo", receive_max=1)
    world.push(world.register.store("m1", payload=b"", size=40))
    [notice] = device.pushed()
    device.puback(notice.packet_id or 0)
    world.push(world.register.store("m2"))
    world.flush()
    assert device.pushed_ids() == ["m2"]
    assert world.register.settled == []
    assert [message.id for message in world.register.pending["main:c1", "demo"]] == ["m1", "m2"]
    world.flush()
    assert device.pushed() == []  # the notice does not come again


def test_given_a_notice_when_pulled_then_the_body_comes_and_its_puback_settles(world: World) -> None:
    device = world.device("c1", "push/demo")
    world.push(world.register.store("m1", payload=b"", size=40))
    [notice] = device.pushed()
    device.puback(notice.packet_id or 0)
    world.flush()
    pull(device, "m1")
    [body], [ack] = taken(device)
    assert (body.payload, dict(body.user_properties)) == (b"b" * 40, {"id": "m1"})
    assert (ack.packet_id, int(ack.reason_code)) == (1, 0)
    device.puback(body.packet_id or 0)
    world.flush()
    assert world.register.settled == [("m1", "acked")]


def test_given_a_notice_when_rejected_then_it_is_settled(world: World) -> None:
    device = world.device("c1", "push/demo")
    world.push(world.register.store("m1", payload=b"", size=40))
    [notice] = device.pushed()
    device.puback(notice.packet_id or 0, 0x83)
    world.flush()
    assert world.register.settled == [("m1", "rejected")]


def test_given_a_full_window_when_pulled_then_the_answer_waits_for_a_place(world: World) -> None:
    device = world.device("c1", "push/demo", receive_max=1)
    world.push(world.register.store("m1", payload=b"", size=40))
    [notice] = device.pushed()
    pull(device, "m1")
    assert taken(device) == ([], [])
    device.puback(notice.packet_id or 0)
    [body], [ack] = taken(device)
    assert (body.payload, ack.packet_id) == (b"b" * 40, 1)


def test_given_a_broadcast_in_the_place_meanwhile_when_the_body_comes_then_it_is_asked_for_again(world: World) -> None:
    device = world.device("c1", "push/demo", receive_max=1)
    world.register.store("m1", payload=b"", size=40)
    world.register.held = True
    pull(device, "m1")
    client = device.session.client
    assert client is not None
    client.broadcasts_inflight = 1
    world.register.answer()
    assert taken(device) == ([], [])
    world.register.held = False
    device.puback(FIRST_BROADCAST_ID)
    [body], [ack] = taken(device)
    assert (body.payload, ack.packet_id) == (b"b" * 40, 1)


def test_given_pulls_for_what_is_not_there_then_each_is_refused_with_a_reason(world: World) -> None:
    device = world.device("c1", "push/demo")
    pull(device, "nothing", packet_id=1)
    pull(device, "m1", packet_id=2, topic="pull/chat")  # not bound
    pull(device, "m1", packet_id=3, topic="pull/UPPER")
    pull(device, "bad id", packet_id=4)
    bodies, acks = taken(device)
    assert bodies == []
    assert [(ack.packet_id, int(ack.reason_code)) for ack in acks] == [(1, 0x83), (2, 0x87), (3, 0x90), (4, 0x83)]
    assert all(ack.reason_str for ack in acks)


def test_given_a_body_on_its_way_when_pulled_then_it_is_not_written_twice(world: World) -> None:
    device = world.device("c1", "push/demo")
    world.push(world.register.store("m1"))
    [body] = device.pushed()
    pull(device, "m1", packet_id=1)
    assert [int(ack.reason_code) for ack in taken(device)[1]] == [0]
    device.puback(body.packet_id or 0)
    pull(device, "m1", packet_id=2)  # settled here, and the saver not told yet
    assert [int(ack.reason_code) for ack in taken(device)[1]] == [0x83]


def test_given_both_when_the_body_is_too_large_then_a_notice_comes_and_the_pull_is_refused(world: World) -> None:
    device = world.device("c1", "push/demo", max_packet_size=120)
    world.push(world.register.store("small", payload=b"x" * 30, or_notice=True))
    world.push(world.register.store("large", payload=b"x" * 300, or_notice=True))
    small, large = device.pushed()
    assert (small.payload, dict(small.user_properties)) == (b"x" * 30, {"id": "small"})
    assert (large.payload, dict(large.user_properties)) == (b"", {"id": "large", "pull": "large", "size": "300"})
    pull(device, "large")
    bodies, [ack] = taken(device)
    assert (bodies, int(ack.reason_code)) == ([], 0x97)
    world.flush()
    assert world.register.settled == []  # it can be had by HTTP


def test_given_a_bind_at_qos_0_when_the_notice_has_drained_then_nothing_is_settled_until_the_body_has(world: World) -> None:
    device = world.device("c1")
    device.subscribe("push/demo", qos=0)
    device.socket.take()
    world.push(world.register.store("m1", payload=b"", size=40))
    world.flush()
    world.flush()
    assert (device.pushed_ids(), world.register.settled) == (["m1"], [])
    pull(device, "m1", packet_id=None)
    [body] = device.pushed()
    assert body.payload == b"b" * 40
    world.flush()
    world.flush()
    assert world.register.settled == [("m1", "written")]


def test_given_a_pull_while_a_sync_is_asked_then_it_waits_and_the_page_brings_no_second_body(world: World) -> None:
    device = world.device("c1", "push/demo")
    world.register.held = True
    world.register.store("m1")
    device.session.delivery.sync_soon()  # type: ignore[union-attr]
    world.flush()
    pull(device, "m1")
    assert len(world.register.waiting) == 1
    world.register.answer()  # the page has it
    bodies, acks = taken(device)
    assert ([dict(body.user_properties)["id"] for body in bodies], len(acks)) == (["m1"], 1)


def test_given_pulls_without_end_then_acks_are_told_all_the_same(world: World) -> None:
    device = world.device("c1", "push/demo")
    world.register.held = True
    for number in range(40):
        world.register.store(f"m{number}", payload=b"", size=1)
    for number in range(40):
        pull(device, f"m{number}", packet_id=1 + number % 4)
        while world.register.waiting:
            world.register.answer()
            for packet in device.socket.take():
                if isinstance(packet, mqtt5.PublishPacket):
                    device.puback(packet.packet_id or 0)
    assert len(world.register.settled) >= 32


def test_given_a_pull_under_way_when_the_client_leaves_and_returns_then_it_is_asked_again_by_the_client(world: World) -> None:
    device = world.device("c1", "push/demo", session_expiry_interval=30)
    world.register.store("m1", payload=b"", size=5)
    world.register.held = True
    pull(device, "m1")
    device.lose()
    world.register.answer()
    world.register.held = False
    again = world.device("c1", session_expiry_interval=30, clean_start=False)
    assert again.socket.take() == []
    pull(again, "m1")
    bodies, acks = taken(again)
    assert ([body.payload for body in bodies], len(acks)) == ([b"bbbbb"], 1)


def test_given_more_pulls_than_our_receive_maximum_then_it_is_a_violation(world: World) -> None:
    device = world.device("c1", "push/demo")
    world.register.held = True
    for number in range(17):
        pull(device, f"m{number}", packet_id=number + 1)
    assert device.socket.closed
    [last] = [packet for packet in device.socket.take() if isinstance(packet, mqtt5.DisconnectPacket)]
    assert int(last.reason_code) == 0x93


def test_given_a_connect_of_a_peer_that_has_left_then_nobody_loses_a_session_to_it(world: World) -> None:
    device = world.device("c1", "push/demo")
    late = world.accept()
    late.socket.hung_up = True
    late.connect("c1")
    assert late.socket.closed
    assert not device.socket.closed
    assert world.register.number == 1
