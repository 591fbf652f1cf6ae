"""What the SDK makes of messages that came by FCM's endpoint, and of all others."""

from __future__ import annotations

import pytest

from pushclient import Notification, PushMessage


def message(payload: bytes, content_type: str | None = "application/json") -> PushMessage:
    return PushMessage(
        id="m1", topic="push/shop", product="shop", group=None, payload=payload, properties={}, qos=1, duplicate=False,
        expires_in=None, correlation_data=None, response_topic=None, content_type=content_type,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("payload", "means"),
    [
        (b"{}", Notification()),
        (b'{"data":{"a":"1"}}', Notification(data={"a": "1"})),
        (b'{"notification":{"title":"t","body":"b","image":"i"},"data":{}}', Notification(title="t", body="b", image="i")),
    ],
)
def test_given_a_message_of_this_form_then_it_is_read(payload: bytes, means: Notification) -> None:
    assert Notification.of(message(payload)) == means


@pytest.mark.parametrize(
    "payload",
    [
        b"", b"hello", b"[]", b"\xff", b'{"a":1}', b'{"data":{"a":1}}', b'{"data":[]}', b'{"notification":{"x":"1"}}',
        b'{"notification":{"title":1}}', b'{"notification":null}', b"[" * 100_000,
    ],
)  # fmt: skip
def test_given_any_other_payload_then_it_is_none(payload: bytes) -> None:
    assert Notification.of(message(payload)) is None
    assert Notification.of(message(b"{}", "text/plain")) is None
    assert Notification.of(message(b"{}", None)) is None
