"""MQTT 5 §3.1, §3.2: CONNECT and CONNACK. docs/conformance.md says which test shows which statement."""

from __future__ import annotations

from typing import Any

import mqtt5
import pytest
from gateway_world import World
from hypothesis import given, settings
from hypothesis import strategies as st
from live_room import PING, SUBSCRIBE, live
from wire_bytes import closes_unsaid, connect, good_connect, pair, say, string

from gateway.mqtt.framing import BadPacket, decode
from gateway.reasons import End, Reason
from infra.settings import RoomSettings
from infra.wire import BindItem, Downlink, UplinkResult


def test_given_another_protocol_name_then_closed() -> None:
    assert closes_unsaid(connect(name="MQTX"))
    assert closes_unsaid(connect(name="mqtt"))


def test_given_a_later_version_then_0x84_and_closed() -> None:
    device = World().accept()
    device.session.malformed(BadPacket(Reason.UNSUPPORTED_VERSION, "MQTT 5 is spoken here"))
    assert int(device.socket.one(mqtt5.ConnAckPacket).reason_code) == 0x84
    assert device.socket.closed


@pytest.mark.parametrize("flags", [0x03, 0x0A, 0x12, 0x1A, 0x22, 0x3A])
def test_given_connect_flags_against_the_rules_then_closed(flags: int) -> None:
    """The reserved one; Will QoS and Will Retain without a Will."""
    assert closes_unsaid(connect(flags=flags, payload=string("c1")))


def test_given_a_will_qos_of_3_then_closed() -> None:
    assert closes_unsaid(connect(flags=0x1E, payload=string("c1") + b"\x00" + string("push/demo") + string("x")))


@pytest.mark.parametrize(
    ("flags", "payload"),
    [
        (0x82, string("c1")),
        (0x42, string("c1")),
        (0xC2, string("c1") + string("one of two")),
        (0x02, string("c1") + string("not announced")),
        (0x06, string("c1") + b"\x00" + string("topic, and no message")),
        (0x02, b""),
        (0x02, b"\x00\x05c1"),
    ],
    ids=["no user name", "no password", "one of both", "more than announced", "half a Will", "no client id", "cut"],
)
def test_given_a_payload_that_is_not_what_the_flags_say_then_closed(flags: int, payload: bytes) -> None:
    assert closes_unsaid(connect(flags=flags, payload=payload))


def test_given_all_fields_then_each_is_read_in_its_order() -> None:
    will = b"\x00" + string("will/topic") + string("will")
    data = connect(flags=0xC6, payload=string("the-client") + will + string("name") + string("word"), given=(pair("k", "v"),))
    found = decode(memoryview(data))
    assert isinstance(found, mqtt5.ConnectPacket)
    assert found.will is not None
    assert (found.client_id, found.will.topic, found.will.payload) == ("the-client", "will/topic", b"will")
    assert (found.username, found.password, found.clean_start) == ("name", b"word", True)


@settings(max_examples=60, deadline=None)
@given(client=st.text("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", min_size=1, max_size=23))
def test_given_any_client_id_of_23_letters_and_digits_at_most_then_it_is_let_in(client: str) -> None:
    device = World().device(client)
    assert device.session.client is not None
    assert device.session.client.key == f"main:{client}"


@pytest.mark.parametrize("asked", [True, False])
def test_given_response_information_is_asked_for_or_not_then_none_is_given(asked: bool) -> None:
    device = World().accept()
    device.connect(request_response_info=asked)
    assert device.socket.one(mqtt5.ConnAckPacket).response_info is None


