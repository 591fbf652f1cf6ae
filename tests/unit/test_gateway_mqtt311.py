"""MQTT 3.1.1 at a room: the same rules in the old form, and what it can't say left out openly (docs/protocol.md)."""

from __future__ import annotations

import mqtt5
import pytest

from gateway.mqtt import packets
from gateway.mqtt.forms import MQTT5, MQTT311
from gateway.mqtt.mqtt311 import encode
from gateway.mqtt.packets import RECEIVE_MAXIMUM
from gateway.mqtt.publish import publish as built
from gateway.mqtt.publish import topic_field
from gateway.reasons import End
from gateway.sessions.states import State
from infra.documents import Policy
from infra.wire import BindItem, ConnectResult, SyncItem, UplinkResult
from tests.unit.gateway_world import World
from tests.unit.mqtt311_device import (
    BAD_UTF8,
    LEAVE,
    PING,
    Got,
    OldDevice,
    connect,
    field,
    old_device,
    packet,
    puback,
    publish,
    read,
    subscribe,
    unsubscribe,
)  # fmt: skip


@pytest.fixture
def world() -> World:
    return World()


# --- CONNECT -----------------------------------------------------------------------------------------------------------


def test_given_an_old_connect_then_connack_has_two_bytes_and_the_session_is_open(world: World) -> None:
    device = OldDevice(world)
    device.say(connect())
    assert device.said_bytes() == b"\x20\x02\x00\x00"
    assert (device.session.state, device.session.form) == (State.OPEN, MQTT311)


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (connect(password=b"no token"), 4),
        (connect("", flags=0xC2), 2),
        (connect("c1", flags=0x02), 4),  # no password
        (connect("c2", password=b""), 4),
        (connect("no spaces please"), 2),
    ],
)
def test_given_a_client_that_is_not_let_in_then_its_return_code_is_said(world: World, said: bytes, code: int) -> None:
    device = OldDevice(world)
    device.say(said)
    assert device.said_bytes() == bytes((0x20, 2, 0, code))
    assert device.socket.closed


def test_given_a_room_that_drains_or_a_saver_that_is_away_then_the_server_is_unavailable(world: World) -> None:
    world.room.draining = True
    device = OldDevice(world)
    device.say(connect())
    assert device.said_bytes() == b"\x20\x02\x00\x03"
    world.room.draining = False
    world.register.held = True
    device = OldDevice(world)
    device.say(connect())
    world.pass_time(6)
    assert device.said_bytes() == b"\x20\x02\x00\x03"


def test_given_a_will_then_the_connection_is_closed_without_a_word(world: World) -> None:
    device = OldDevice(world)
    device.say(connect(flags=0xC6, middle=field("up/demo/x") + field(b"gone")))
    assert device.said_bytes() == b""
    assert device.socket.closed


MALFORMED_CONNECTS = {
    "the reserved flag": connect(flags=0xC3),
    "a Will QoS without a Will": connect(flags=0xCA),
    "Will Retain without a Will": connect(flags=0xE2),
    "a Will of QoS 3": connect(flags=0xDE, middle=field("t") + field(b"")),
    "a password without a user name": connect(flags=0x42),
    "bytes after the last field": connect(flags=0x82, middle=field("x") + field("y")),
    "a field beyond its packet": packet(0x10, field("MQTT") + b"\x04\x02\x00\x3c\x00\x09c1"),
    "nothing after the level": packet(0x10, field("MQTT") + b"\x04"),
    "a client id that is not UTF-8": packet(0x10, field("MQTT") + b"\x04\x02\x00\x3c" + field(BAD_UTF8)),
    "a client id with a NUL": packet(0x10, field("MQTT") + b"\x04\x02\x00\x3c" + field("c\x001")),
}


@pytest.mark.parametrize("said", MALFORMED_CONNECTS.values(), ids=MALFORMED_CONNECTS.keys())
def test_given_a_malformed_connect_then_it_is_closed_without_a_word(world: World, said: bytes) -> None:
    device = OldDevice(world)
    device.say(said)
    assert device.said_bytes() == b""
    assert device.socket.closed


@pytest.mark.parametrize("clean", [True, False])
def test_given_clean_session_then_it_is_kept_only_if_it_is_not(world: World, clean: bool) -> None:
    device = old_device(world, "push/demo", clean=clean)
    device.session.lost()
    assert (device.session.state == State.AWAY) is not clean
    back = OldDevice(world)
    back.say(connect(clean=False))
    assert back.said_bytes() == bytes((0x20, 2, not clean, 0))


