"""MQTT 5 §1.5, §2, §4.13: strings, lengths, flags, properties. docs/conformance.md says which test shows which statement."""

from __future__ import annotations

import mqtt5
import pytest
from gateway_world import World
from wire_bytes import (
    closes_unsaid,
    connect,
    ends_with,
    packet,
    pair,
    properties,
    publish,
    say,
    string,
    subscribe,
    unsubscribe,
)

from gateway.mqtt import packets
from gateway.reasons import Reason

ILL_FORMED = {"not UTF-8": b"a\xff", "a surrogate": b"a\xed\xa0\x80", "an overlong form": b"a\xc0\xaf"}
IN_CONNECT = {
    "client id": lambda text: connect(payload=string(text)),
    "user name": lambda text: connect(flags=0x82, payload=string("c1") + string(text)),
    "method": lambda text: connect(given=(b"\x15" + string(text),)),
    "property's name": lambda text: connect(given=(pair(text, "v"),)),
    "property's value": lambda text: connect(given=(pair("k", text),)),
}
LATER = {
    "topic": lambda text: publish(b"up/demo/" + text),
    "content type": lambda text: publish("up/demo/pos", b"\x03" + string(text)),
    "response topic": lambda text: publish("up/demo/pos", b"\x08" + string(text)),
    "PUBLISH, property's name": lambda text: publish("up/demo/pos", pair(text, "v")),
    "PUBLISH, property's value": lambda text: publish("up/demo/pos", pair("k", text)),
    "PUBACK, reason": lambda text: packet(0x40, b"\x00\x01\x80" + properties(b"\x1f" + string(text))),
    "PUBACK, property": lambda text: packet(0x40, b"\x00\x01\x80" + properties(pair("k", text))),
    "filter": lambda text: subscribe(b"push/" + text),
    "SUBSCRIBE, property": lambda text: subscribe("push/demo", given=(pair(text, "v"),)),
    "filter of UNSUBSCRIBE": lambda text: unsubscribe(b"push/" + text),
    "UNSUBSCRIBE, property": lambda text: unsubscribe("push/demo", given=(pair(text, "v"),)),
    "DISCONNECT, reason": lambda text: packet(0xE0, b"\x00" + properties(b"\x1f" + string(text))),
    "DISCONNECT, property": lambda text: packet(0xE0, b"\x00" + properties(pair("k", text))),
    "AUTH, method": lambda text: packet(0xF0, b"\x19" + properties(b"\x15" + string(text))),
    "AUTH, property": lambda text: packet(0xF0, b"\x19" + properties(b"\x15" + string("jwt"), pair("k", text))),
}


@pytest.mark.parametrize("text", ILL_FORMED.values(), ids=ILL_FORMED.keys())
@pytest.mark.parametrize("where", [*IN_CONNECT, *LATER])
def test_given_an_ill_formed_string_anywhere_then_0x81(where: str, text: bytes) -> None:
    if where in IN_CONNECT:
        assert closes_unsaid(IN_CONNECT[where](text))
    else:
        assert ends_with(LATER[where](text)) == Reason.MALFORMED


@pytest.mark.parametrize("where", [*IN_CONNECT, *LATER])
def test_given_a_string_with_nul_anywhere_then_0x81(where: str) -> None:
    if where in IN_CONNECT:
        assert closes_unsaid(IN_CONNECT[where](b"a\0b"))
    else:
        assert ends_with(LATER[where](b"a\0b")) == Reason.MALFORMED


def test_given_a_byte_order_mark_in_a_string_then_it_is_kept() -> None:
    world = World()
    device = world.device("c1")
    say(device, publish("up/demo/pos", b"\x03" + string("\ufefftext"), pair("\ufeffk", "\ufeffv")))
    item = world.coordinator.answer()
    assert (item.content_type, item.properties) == ("\ufefftext", [("\ufeffk", "\ufeffv")])


@pytest.mark.parametrize(
    "data",
    [
        b"\xc0\x80\x00",
        b"\x32\x91\x00" + publish()[2:],
        packet(0x32, string("up/demo/pos") + b"\x00\x01\x80\x00x"),
        packet(0x82, b"\x00\x01\x80\x00" + string("push/demo") + b"\x01"),
    ],
    ids=["PINGREQ", "PUBLISH", "properties of PUBLISH", "properties of SUBSCRIBE"],
)
def test_given_a_length_in_more_bytes_than_it_needs_then_0x81(data: bytes) -> None:
    assert ends_with(data) == Reason.MALFORMED