@pytest.mark.parametrize("returned", [False, True], ids=["at once", "after a return"])
@pytest.mark.parametrize("wanted", [True, False], ids=["wanted", "not wanted"])
def test_given_problem_information_is_wanted_or_not_then_acknowledgements_have_a_reason_string_or_none(
    wanted: bool, returned: bool
) -> None:
    world = World()
    device = world.device("c1", "push/demo", request_problem_info=wanted != returned, session_expiry_interval=30)
    if returned:
        device.lose()
        device = world.accept()
        device.connect("c1", request_problem_info=wanted, session_expiry_interval=30)
        assert device.socket.one(mqtt5.ConnAckPacket).session_present
    device.publish("up/none/pos", packet_id=1)
    device.publish("pull/demo", packet_id=2, user_properties=[("id", "m1")])
    device.publish("pull/demo", packet_id=3)
    device.publish("up/demo/pos", packet_id=4)
    world.coordinator.answer(UplinkResult("refused", 0x97, "too much"))
    device.subscribe("push/none", packet_id=5)
    said = device.socket.take()
    assert [(type(item), item.packet_id) for item in said] == [  # type: ignore[union-attr]
        *((mqtt5.PubAckPacket, number) for number in (1, 2, 3, 4)),
        (mqtt5.SubAckPacket, 5),
    ]
    assert {bool(item.reason_str) for item in said} == {wanted}  # type: ignore[union-attr]
    assert not any(item.user_properties for item in said)  # type: ignore[union-attr]


async def test_given_a_refused_connect_when_more_came_with_it_then_nothing_of_it_is_handled() -> None:
    async with live() as room:
        client = await room.client(good_connect("c1", will=mqtt5.Will("a", payload=b"")), good_connect("c1"), SUBSCRIBE, PING)
        said = await client.closed()
        answer, size = mqtt5.read(memoryview(said))
        assert isinstance(answer, mqtt5.ConnAckPacket)
        assert (int(answer.reason_code), len(said)) == (0x90, size)
        assert room.world.register.items == []


@pytest.mark.parametrize(
    ("kept", "fields", "flags"),
    [
        (False, {}, 0),
        (True, {}, 1),
        (True, {"clean_start": True}, 0),
        (True, {"password": b"nonsense"}, 0),
        (True, {"will": mqtt5.Will("a", payload=b"")}, 0),
    ],
    ids=["new", "back", "clean start", "refused", "refused for its Will"],
)
def test_given_any_connack_then_its_flags_say_session_present_or_nothing(kept: bool, fields: dict[str, Any], flags: int) -> None:
    world = World()
    if kept:
        world.device("c1", "push/demo", session_expiry_interval=30).lose()
    device = world.accept()
    device.connect("c1", **{"session_expiry_interval": 30, **fields})
    [said] = device.socket.raw
    assert (said[0], said[2]) == (0x20, flags)


def test_given_a_connection_that_ends_before_its_connack_then_no_disconnect_is_said() -> None:
    world = World()
    before, waiting = world.accept(), world.accept()
    before.session.close(Reason.ADMINISTRATIVE, End.DENIED, "no")
    world.register.held = True
    waiting.connect("c2")
    waiting.session.close(Reason.ADMINISTRATIVE, End.DENIED, "no")
    for device in (before, waiting):
        assert device.socket.closed
        assert device.socket.raw == []


@pytest.mark.parametrize(("most", "whole"), [(400, True), (30, False)])
def test_given_a_reason_that_connack_has_no_room_for_then_it_and_what_is_with_it_are_left_out(most: int, whole: bool) -> None:
    world = World(settings=RoomSettings(max_connections=1))
    world.device("c1")
    device = world.accept()
    device.connect("c2", max_packet_size=most)
    [said] = device.socket.raw
    assert len(said) <= most
    ack = device.socket.one(mqtt5.ConnAckPacket)
    assert (int(ack.reason_code), bool(ack.reason_str), bool(ack.user_properties)) == (0x89, whole, whole)


def test_given_a_client_that_says_disconnect_then_nothing_behind_it_is_handled() -> None:
    world = World()
    device = world.device("c1")
    say(device, mqtt5.DisconnectPacket().write() + SUBSCRIBE + PING)
    assert (device.socket.closed, device.socket.raw, world.register.of(BindItem)) == (True, [], [])
    assert world.push(Downlink("f1", 0, b"x")) == "dropped"