def test_given_a_kept_session_then_what_was_not_acknowledged_comes_again_with_dup(world: World) -> None:
    device = old_device(world, "push/demo", clean=False)
    world.push(world.register.store("m1", payload=b"one"))
    [first] = device.heard()
    device.session.lost()
    back = OldDevice(world)
    back.say(connect(clean=False))
    connack, again = back.heard()
    assert connack == Got(0x20, "", 0, b"\x01\x00")
    assert again == Got(0x3A, "push/demo", first.packet_id, b"one")


def test_given_a_session_of_the_other_version_then_it_is_not_gone_on_with(world: World) -> None:
    new = world.device("c1", "push/demo", session_expiry_interval=30)
    new.lose()
    device = OldDevice(world)
    device.say(connect(clean=False))
    assert device.said_bytes() == b"\x20\x02\x00\x00"
    device.session.lost()
    third = world.accept()
    third.connect("c1", session_expiry_interval=30)
    assert third.socket.one(mqtt5.ConnAckPacket).session_present is False
    assert third.session.form is MQTT5


@pytest.mark.parametrize(("asked", "alive_for"), [(500, 750), (0, 150)])
def test_given_a_keep_alive_then_it_is_the_clients_and_ours_only_where_it_has_none(asked: int, alive_for: int) -> None:
    world = World(policy=Policy(keep_alive_default=100, connect_ramp_from=1.0))
    device = old_device(world, keep_alive=asked)
    world.pass_time(alive_for - 2, step=1)
    assert not device.socket.closed
    world.pass_time(4, step=1)
    assert device.socket.closed
    assert device.said_bytes() == b""  # no DISCONNECT: it is the client's packet


# --- messages ----------------------------------------------------------------------------------------------------------


def test_given_a_message_then_it_comes_without_properties_and_its_puback_settles(world: World) -> None:
    device = old_device(world, "push/demo")
    message = world.register.store(
        "m1", payload=b"hello", properties=[("k", "v" * 200)], content_type="text/plain", expires_in_s=9
    )
    assert world.push(message) == "written"
    [got] = device.heard()
    assert (got.first, got.topic, got.payload) == (0x32, "push/demo", b"hello")
    device.say(puback(got.packet_id))
    world.flush()
    assert world.register.settled == [("m1", "acked")]


def test_given_qos_0_then_it_has_no_packet_id(world: World) -> None:
    device = old_device(world, "push/demo", qos=0)
    world.push(world.register.store("m1", payload=b"hello"))
    assert device.heard() == [Got(0x30, "push/demo", 0, b"hello")]


def test_given_more_messages_than_the_window_then_the_rest_comes_as_it_acknowledges(world: World) -> None:
    world.policy = Policy(window=4, connect_ramp_from=1.0, flapping_connects=100_000)
    device = old_device(world, "push/demo")
    for number in range(10):
        world.push(world.register.store(f"m{number}", payload=b"%d" % number))
    seen: list[bytes] = []
    while got := [each for each in device.heard() if each.first & 0xF0 == 0x30]:
        assert len(got) <= 4
        seen += [each.payload for each in got]
        device.say(*(puback(each.packet_id) for each in got))
        world.flush()
    assert seen == [b"%d" % number for number in range(10)]


def test_given_messages_only_for_pull_then_they_come_with_their_bodies(world: World) -> None:
    world.register.store("m1", payload=b"", size=5)
    device = old_device(world)
    device.say(subscribe("push/demo"))
    suback, first = device.heard()
    assert (suback.first, first.payload) == (0x90, b"b" * 5)
    assert world.push(world.register.store("m2", payload=b"", size=7)) == "behind"
    device.say(puback(first.packet_id))
    world.flush()
    [second] = device.heard()
    assert second.payload == b"b" * 7
    device.say(puback(second.packet_id))
    world.flush()
    assert world.register.settled == [("m1", "acked"), ("m2", "acked")]
    assert all(item.whole for item in world.register.of(BindItem))
    assert all(item.whole for item in world.register.of(SyncItem) if item.products)


def test_given_a_saver_of_an_older_version_then_a_notice_is_left_for_the_next_sync_and_what_comes_behind_is_written(
    world: World,
) -> None:
    world.register.older = True
    world.register.store("m1", payload=b"", size=5)
    world.register.store("m2", payload=b"two")
    device = old_device(world)
    device.say(subscribe("push/demo"))
    _, got = device.heard()
    assert got.payload == b"two"
    device.say(puback(got.packet_id))
    for _ in range(5):
        world.flush()
    assert len(world.register.of(SyncItem)) == 1  # the ack: it does not ask again and again
    assert device.heard() == []
    world.push(world.register.store("m3", payload=b"three"))
    assert [each.payload for each in device.heard()] == [b"three"]
    world.register.older = False
    device.session.delivery.sync_soon()  # type: ignore[union-attr]
    world.flush()
    assert [each.payload for each in device.heard()] == [b"b" * 5]


