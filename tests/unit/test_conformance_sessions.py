"""MQTT 5 §3.14, §3.15, §4.1, §4.12: how a connection lives and ends. docs/conformance.md: which test shows which statement."""

from __future__ import annotations

import mqtt5
import pytest
from gateway_world import Device, World, claims, sign

from gateway.admission import refresh
from gateway.mqtt import packets
from gateway.mqtt.framing import decode
from gateway.reasons import Reason
from infra.wire import Downlink, Kick

LISTED = {
    0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8B, 0x8D, 0x8E, 0x8F, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99, 0x9A,
    0x9B, 0x9C, 0x9D, 0x9E, 0x9F, 0xA0, 0xA1, 0xA2,
}  # fmt: skip
"""Reason codes of DISCONNECT (§3.14.2.1)."""


@pytest.mark.parametrize("code", [*Reason, *range(0x80, 0xA3)])
def test_given_any_reason_then_disconnect_says_one_that_it_has_and_no_session_expiry(code: int) -> None:
    found = decode(memoryview(packets.disconnect(code, "why")))
    assert isinstance(found, mqtt5.DisconnectPacket)
    assert int(found.reason_code) == (code if code in LISTED else 0x80)
    assert (found.session_expiry_interval, found.user_properties) == (None, [])


@pytest.mark.parametrize("code", [0x00, 0x80, 0x87, 0x8A, 0x98, 0xA3, 0xFF])
def test_given_a_kick_with_any_reason_then_the_client_hears_one_that_disconnect_has(code: int) -> None:
    world = World()
    device = world.device("c1")
    world.room.kick(Kick("main:c1", 1, 1, code, "go"))
    said = int(device.socket.one(mqtt5.DisconnectPacket).reason_code)
    assert said in LISTED
    assert said >= 0x80
    assert device.socket.closed


def test_given_a_disconnect_larger_than_the_client_takes_then_without_its_text() -> None:
    for most, text in ((70, None), (400, "x" * 100)):
        world = World()
        device = world.device("c1", max_packet_size=most)
        world.room.kick(Kick("main:c1", 1, 1, 0x98, "x" * 100))
        assert len(device.socket.raw[0]) <= most
        said = device.socket.one(mqtt5.DisconnectPacket)
        assert (said.reason_str, said.user_properties) == (text, [])


def test_given_a_disconnect_of_ours_then_the_socket_is_closed_and_nothing_follows() -> None:
    world = World()
    device = world.device("c1", "push/demo")
    device.publish("up/demo/pos", packet_id=1)
    world.register.held = True
    device.subscribe("push/chat", packet_id=2)
    device.send(mqtt5.PublishPacket("up/demo/pos", b"", retain=True))
    assert int(device.socket.one(mqtt5.DisconnectPacket).reason_code) == Reason.RETAIN_NOT_SUPPORTED
    assert device.socket.closed
    world.coordinator.answer()
    world.register.held = False
    while world.register.waiting:
        world.register.answer()
    world.push(world.register.store("m1"))
    world.push(Downlink("f1", 0, b"x"))
    world.flush()
    world.pass_time(1)
    assert device.socket.raw == []


def test_given_an_auth_of_ours_then_it_has_the_method_and_nothing_else() -> None:
    found = decode(memoryview(refresh.DONE))
    assert isinstance(found, mqtt5.AuthPacket)
    assert (int(found.reason_code), found.authentication_method, found.authentication_data) == (0, "jwt", None)
    assert (found.reason_str, found.user_properties) == (None, [])
    assert len(refresh.DONE) < packets.connack_size("r", "jwt")  # so whoever is let in takes it


def test_given_a_connection_that_stays_open_for_longer_than_its_session_is_kept_then_the_session_is_there() -> None:
    world = World()
    device = world.device("c1", "push/demo", session_expiry_interval=5)
    for _ in range(4):
        world.pass_time(10)
        device.send(mqtt5.PingReqPacket())
    device.socket.take()
    assert world.push(world.register.store("m1")) == "written"
    device.lose()
    world.pass_time(3)
    again = world.accept()
    again.connect("c1", session_expiry_interval=5)
    assert again.socket.take()[0].session_present  # type: ignore[union-attr]


def entered(world: World) -> Device:
    device = world.accept()
    device.connect("c1", authentication_method="jwt")
    return device


def test_given_any_connect_with_the_method_then_it_is_answered_at_once_and_nothing_more_is_asked() -> None:
    for password, code in ((sign(claims()), 0), (b"nonsense", 0x86)):
        device = World().accept()
        device.connect("c1", password=password, authentication_method="jwt")
        assert int(device.socket.one(mqtt5.ConnAckPacket).reason_code) == code


def test_given_an_auth_that_goes_on_with_nothing_then_0x82() -> None:
    device = entered(World())
    device.socket.take()
    device.send(
        mqtt5.AuthPacket(
            reason_code=mqtt5.AuthReasonCode.CONTINUE_AUTHENTICATION,
            authentication_method="jwt",
            authentication_data=sign(claims()),
        )
    )
    assert int(device.socket.one(mqtt5.DisconnectPacket).reason_code) == Reason.PROTOCOL_ERROR
    assert device.socket.closed
