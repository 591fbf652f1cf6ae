"""No packet is larger than the Maximum Packet Size of who gets it (MQTT 5 §3.1.2.11.4)."""

from __future__ import annotations

import mqtt5
import pytest
from gateway_world import Device, World

from gateway.mqtt import packets
from gateway.reasons import Reason

SUBACK_CODES = (0, 1, 2, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2)
"""MQTT 5 §3.9.3."""


@pytest.mark.parametrize("method", [None, "jwt"])
def test_given_a_client_that_takes_less_than_a_connack_then_it_is_refused_with_0x95_and_no_session_is_asked_for(
    method: str | None,
) -> None:
    world = World()
    least = packets.connack_size("r1", method)
    small = Device(world)
    small.connect(max_packet_size=least - 1, authentication_method=method)
    [ack] = small.socket.raw
    assert len(ack) <= least - 1
    assert int(small.socket.one(mqtt5.ConnAckPacket).reason_code) == Reason.PACKET_TOO_LARGE
    assert small.socket.closed
    assert not world.register.items
    fitting = Device(world)
    fitting.connect(max_packet_size=least, authentication_method=method, session_expiry_interval=30)
    assert len(fitting.socket.raw[0]) <= least
    assert int(fitting.socket.one(mqtt5.ConnAckPacket).reason_code) == 0


@pytest.mark.parametrize("most", [1, 4])
def test_given_a_client_that_takes_no_connack_at_all_then_it_is_closed_without_a_word(most: int) -> None:
    device = Device(World())
    device.connect(max_packet_size=most)
    assert device.socket.closed
    assert device.socket.raw == []


def test_given_a_subscribe_whose_answer_would_be_too_large_then_disconnect_0x95_and_nothing_is_bound() -> None:
    world = World()
    device = world.device("c1", max_packet_size=70)
    device.subscribe(*["push/demo"] * 64)
    assert len(device.socket.raw[0]) <= 70
    device.socket.one(mqtt5.SubAckPacket)
    asked = len(world.register.items)
    device.subscribe(*["push/demo"] * 65)
    assert int(device.socket.one(mqtt5.DisconnectPacket).reason_code) == Reason.PACKET_TOO_LARGE
    assert len(world.register.items) == asked


def test_given_an_unsubscribe_whose_answer_would_be_too_large_then_disconnect_0x95() -> None:
    device = World().device("c1", "push/demo", max_packet_size=70)
    device.unsubscribe(*["push/demo"] * 65)
    assert int(device.socket.one(mqtt5.DisconnectPacket).reason_code) == Reason.PACKET_TOO_LARGE


@pytest.mark.parametrize("code", SUBACK_CODES)
@pytest.mark.parametrize("packet_id", [1, 255, 256, 65_535])
def test_given_a_suback_of_one_code_then_its_bytes_are_those_of_the_codec(code: int, packet_id: int) -> None:
    assert packets.suback(packet_id, [code]) == mqtt5.SubAckPacket(packet_id, [mqtt5.SubAckReasonCode(code)]).write()
