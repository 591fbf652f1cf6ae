"""A PUBLISH that is built byte by byte is the codec's; what the codec refuses is refused."""

from __future__ import annotations

from typing import Any

import mqtt5
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.mqtt.publish import publish, topic_field

LONG = 0xFFFF
DEMO = topic_field("push/demo")
ANY_TEXT = st.text(st.characters(codec=None), max_size=200)  # surrogates, which UTF-8 has not, too
SIZES = st.sampled_from([0, 1, 100, 114, 115, 116, 120, 127, 128, 300, 16_000, 16_400, LONG - 1, LONG, LONG + 1, 70_000])
LARGE = st.builds(str.__mul__, st.sampled_from(["x", "é", "\0"]), SIZES)
REFUSED = "must be|can't encode|Invalid topic|out of range"
TEXTS = ANY_TEXT | LARGE
TOPICS = st.sampled_from(["push/demo", "push/demo/news", "push/é"]) | TEXTS
DATA = st.binary(max_size=300) | SIZES.map(bytes)
FIELDS = st.fixed_dictionaries(
    {"id": TEXTS, "qos": st.integers(0, 1), "packet_id": st.none() | st.integers(0, 0xFFFF)},
    optional={
        "expires_in_s": st.integers(-1, 2**32) | st.integers(-1, 300),
        "content_type": TEXTS,
        "correlation": st.none() | DATA,
        "properties": st.none() | st.lists(st.tuples(TEXTS, TEXTS), max_size=4),
    },
)


def by_the_codec(topic: str, payload: bytes, fields: dict[str, Any]) -> bytes:
    expires_in_s = fields.get("expires_in_s", -1)
    return mqtt5.PublishPacket(
        topic,
        payload,
        qos=mqtt5.QoS(fields["qos"]),
        packet_id=fields["packet_id"] if fields["qos"] else None,
        message_expiry_interval=None if expires_in_s < 0 else expires_in_s,
        content_type=fields.get("content_type") or None,
        correlation_data=fields.get("correlation"),
        user_properties=[("id", fields["id"]), *(fields.get("properties") or ())],
    ).write()


@given(TOPICS, DATA, FIELDS)
@example("push/demo", b"", {"id": "", "qos": 0, "packet_id": None})
@example("push/demo", b"", {"id": "i" * 115, "qos": 0, "packet_id": None, "expires_in_s": 2**32 - 1})
@example("push/demo", b"", {"id": "i" * 115, "qos": 1, "packet_id": 0xFFFF, "expires_in_s": 2**32})
@example("push/demo", b"", {"id": "i" * 116, "qos": 1, "packet_id": 1, "expires_in_s": 0})
@example("push/demo", b"x" * (127 - 22), {"id": "m", "qos": 1, "packet_id": 1})
@example("push/demo", b"x" * (128 - 22), {"id": "m", "qos": 1, "packet_id": 1})
@example("push/demo", b"x" * (16_383 - 22), {"id": "m", "qos": 1, "packet_id": 1})
@example("push/demo", b"x" * (16_384 - 22), {"id": "m", "qos": 1, "packet_id": 1})
@example("push/demo", b"x", {"id": "m", "qos": 1, "packet_id": 1, "properties": [("k" * LONG, "v" * LONG)] * 20})
@settings(max_examples=500, deadline=None)
def test_given_any_message_then_the_bytes_or_the_refusal_are_the_codecs(
    topic: str, payload: bytes, fields: dict[str, Any]
) -> None:
    try:
        expected = by_the_codec(topic, payload, fields)
    except (ValueError, OverflowError):
        with pytest.raises(ValueError, match=REFUSED):
            publish(topic_field(topic), payload, **fields)
    else:
        assert publish(topic_field(topic), payload, **fields) == expected


@pytest.mark.parametrize("more", [{}, {"expires_in_s": 5}])
def test_given_more_than_a_packet_holds_then_it_is_refused_and_the_largest_is_not(more: dict[str, int]) -> None:
    """The codec panics here."""
    empty = len(publish(DEMO, b"", id="m1", qos=1, packet_id=1, **more)) - 2
    room = (1 << 28) - 1 - empty
    assert len(publish(DEMO, bytes(room), id="m1", qos=1, packet_id=1, **more)) == 5 + empty + room
    with pytest.raises(ValueError, match="a packet must be"):
        publish(DEMO, bytes(room + 1), id="m1", qos=1, packet_id=1, **more)
