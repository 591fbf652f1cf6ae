"""The session machine: state × packet → outcome, CONNECT's refusals, and the deadlines."""

from __future__ import annotations

from typing import Any

import mqtt5
import pytest
from gateway_world import WALL, Device, World, claims, sign

from gateway.mqtt.forms import MQTT5, OldProtocol
from gateway.mqtt.framing import AFTER_CONNECT, BadPacket
from gateway.reasons import Reason
from gateway.sessions.session import State
from infra.documents import Policy
from infra.settings import RoomSettings
from infra.wire import ConnectItem, ConnectResult, DisconnectItem, Kick, SyncItem

PACKETS: dict[str, mqtt5.Packet] = {
    "connect": mqtt5.ConnectPacket("c1", password=sign(claims())),
    "connack": mqtt5.ConnAckPacket(),
    "publish": mqtt5.PublishPacket("up/demo/x", b"", qos=mqtt5.QoS(1), packet_id=9),
    "puback": mqtt5.PubAckPacket(9),
    "pubrec": mqtt5.PubRecPacket(9),
    "pubrel": mqtt5.PubRelPacket(9),
    "pubcomp": mqtt5.PubCompPacket(9),
    "subscribe": mqtt5.SubscribePacket(9, [mqtt5.TopicFilter("push/demo")]),
    "suback": mqtt5.SubAckPacket(9, [mqtt5.SubAckReasonCode(0)]),
    "unsubscribe": mqtt5.UnsubscribePacket(9, ["push/demo"]),
    "unsuback": mqtt5.UnsubAckPacket(9, [mqtt5.UnsubAckReasonCode(0)]),
    "pingreq": mqtt5.PingReqPacket(),
    "pingresp": mqtt5.PingRespPacket(),
    "disconnect": mqtt5.DisconnectPacket(),
    "auth": mqtt5.AuthPacket(reason_code=mqtt5.AuthReasonCode(24), authentication_method="jwt"),
}
ALLOWED_OPEN = {
    "publish": None,
    "puback": None,
    "subscribe": mqtt5.SubAckPacket,
    "unsubscribe": mqtt5.UnsubAckPacket,
    "pingreq": mqtt5.PingRespPacket,
}


def code_of(device: Device) -> int:
    return int(device.socket.one(mqtt5.DisconnectPacket).reason_code)


# --- the table ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PACKETS)
def test_given_a_new_connection_when_anything_but_connect_comes_then_it_closes_without_a_word(name: str) -> None:
    device = World().accept()
    device.send(PACKETS[name])
    if name == "connect":
        assert device.socket.one(mqtt5.ConnAckPacket)
        assert device.session.state is State.OPEN
    else:
        assert device.socket.closed
        assert device.socket.raw == []


@pytest.mark.parametrize("name", PACKETS)
def test_given_an_open_connection_when_a_packet_comes_then_the_table_decides(name: str) -> None:
    device = World().device()
    device.send(PACKETS[name])
    if name == "disconnect":
        assert device.socket.closed
        assert device.socket.raw == []
    elif name in ALLOWED_OPEN:
        assert not device.socket.closed
        answer = ALLOWED_OPEN[name]
        assert answer is None or device.socket.one(answer)
    else:
        assert code_of(device) == Reason.PROTOCOL_ERROR
        assert device.socket.closed


@pytest.mark.parametrize(
    ("packet", "code"),
    [
        (mqtt5.PublishPacket("up/demo/x", b"", qos=mqtt5.QoS(2), packet_id=1), 0x9B),
        (mqtt5.PublishPacket("up/demo/x", b"", retain=True), 0x9A),
        (mqtt5.PublishPacket("up/demo/x", b"", topic_alias=1), 0x94),
        (mqtt5.PublishPacket("up/demo/x", b"", subscription_ids=[1]), 0x82),
        (mqtt5.PublishPacket("up/demo/x", b"", qos=mqtt5.QoS(1), packet_id=0), 0x82),
        (mqtt5.SubscribePacket(1, [mqtt5.TopicFilter("push/demo")], subscription_id=1), 0xA1),
        (mqtt5.SubscribePacket(0, [mqtt5.TopicFilter("push/demo")]), 0x82),
        (mqtt5.SubscribePacket(1, [mqtt5.TopicFilter("push/demo"), mqtt5.TopicFilter("push/+")]), 0xA2),
        (mqtt5.SubscribePacket(1, [mqtt5.TopicFilter("#")]), 0xA2),
        (mqtt5.SubscribePacket(1, [mqtt5.TopicFilter("$share/g/push/demo")]), 0x9E),
        (mqtt5.DisconnectPacket(session_expiry_interval=9), 0x82),
    ],
)
def test_given_an_open_connection_when_something_not_offered_comes_then_its_reason_is_said(
    packet: mqtt5.Packet, code: int
) -> None:
    device = World().device()
    device.send(packet)
    assert code_of(device) == code


