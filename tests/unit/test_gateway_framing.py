"""Framing: whole, byte by byte, with trailing data; what is too long is refused by its header alone."""

from __future__ import annotations

import mqtt5
import pytest

from gateway.mqtt.forms import FIRST, MQTT5, OldProtocol
from gateway.mqtt.framing import AFTER_CONNECT, BEFORE_CONNECT, BadPacket, Form, OldConnect, Reader, announced_size
from gateway.reasons import Reason

CONNECT = mqtt5.ConnectPacket("c1", password=b"t").write()
STREAM = [
    mqtt5.PingReqPacket().write(),
    mqtt5.PubAckPacket(7).write(),
    mqtt5.PublishPacket("up/demo/x", b"p" * 5000).write(),
    mqtt5.SubscribePacket(3, [mqtt5.TopicFilter("push/demo")]).write(),
]


def opened() -> Reader:
    return Reader(MQTT5)


def drain(reader: Reader) -> list[bytes]:
    found = []
    while (packet := reader.next_packet()) is not None:
        assert not isinstance(packet, OldConnect)
        found.append(packet.write())
    return found


@pytest.mark.parametrize("size", [1, 2, 3, 7, 4096, 100_000])
def test_given_a_stream_when_cut_anywhere_then_the_same_packets_come(size: int) -> None:
    reader, data, found = opened(), b"".join(STREAM), []
    for i in range(0, len(data), size):
        reader.receive_data(data[i : i + size])
        found += drain(reader)
    assert found == STREAM
    assert not reader.partial


def test_given_a_packet_and_a_half_when_read_then_the_rest_is_kept() -> None:
    reader = opened()
    reader.receive_data(STREAM[1] + STREAM[3][:4])
    assert drain(reader) == [STREAM[1]]
    assert reader.partial
    reader.receive_data(STREAM[3][4:])
    assert drain(reader) == [STREAM[3]]


def test_given_a_length_bomb_when_only_its_header_came_then_it_is_refused() -> None:
    reader = Reader(FIRST)
    reader.receive_data(b"\x10\xff\xff\xff\x7f")
    with pytest.raises(BadPacket) as refused:
        reader.next_packet()
    assert refused.value.code == Reason.PACKET_TOO_LARGE


@pytest.mark.parametrize(("form", "limit", "first"), [(FIRST, BEFORE_CONNECT, b"\x10"), (MQTT5, AFTER_CONNECT, b"\x30")])
def test_given_a_limit_when_a_packet_is_one_byte_longer_then_it_is_refused(form: Form, limit: int, first: bytes) -> None:
    def announced(total: int) -> bytes:
        for header in (3, 4):
            left = total - header
            data = bytes((left >> 7 * i & 0x7F | (0x80 if left >> 7 * (i + 1) else 0)) for i in range(header - 1))
            if not data[-1] & 0x80 and announced_size(first + data, 0) == total:
                return first + data
        raise AssertionError(total)

    reader = Reader(form)
    reader.receive_data(announced(limit))
    assert reader.next_packet() is None
    reader = Reader(form)
    reader.receive_data(announced(limit + 1))
    with pytest.raises(BadPacket):
        reader.next_packet()


@pytest.mark.parametrize(
    "data",
    [
        b"\x30\xff\xff\xff\xff\x01",  # five bytes of length
        b"\x00\x00",  # no such type
        b"\x36\x07\x00\x01a\x00\x01\x00x",  # QoS 3
        b"\x40\x03\x00\x01\x7f",  # no such reason
        b"\xc0\x02\x00\x00",  # PINGREQ with a body
        b"\x80\x07\x00\x01\x00\x00\x01a\x00",  # wrong flags
    ],
)
def test_given_malformed_bytes_when_read_then_bad_packet(data: bytes) -> None:
    reader = opened()
    reader.receive_data(data)
    with pytest.raises(BadPacket) as refused:
        drain(reader)
    assert refused.value.code == Reason.MALFORMED


def test_given_a_string_that_is_not_utf8_when_read_then_bad_packet() -> None:
    reader = opened()
    reader.receive_data(b"\x30\x05\x00\x01\xff\x00a")
    with pytest.raises(BadPacket) as refused:
        drain(reader)
    assert refused.value.code == Reason.MALFORMED


def test_given_another_packet_first_when_read_then_it_is_refused_before_it_is_whole() -> None:
    reader = Reader(FIRST)
    reader.receive_data(b"\xc0")
    with pytest.raises(BadPacket):
        reader.next_packet()


@pytest.mark.parametrize("name", [b"\x00\x06MQIsdp\x03", b"\x00\x04MQTT\x03"])
def test_given_an_older_connect_when_read_then_old_protocol(name: bytes) -> None:
    body = name + b"\x02\x00\x3c\x00\x02c1"
    reader = Reader(FIRST)
    reader.receive_data(bytes((0x10, len(body))) + body)
    with pytest.raises(OldProtocol):
        reader.next_packet()


def test_given_a_later_version_when_read_then_unsupported_in_the_form_of_mqtt_5() -> None:
    reader = Reader(FIRST)
    reader.receive_data(CONNECT.replace(b"MQTT\x05", b"MQTT\x06"))
    with pytest.raises(BadPacket) as refused:
        reader.next_packet()
    assert refused.value.code == Reason.UNSUPPORTED_VERSION
    assert not isinstance(refused.value, OldProtocol)


def test_given_short_pubacks_then_each_is_taken_by_its_id_and_anything_else_is_left() -> None:
    reader = Reader(MQTT5)
    whole = mqtt5.PubAckPacket(7).write() + mqtt5.PubAckPacket(0x8001).write()
    rejected = mqtt5.PubAckPacket(8, reason_code=mqtt5.PubAckReasonCode.QUOTA_EXCEEDED).write()
    reader.receive_data(whole + rejected + b"\x40\x02\x00")
    assert [reader.next_ack() for _ in range(3)] == [7, 0x8001, 0]
    packet = reader.next_packet()
    assert isinstance(packet, mqtt5.PubAckPacket)
    assert packet.packet_id == 8
    assert (reader.next_ack(), reader.partial) == (0, True)
    reader.receive_data(b"\x09")
    assert (reader.next_ack(), reader.partial) == (9, False)


def test_given_a_puback_before_connect_then_it_is_not_taken() -> None:
    reader = Reader(FIRST)
    reader.receive_data(mqtt5.PubAckPacket(7).write())
    assert reader.next_ack() == 0