def test_given_a_client_of_mqtt_5_then_nothing_is_asked_whole(world: World) -> None:
    world.device("c1", "push/demo")
    assert [item.whole for item in world.register.of(BindItem)] == [False]


def test_given_a_subscribe_then_a_refused_filter_is_0x80_and_unsubscribe_is_answered_bare(world: World) -> None:
    device = old_device(world)
    device.say(subscribe("push/demo", "push/#", "other", packet_id=7))
    assert device.said_bytes() == b"\x90\x05\x00\x07\x01\x80\x80"
    device.say(unsubscribe("push/demo", packet_id=8))
    assert device.said_bytes() == b"\xb0\x02\x00\x08"


def test_given_qos_2_asked_for_then_1_is_granted(world: World) -> None:
    device = old_device(world)
    device.say(subscribe("push/demo", qos=2))
    assert device.said_bytes() == b"\x90\x03\x00\x01\x01"


def test_given_a_ping_then_it_is_answered_and_a_disconnect_ends_a_clean_session(world: World) -> None:
    device = old_device(world, "push/demo")
    device.say(PING)
    assert device.said_bytes() == b"\xd0\x00"
    device.say(LEAVE)
    assert device.socket.closed
    assert [item.reason for item in world.register.disconnects] == [End.NORMAL]


# --- uplinks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packet_id", [0, 5])
def test_given_an_uplink_then_it_is_taken_and_at_qos_1_acknowledged(world: World, packet_id: int) -> None:
    device = old_device(world)
    device.say(publish("up/demo/note", b"hi", packet_id=packet_id))
    item = world.coordinator.answer()
    assert (item.type, item.payload, item.properties, item.wants_reply) == ("note", b"hi", [], False)
    assert device.said_bytes() == (b"\x40\x02\x00\x05" if packet_id else b"")


REFUSED = {
    "no topic of ours": publish("elsewhere", packet_id=5),
    "a product that the token does not name": publish("up/other/note", packet_id=5),
    "too large": publish("up/demo/note", b"x" * 101, packet_id=5),
    "a pull": publish("pull/demo", b"", packet_id=5),
    "a wildcard": publish("up/demo/+", packet_id=5),
    "retain": publish("up/demo/note", packet_id=5, flags=1),
    "QoS 2": packet(0x34, field("up/demo/note") + b"\x00\x05x"),
    "QoS 3": packet(0x36, field("up/demo/note") + b"\x00\x05x"),
    "no topic": packet(0x32, b"\x00"),
    "a topic beyond its packet": packet(0x32, b"\x00\xff" + b"up"),
    "a topic that is not UTF-8": packet(0x32, field(BAD_UTF8) + b"\x00\x05x"),
    "a packet id of 0": packet(0x32, field("up/demo/note") + b"\x00\x00x"),
}


@pytest.mark.parametrize("said", REFUSED.values(), ids=REFUSED.keys())
def test_given_an_uplink_that_is_refused_then_the_connection_is_closed_and_no_puback_says_it_was_taken(
    world: World, said: bytes
) -> None:
    device = old_device(world)
    device.say(said)
    assert device.said_bytes() == b""
    assert device.socket.closed
    assert list(world.coordinator.waiting) == []


def test_given_more_uplinks_at_once_than_a_window_then_they_are_read_as_others_are_acknowledged(world: World) -> None:
    device = old_device(world)
    device.say(*(publish("up/demo/note", b"%d" % number, packet_id=number) for number in range(1, 41)))
    seen = []
    while world.coordinator.waiting:
        assert len(world.coordinator.waiting) <= RECEIVE_MAXIMUM
        seen.append(world.coordinator.answer().payload)
        device.say()  # the link reads on
    assert seen == [b"%d" % number for number in range(1, 41)]
    assert [got.payload for got in device.heard()] == [number.to_bytes(2) for number in range(1, 41)]
    assert not device.socket.closed


def test_given_an_uplink_that_is_sent_again_while_it_is_under_way_then_it_is_taken_once(world: World) -> None:
    device = old_device(world)
    device.say(publish("up/demo/note", packet_id=5), publish("up/demo/note", packet_id=5, flags=8))
    assert len(world.coordinator.waiting) == 1
    world.coordinator.answer()
    assert device.said_bytes() == b"\x40\x02\x00\x05"
    device.say(publish("up/demo/note", packet_id=5, flags=8))  # acknowledged meanwhile: it is another one
    world.coordinator.answer()
    device.say(publish("up/demo/note", packet_id=5), publish("up/demo/note", packet_id=5))
    assert device.socket.closed  # without DUP it is no repetition


def test_given_an_uplink_that_the_coordinator_refuses_then_the_connection_is_closed(world: World) -> None:
    device = old_device(world)
    device.say(publish("up/demo/note", packet_id=5))
    world.coordinator.answer(UplinkResult("refused", 0x97, "too much"))
    assert device.said_bytes() == b""
    assert device.socket.closed