# --- CONNECT -----------------------------------------------------------------------------------------------------------


def test_given_a_good_connect_when_the_saver_answers_then_all_that_is_offered_is_announced() -> None:
    world = World(policy=Policy(keep_alive={"2g": 111}, keep_alive_default=222))
    device = world.accept()
    device.connect(user_properties=[("network", "2g")], keep_alive=500)
    ack = device.socket.one(mqtt5.ConnAckPacket)
    assert (int(ack.reason_code), ack.session_present, ack.server_keep_alive) == (0, False, 111)
    assert (ack.receive_max, int(ack.max_qos), ack.max_packet_size, ack.session_expiry_interval) == (16, 1, AFTER_CONNECT, 0)
    assert [ack.retain_available, ack.wildcard_subscription_available] == [False, False]
    assert [ack.subscription_id_available, ack.shared_subscription_available] == [False, False]
    assert world.register.of(ConnectItem) == [ConnectItem("main:c1", "r1", 5, 1)]
    assert device.session.form is MQTT5


@pytest.mark.parametrize(("asked", "network", "answered"), [(60, "wifi", 60), (0, "wifi", 480), (9999, "moon", 480)])
def test_given_a_keep_alive_when_asked_then_policy_bounds_it(asked: int, network: str, answered: int) -> None:
    device = World().accept()
    device.connect(keep_alive=asked, user_properties=[("network", network)])
    assert device.socket.one(mqtt5.ConnAckPacket).server_keep_alive == answered


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"client": ""}, 0x85),
        ({"client": "a b"}, 0x85),
        ({"client": "x" * 129}, 0x85),
        ({"client": "a*>\r\n"}, 0x85),
        ({"client": "a}{b"}, 0x85),
        ({"password": b""}, 0x86),
        ({"password": b"nonsense"}, 0x86),
        ({"password": sign(claims("c2"))}, 0x86),
        ({"password": sign(claims(products={}))}, 0x87),
        ({"will": mqtt5.Will("push/demo", payload=b"x")}, 0x90),
        ({"will": mqtt5.Will("push/demo", payload=b"x", retain=True)}, 0x9A),
        ({"will": mqtt5.Will("push/demo", payload=b"x", qos=mqtt5.QoS(2))}, 0x9B),
        ({"authentication_method": "PLAIN"}, 0x8C),
    ],
)
def test_given_a_connect_that_is_refused_when_answered_then_code_and_reason(fields: dict[str, Any], code: int) -> None:
    world = World()
    device = world.accept()
    device.connect(**fields)
    ack = device.socket.one(mqtt5.ConnAckPacket)
    assert int(ack.reason_code) == code
    assert ack.reason_str
    assert device.socket.closed
    assert world.register.items == []


def test_given_a_tiny_maximum_packet_size_when_refused_then_the_reason_is_left_out() -> None:
    device = World().accept()
    device.connect(password=b"nonsense", max_packet_size=16)
    assert device.socket.one(mqtt5.ConnAckPacket).reason_str is None


def test_given_a_full_room_when_one_more_connects_then_it_is_told_when_to_come_back() -> None:
    world = World(settings=RoomSettings(max_connections=1))
    world.device()
    late = world.accept()
    late.connect("c2")
    ack = late.socket.one(mqtt5.ConnAckPacket)
    assert int(ack.reason_code) == Reason.SERVER_BUSY
    assert dict(ack.user_properties)["retry-after"]


def test_given_a_draining_room_when_a_client_connects_then_it_is_sent_elsewhere() -> None:
    world = World()
    world.room.draining = True
    device = world.accept()
    device.connect()
    assert int(device.socket.one(mqtt5.ConnAckPacket).reason_code) == Reason.USE_ANOTHER_SERVER


