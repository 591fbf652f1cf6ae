"""The sans-IO connection: whatever way the bytes are cut, the same packets; and the documented errors only."""

from __future__ import annotations

import random

import mqtt5
import pytest

from pushclient import ProtocolViolation, protocol
from pushclient.protocol import Connection, State

CONNACK = mqtt5.ConnAckPacket(session_present=True, server_keep_alive=60)
STREAM: list[mqtt5.Packet] = [
    CONNACK,
    mqtt5.PublishPacket("push/demo", b"a", user_properties=[("id", "1")]),
    mqtt5.PublishPacket("push/demo/news", b"b" * 300, qos=mqtt5.QoS.AT_LEAST_ONCE, packet_id=0x8000),
    mqtt5.PubAckPacket(3),
    mqtt5.SubAckPacket(4, [mqtt5.SubAckReasonCode.NOT_AUTHORIZED]),
    mqtt5.UnsubAckPacket(5, [mqtt5.UnsubAckReasonCode.SUCCESS]),
    mqtt5.PingRespPacket(),
    mqtt5.DisconnectPacket(reason_code=mqtt5.DisconnectReasonCode.SERVER_BUSY),
]
BYTES = b"".join(packet.write() for packet in STREAM)


# Where a string is not UTF-8 the codec reports on stderr before it fails.
codec_panics = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def connection(**options: int) -> Connection:
    return Connection(**{"receive_max": 2, "max_packet_size": 1_024, **options})


def opened(**options: int) -> Connection:
    made = connection(**options)
    assert made.receive_data(CONNACK.write()) == [CONNACK]
    return made


def publish(packet_id: int) -> bytes:
    return mqtt5.PublishPacket("push/demo", b"", qos=mqtt5.QoS.AT_LEAST_ONCE, packet_id=packet_id).write()


def violation(events: list[protocol.Event]) -> ProtocolViolation:
    assert isinstance(events[-1], ProtocolViolation), events
    return events[-1]


@pytest.mark.parametrize("step", [1, 2, 7, len(BYTES)])
def test_given_a_stream_when_fed_in_pieces_then_the_same_packets_come_out(step: int) -> None:
    made = connection()
    events = [event for i in range(0, len(BYTES), step) for event in made.receive_data(BYTES[i : i + step])]
    assert events == STREAM
    assert made.state is State.CLOSED


def test_given_trailing_bytes_after_disconnect_when_fed_then_they_are_not_read() -> None:
    made = connection()
    assert made.receive_data(BYTES + b"\xff" * 50) == STREAM
    assert made.receive_data(b"\xff" * 50) == []


def test_given_half_a_packet_after_a_whole_one_then_it_waits_for_its_rest() -> None:
    made = opened()
    ping = mqtt5.PingRespPacket().write()
    assert made.receive_data(ping + ping[:1]) == [mqtt5.PingRespPacket()]
    assert made.receive_data(ping[1:]) == [mqtt5.PingRespPacket()]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        pytest.param(b"\x00\x00", 0x81, id="type 0"),
        pytest.param(b"\x30\xff\xff\xff\xff\x01", 0x81, id="five length bytes"),
        pytest.param(b"\x30\x80\x10", 0x95, id="announced too large"),
        pytest.param(b"\x30\x05\x00\x09push", 0x81, id="string beyond the packet"),
        pytest.param(b"\x30\x05\x00\x02\xff\xfe\x00", 0x81, id="not UTF-8", marks=codec_panics),
        pytest.param(b"\xe0\x01\x77", 0x81, id="unknown reason"),
        pytest.param(b"\x36\x06\x00\x01p\x00\x01\x00", 0x81, id="QoS 3"),
        pytest.param(b"\x34\x06\x00\x01p\x00\x01\x00", 0x82, id="QoS 2"),
        pytest.param(b"\x32\x06\x00\x01p\x00\x00\x00", 0x82, id="packet id 0"),
        pytest.param(mqtt5.PublishPacket("p", b"", topic_alias=1).write(), 0x94, id="topic alias"),
        pytest.param(CONNACK.write(), 0x82, id="a second CONNACK"),
        pytest.param(mqtt5.ConnectPacket("c").write(), 0x82, id="a client's packet"),
        pytest.param(mqtt5.AuthPacket().write(), 0x82, id="AUTH, not asked for"),
    ],
)
def test_given_a_wrong_packet_after_a_good_one_then_both_are_told_and_nothing_more(data: bytes, code: int) -> None:
    made = opened()
    ping = mqtt5.PingRespPacket()
    events = made.receive_data(ping.write() + data + ping.write())
    assert events[:-1] == [ping]
    assert violation(events).code == code
    assert made.state is State.CLOSED
    assert mqtt5.read(memoryview(protocol.disconnect(code)))


def test_given_no_connack_yet_when_another_packet_comes_then_it_is_a_violation() -> None:
    assert violation(connection().receive_data(mqtt5.PingRespPacket().write())).code == 0x82


def test_given_a_refusing_connack_then_nothing_is_read_after_it() -> None:
    refusal = mqtt5.ConnAckPacket(reason_code=mqtt5.ConnAckReasonCode.BANNED)
    assert connection().receive_data(refusal.write() + mqtt5.PingRespPacket().write()) == [refusal]


def test_given_a_full_window_when_acknowledged_then_another_fits_and_one_more_does_not() -> None:
    made = opened(receive_max=2)
    assert len(made.receive_data(publish(1) + publish(2))) == 2
    assert made.acknowledge(1) == mqtt5.PubAckPacket(1).write()
    assert not isinstance(made.receive_data(publish(3))[-1], ProtocolViolation)
    assert violation(made.receive_data(publish(4))).code == 0x93


def test_given_a_rejection_then_the_puback_carries_code_and_reason() -> None:
    packet = mqtt5.read(memoryview(opened().acknowledge(9, 0x97, "full")))[0]
    assert isinstance(packet, mqtt5.PubAckPacket)
    assert (packet.packet_id, int(packet.reason_code), packet.reason_str) == (9, 0x97, "full")


@codec_panics
def test_given_mutated_streams_then_nothing_but_events_comes_out() -> None:
    rng = random.Random(7)
    for _ in range(1_000):
        data = bytearray(BYTES)
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        made = connection()
        events = made.receive_data(bytes(data))
        assert all(not isinstance(event, ProtocolViolation) for event in events[:-1])


def test_given_wishes_when_written_then_connect_says_them() -> None:
    hello = protocol.Hello(
        client_id="c1",
        token="jwt",
        network="3g",
        clean_start=True,
        session_expiry=30,
        keep_alive=300,
        receive_max=8,
        max_packet_size=2_048,
    )
    packet = mqtt5.read(memoryview(hello.write()))[0]
    assert isinstance(packet, mqtt5.ConnectPacket)
    assert (packet.client_id, packet.username, packet.password) == ("c1", None, b"jwt")
    assert (packet.clean_start, packet.session_expiry_interval, packet.keep_alive) == (True, 30, 300)
    assert (packet.receive_max, packet.max_packet_size, packet.user_properties) == (8, 2_048, [("network", "3g")])