def test_given_an_uplink_that_nobody_answers_then_no_puback_comes_and_the_connection_stays(world: World) -> None:
    device = old_device(world)
    device.say(publish("up/demo/note", packet_id=5))
    world.coordinator.waiting.popleft().done(None)
    assert device.said_bytes() == b""
    assert not device.socket.closed


# --- the rest ----------------------------------------------------------------------------------------------------------

BROKEN = {
    "AUTH": b"\xf0\x00",
    "type 0": b"\x00\x00",
    "PUBREL": b"\x62\x02\x00\x01",
    "a PUBACK with a reason": b"\x40\x03\x00\x01\x80",
    "a PINGREQ with a body": b"\xc0\x01\x00",
    "a DISCONNECT with a body": b"\xe0\x01\x00",
    "a second CONNECT": connect(),
    "SUBSCRIBE with wrong flags": b"\x80" + subscribe("push/demo")[1:],
    "SUBSCRIBE without a filter": packet(0x82, b"\x00\x01"),
    "SUBSCRIBE without a packet id": packet(0x82, b"\x00"),
    "SUBSCRIBE with a reserved bit": packet(0x82, b"\x00\x01" + field("push/demo") + b"\x04"),
    "SUBSCRIBE at QoS 3": packet(0x82, b"\x00\x01" + field("push/demo") + b"\x03"),
    "SUBSCRIBE with MQTT 5's properties": packet(0x82, b"\x00\x01\x00" + field("push/demo") + b"\x01"),
    "257 filters": subscribe(*(f"push/demo/{number}" for number in range(257))),
    "UNSUBSCRIBE without a filter": packet(0xA2, b"\x00\x01"),
    "a packet id of 0": packet(0x82, b"\x00\x00" + field("push/demo") + b"\x01"),
}


@pytest.mark.parametrize("said", BROKEN.values(), ids=BROKEN.keys())
def test_given_bytes_that_are_no_packet_of_the_old_version_then_it_is_closed_without_a_word(world: World, said: bytes) -> None:
    device = old_device(world)
    device.say(said)
    assert device.said_bytes() == b""
    assert device.socket.closed


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_given_a_stream_cut_anywhere_then_the_same_comes_of_it(size: int) -> None:
    data = b"".join((connect(), subscribe("push/demo"), publish("up/demo/note", b"p" * 90, packet_id=5), PING))
    outcomes = []
    for step in (len(data), size):
        world = World()
        device = OldDevice(world)
        for at in range(0, len(data), step):
            device.say(data[at : at + step])
        outcomes.append((device.said_bytes(), world.coordinator.answer()))
    assert outcomes[0] == outcomes[1]


def test_given_a_takeover_then_the_older_connection_is_closed_without_a_word(world: World) -> None:
    device = old_device(world, "push/demo")
    world.device("c1", "push/demo")
    assert device.said_bytes() == b""
    assert device.socket.closed


def test_given_a_connection_that_left_while_the_saver_was_asked_then_the_register_hears_of_it(world: World) -> None:
    world.register.held = True
    device = OldDevice(world)
    device.say(connect())
    device.session.lost()
    world.register.answer(ConnectResult("ok", 1, 1))
    assert [item.key for item in world.register.disconnects] == ["main:c1"]


def test_given_acknowledgements_of_every_form_then_the_old_one_has_no_reason() -> None:
    assert encode(packets.puback(5)) == encode(packets.puback(5, 0x10, "nobody" * 40)) == b"\x40\x02\x00\x05"
    assert encode(packets.suback(5, [0, 1, 0x87], "no" * 100)) == b"\x90\x05\x00\x05\x00\x01\x80"
    assert encode(packets.unsuback(5, [0, 0x11])) == b"\xb0\x02\x00\x05"
    assert encode(packets.disconnect(0x8E, "again") + packets.PINGRESP) == b"\xd0\x00"


# --- the codec ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 100, 130, 20_000])
@pytest.mark.parametrize("qos", [0, 1])
@pytest.mark.parametrize("properties", [[], [("k", "v" * 300)]])
def test_given_any_publish_then_topic_id_and_payload_are_as_they_were(
    size: int, qos: int, properties: list[tuple[str, str]]
) -> None:
    payload = bytes(range(256)) * (size // 256) + bytes(size % 256)
    data = built(
        topic_field("push/demo"),
        payload,
        id="m1",
        qos=qos,
        packet_id=0x1234 if qos else None,
        properties=properties,
        expires_in_s=7,
    )
    assert read(encode(data + data)) == [Got(0x30 | qos << 1, "push/demo", 0x1234 if qos else 0, payload)] * 2