@pytest.mark.parametrize(
    ("error", "answer"),
    [
        (OldProtocol(Reason.UNSUPPORTED_VERSION, ""), b"\x20\x02\x00\x01"),
        (BadPacket(Reason.MALFORMED, ""), b""),
        (BadPacket(Reason.PACKET_TOO_LARGE, ""), b""),
    ],
)
def test_given_no_connect_of_ours_when_it_comes_then_only_a_version_is_answered(error: BadPacket, answer: bytes) -> None:
    device = World().accept()
    device.session.malformed(error)
    assert b"".join(device.socket.raw) == answer
    assert device.socket.closed


def test_given_an_open_connection_when_bytes_are_malformed_then_disconnect_0x81() -> None:
    device = World().device()
    device.session.malformed(BadPacket(Reason.MALFORMED, "x"))
    assert code_of(device) == Reason.MALFORMED


# --- sessions ----------------------------------------------------------------------------------------------------------


def test_given_a_saver_that_is_away_when_5_s_passed_then_0x88_and_a_late_session_is_signed_off() -> None:
    world = World()
    world.register.held = True
    device = world.accept()
    device.connect()
    assert device.socket.paused
    world.pass_time(4.9)
    assert not device.socket.closed
    world.pass_time(0.5)
    ack = device.socket.one(mqtt5.ConnAckPacket)
    assert int(ack.reason_code) == Reason.SERVER_UNAVAILABLE
    assert "retry-after" in dict(ack.user_properties)
    world.register.answer(ConnectResult("ok", 1, 44))
    assert [item.number for item in world.register.disconnects] == [44]


def test_given_a_session_in_another_room_when_the_client_connects_then_it_is_taken_over_only_as_seen_and_while_we_wait() -> None:
    world = World()
    world.register.held = True
    device = world.accept()
    device.connect()
    world.pass_time(2.0)
    world.register.answer(ConnectResult("elsewhere", 3, 7, now_ms=1_000_000))
    assert world.register.of(ConnectItem)[1:] == [ConnectItem("main:c1", "r1", 5, 1, (3, 7), 1_003_000)]
    assert device.socket.paused
    world.register.answer(ConnectResult("ok", 3, 8, now_ms=1_000_001))
    assert device.session.state is State.OPEN


def test_given_we_stood_still_when_the_session_is_in_another_room_then_it_is_left_there() -> None:
    world = World()
    world.register.held = True
    device = world.accept()
    device.connect()
    world.now += 30  # no tick: the answer is read first
    world.register.answer(ConnectResult("elsewhere", 3, 7, now_ms=1_000_000))
    assert len(world.register.of(ConnectItem)) == 1
    assert int(device.socket.one(mqtt5.ConnAckPacket).reason_code) == Reason.SERVER_UNAVAILABLE


def test_given_a_client_when_it_connects_again_here_then_the_older_connection_is_taken_over() -> None:
    world = World()
    old = world.device("c1", "push/demo")
    new = world.device("c1", "push/demo")
    assert code_of(old) == Reason.TAKEN_OVER
    assert [item.number for item in world.register.disconnects] == [1]
    assert world.push(world.register.store("m1"), number=1) == "gone"
    assert world.push(world.register.store("m2"), number=2) == "behind"
    world.flush()
    assert new.pushed_ids() == ["m1", "m2"]


def test_given_two_connects_when_the_saver_answers_the_older_last_then_the_newer_stays() -> None:
    world = World()
    world.register.held = True
    old, new = world.accept(), world.accept()
    old.connect()
    new.connect()
    first = world.register.waiting.popleft()
    world.register.answer(ConnectResult("ok", 1, 2))
    first.done(ConnectResult("ok", 1, 1))
    assert new.session.state is State.OPEN
    assert old.socket.closed


def test_given_a_superseded_session_when_synced_then_the_socket_closes() -> None:
    world = World()
    device = world.device("c1", "push/demo")
    world.register.superseded = True
    world.pass_time(331)
    world.flush()
    assert code_of(device) == Reason.TAKEN_OVER


def test_given_a_kick_when_it_names_this_session_then_it_closes_else_it_is_gone() -> None:
    world = World()
    device = world.device()
    assert world.room.kick(Kick("main:c1", 1, 9, 0x98, "bye")).status == "gone"
    assert world.room.kick(Kick("main:c2", 1, 1, 0x98, "bye")).status == "gone"
    assert world.room.kick(Kick("main:c1", 1, 1, 0x98, "bye")).status == "ok"
    packet = device.socket.one(mqtt5.DisconnectPacket)
    assert (int(packet.reason_code), packet.reason_str) == (0x98, "bye")
    assert world.register.disconnects[0].reason == "kicked"


