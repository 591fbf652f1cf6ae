"""Strings that are not UTF-8 never get to the codec, which would print a panic; everything else does."""

from __future__ import annotations

import mqtt5
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.mqtt.strings import well_formed

GOOD = "grüße ✓"
PROPERTIES = [("k", GOOD), (GOOD, "v")]
WILL = mqtt5.Will("up/demo/x", payload=b"\xff", content_type=GOOD, user_properties=PROPERTIES, will_delay_interval=200)
MORE = {"user_properties": PROPERTIES}
PACKETS: dict[str, mqtt5.Packet] = {
    "connect": mqtt5.ConnectPacket(
        "c1" + GOOD,
        username=GOOD,
        password=b"\xff\xfe",
        keep_alive=0xFFFF,
        will=WILL,
        receive_max=0xC8,
        max_packet_size=0xFFFFFF,
        session_expiry_interval=0xFFFFFFFF,
        authentication_method=GOOD,
        authentication_data=b"\xff",
        **MORE,
    ),
    "publish": mqtt5.PublishPacket(
        "up/" + GOOD,
        b"\xff\xfe",
        qos=mqtt5.QoS(1),
        packet_id=0xFFFE,
        content_type=GOOD,
        response_topic=GOOD,
        correlation_data=b"\xff",
        message_expiry_interval=0xFFFF,
        subscription_ids=[200],
        user_properties=PROPERTIES * 20,
    ),
    "short publish": mqtt5.PublishPacket("up/demo/x", b"\xff\xfe", qos=mqtt5.QoS(1), packet_id=0xFFFE),
    "subscribe": mqtt5.SubscribePacket(0xFFFE, [mqtt5.TopicFilter(GOOD), mqtt5.TopicFilter("b")], **MORE),
    "unsubscribe": mqtt5.UnsubscribePacket(0xFFFE, [GOOD, "b"], **MORE),
    "puback": mqtt5.PubAckPacket(0xFFFE, reason_code=mqtt5.PubAckReasonCode(0x80), reason_str=GOOD, **MORE),
    "disconnect": mqtt5.DisconnectPacket(reason_code=mqtt5.DisconnectReasonCode(0x80), reason_str=GOOD, **MORE),
    "auth": mqtt5.AuthPacket(
        reason_code=mqtt5.AuthReasonCode(0x19), authentication_method=GOOD, authentication_data=b"\xff", **MORE
    ),
    "pingreq": mqtt5.PingReqPacket(),
}


def panics(frame: bytes) -> bool:
    """Does the codec take a string of it for what it is not? Its noise is the test's."""
    try:
        mqtt5.read(memoryview(frame))
    except (IndexError, ValueError):
        return False
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        return True
    return False


@pytest.mark.parametrize("packet", PACKETS.values(), ids=PACKETS.keys())
def test_given_any_packet_with_strings_of_every_kind_then_it_is_well_formed(packet: mqtt5.Packet) -> None:
    assert well_formed(memoryview(packet.write()))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("packet", PACKETS.values(), ids=PACKETS.keys())
def test_given_any_byte_of_a_packet_changed_then_what_the_codec_panics_at_is_found(packet: mqtt5.Packet) -> None:
    whole = packet.write()
    found = 0
    for at in range(1, len(whole)):
        for byte in (0xFF, 0xC3, 0x80, whole[at] ^ 1):
            frame = whole[:at] + bytes((byte,)) + whole[at + 1 :]
            if panics(frame):
                found += 1
                assert not well_formed(memoryview(frame)), (at, frame.hex())
    assert bool(found) is not isinstance(packet, mqtt5.PingReqPacket)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@given(first=st.integers(16, 255), body=st.binary(max_size=24))
@example(first=0x30, body=b"\x00\x01\xff\x00a")
@example(first=0xC0, body=b"\xff")
def test_given_any_bytes_then_nothing_is_raised_and_no_panic_gets_through(first: int, body: bytes) -> None:
    frame = bytes((first, len(body))) + body
    if well_formed(memoryview(frame)):
        assert not panics(frame)


def test_given_a_payload_or_a_password_of_any_bytes_then_it_is_no_string() -> None:
    assert well_formed(memoryview(mqtt5.PublishPacket("up/demo/x", b"\xff" * 300).write()))
    assert well_formed(memoryview(mqtt5.ConnectPacket("c1", password=b"\xff" * 300).write()))