FLAGGED = {
    "PUBACK": (0x40, b"\x00\x01"),
    "PUBREC": (0x50, b"\x00\x01"),
    "PUBREL": (0x62, b"\x00\x01"),
    "PUBCOMP": (0x70, b"\x00\x01"),
    "SUBSCRIBE": (0x82, b"\x00\x01\x00" + string("push/demo") + b"\x01"),
    "UNSUBSCRIBE": (0xA2, b"\x00\x01\x00" + string("push/demo")),
    "PINGREQ": (0xC0, b""),
    "DISCONNECT": (0xE0, b""),
    "AUTH": (0xF0, b"\x19" + properties(b"\x15" + string("jwt"))),
}


@pytest.mark.parametrize("flag", [1, 2, 4, 8])
@pytest.mark.parametrize("kind", FLAGGED)
def test_given_reserved_flags_of_another_value_then_0x81(kind: str, flag: int) -> None:
    first, body = FLAGGED[kind]
    assert ends_with(packet(first ^ flag, body)) == Reason.MALFORMED
    if kind != "DISCONNECT":
        device = World().device("c1", "push/demo")
        say(device, packet(first, body))
        assert Reason.MALFORMED not in [getattr(said, "reason_code", None) for said in device.socket.take()]


def test_given_qos_3_then_0x81() -> None:
    assert ends_with(publish(first=0x36)) == Reason.MALFORMED


@pytest.mark.parametrize(
    "data",
    [
        publish("up/demo/pos", b"\x03\x00\x01a", b"\x03\x00\x01b"),
        publish("up/demo/pos", b"\x02\x00\x00\x00\x01" * 2),
        publish("up/demo/pos", b"\x23\x00\x00"),
        publish("up/demo/pos", b"\x0b\x00"),
        publish(""),
        subscribe("push/demo", given=(b"\x0b\x00",)),
        subscribe("push/demo", given=(b"\x0b\x01\x0b\x02",)),
        subscribe("push/demo", options=0x03),
        subscribe("push/demo", options=0x31),
        subscribe(),
        unsubscribe(),
        packet(0xE0, b"\x00" + properties(b"\x11\x00\x00\x00\x01" * 2)),
    ],
    ids=[
        "two content types", "two expiries", "topic alias 0", "subscription identifier 0 in PUBLISH", "no topic and no alias",
        "subscription identifier 0", "two subscription identifiers", "a maximum QoS of 3", "retain handling 3", "no filter",
        "nothing to unsubscribe", "two session expiries",
    ],
)  # fmt: skip
def test_given_what_mqtt_calls_a_protocol_error_then_0x82(data: bytes) -> None:
    assert ends_with(data) == Reason.PROTOCOL_ERROR


@pytest.mark.parametrize(
    "data",
    [
        publish("up/demo/pos", b"\x7f\x00"),
        publish("up/demo/pos", b"\x21\x00\x01"),
        packet(0x32, string("up/demo/pos") + b"\x00\x01\x09"),
        packet(0x82, b"\x00\x01\x00" + string("push/demo")),
        b"\xc0\x01\x00",
        b"\x00\x00",
        packet(0x40, b"\x00\x01\x01"),
        packet(0xE0, b"\x03"),
        packet(0xF0, b"\x01\x00"),
    ],
    ids=[
        "no such property", "a property of another packet", "properties that are cut", "no options", "a PINGREQ with a body",
        "type 0", "no such reason of PUBACK", "no such reason of DISCONNECT", "no such reason of AUTH",
    ],
)  # fmt: skip
def test_given_a_malformed_packet_then_0x81(data: bytes) -> None:
    assert ends_with(data) == Reason.MALFORMED


def test_given_a_packet_without_properties_then_its_property_length_is_zero_or_left_out_where_it_may_be() -> None:
    assert packets.suback(7, [1, 0x87]) == b"\x90\x05\x00\x07\x00\x01\x87"
    assert packets.unsuback(7, [0, 0x11]) == b"\xb0\x05\x00\x07\x00\x00\x11"
    assert packets.puback(7) == b"\x40\x02\x00\x07"  # shorter than 4 bytes: §3.4.2.2.1
    assert packets.puback(7, 0x97) == b"\x40\x03\x00\x07\x97"
    assert packets.disconnect(0x8D) == b"\xe0\x01\x8d"  # shorter than 2 bytes: §3.14.2.2.1
    refused = packets.connack_refused(Reason.BAD_TOKEN, "why", max_packet=5)
    assert refused == b"\x20\x03\x00\x86\x00"
    assert mqtt5.read(memoryview(refused))[1] == len(refused)