@pytest.mark.parametrize("by", ["packet", "socket"])
def test_given_an_end_when_nothing_is_under_way_then_the_saver_hears_of_it_once(by: str) -> None:
    world = World()
    device = world.device("c1", "push/demo")
    if by == "packet":
        device.send(mqtt5.DisconnectPacket())
    device.lose()
    reason = "normal" if by == "packet" else "socket_closed"
    assert world.register.disconnects == [DisconnectItem("main:c1", "r1", 5, 1, 1, reason, [], [])]
    assert ("unbound", "demo") in world.fanout.calls
    assert world.room.connections == 0
    assert list(world.room.sessions) == []


def test_given_a_sync_under_way_when_the_socket_is_lost_then_the_disconnect_waits_for_its_answer() -> None:
    world = World()
    device = world.device("c1", "push/demo")
    world.push(world.register.store("m1"))
    device.puback(1)
    world.register.held = True
    world.flush()
    device.lose()
    assert world.register.disconnects == []
    assert world.register.waiting[0].cancelled
    world.register.lose()
    assert [ack.id for ack in world.register.disconnects[0].acks] == ["m1"]


# --- deadlines ---------------------------------------------------------------------------------------------------------


def test_given_a_silent_socket_when_the_connect_timeout_passed_then_it_closes() -> None:
    world = World()
    device = world.accept()
    world.pass_time(4.9)
    assert not device.socket.closed
    world.pass_time(0.4)
    assert device.socket.closed


def test_given_a_closed_socket_when_the_peer_takes_nothing_then_it_is_cut() -> None:
    world = World()
    device = world.accept()
    world.pass_time(5.3)
    assert not device.socket.aborted
    world.pass_time(5.2)
    assert device.socket.aborted


def test_given_a_keep_alive_when_one_and_a_half_of_it_is_silent_then_0x8d() -> None:
    world = World()
    device = world.device(keep_alive=60)
    world.pass_time(80)
    device.send(mqtt5.PingReqPacket())
    device.socket.take()
    world.pass_time(89)
    assert not device.socket.closed
    world.pass_time(1.5)
    assert code_of(device) == Reason.KEEP_ALIVE_TIMEOUT


def test_given_a_token_when_it_expires_on_a_live_connection_then_0x87() -> None:
    world = World()
    device = world.device(ttl=20)
    world.pass_time(19.8)
    assert not device.socket.closed
    world.pass_time(0.5)
    packet = device.socket.one(mqtt5.DisconnectPacket)
    assert (int(packet.reason_code), packet.reason_str) == (0x87, "token expired")
    assert world.room.wall() >= WALL + 20


def test_given_a_packet_that_never_ends_when_10_s_passed_then_it_closes() -> None:
    world = World()
    device = world.device()
    device.session.reading_partial(True, world.now)
    world.pass_time(5)
    device.session.reading_partial(True, world.now)  # more of it came: the deadline stands
    world.pass_time(5.3)
    assert device.socket.closed


def test_given_a_message_when_it_is_not_acknowledged_in_time_then_the_connection_closes() -> None:
    world = World()
    device = world.device("c1", "push/demo")
    assert world.push(world.register.store("m1")) == "written"
    device.socket.take()
    world.pass_time(29.8)
    assert not device.socket.closed
    world.pass_time(0.5)
    assert device.socket.closed
    assert world.register.disconnects[0].reason == "ack_timeout"
    assert world.register.disconnects[0].acks == []


def test_given_a_sync_interval_when_it_passed_then_all_binds_are_synced_though_nothing_happened() -> None:
    world = World()
    world.device("c1", "push/demo", "push/chat")
    world.pass_time(331)
    world.flush()
    (item,) = world.register.of(SyncItem)
    assert [part.bind.product for part in item.products] == ["demo", "chat"]


def test_given_a_slow_client_when_its_buffer_is_over_the_cap_then_it_is_cut_and_nothing_is_settled() -> None:
    world = World()
    device = world.device("c1", "push/demo")
    world.push(world.register.store("m1"))
    device.session.slow()
    assert device.socket.aborted
    assert world.register.disconnects[0].acks == []
