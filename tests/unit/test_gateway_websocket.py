"""WebSocket without a socket: frames of a client, and the request before them."""

from __future__ import annotations

import pytest
from ws import BINARY, CLOSE, CONTINUATION, PING, PONG, frame, parsed, request

from gateway.edge.upgrade import LIMIT, Door
from gateway.edge.websocket import FRAGMENTS, MESSAGE, Frames, WebSocket, close_frame

SAMPLE_ACCEPT = b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
"""Of the key in RFC 6455 §1.3."""


def opened() -> WebSocket:
    stage = WebSocket(Door("/mqtt", ()))
    assert stage.receive(request()) == b""
    assert stage.take().startswith(b"HTTP/1.1 101 ")
    return stage


def ended(stage: WebSocket) -> tuple[str | None, int]:
    """The counter's reason, and the code of the close frame."""
    [(opcode, payload)] = parsed(stage.take())
    assert opcode == CLOSE
    return stage.ended, int.from_bytes(payload[:2])


# --- the request ---------------------------------------------------------------------------------------------------------


def test_given_a_good_request_then_101_with_its_key_and_the_subprotocol_and_what_follows_is_read() -> None:
    stage = WebSocket(Door("/mqtt", ()))
    assert stage.receive(request() + frame(b"abc")) == b"abc"
    answer = stage.take()
    assert answer.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
    assert answer.endswith(b"\r\n\r\n")
    assert SAMPLE_ACCEPT in answer
    assert b"Sec-WebSocket-Protocol: mqtt\r\n" in answer
    assert stage.open
    assert stage.ended is None


def test_given_a_request_byte_by_byte_then_the_same() -> None:
    stage = WebSocket(Door("/mqtt", ()))
    for byte in request():
        assert not stage.open
        stage.receive(bytes((byte,)))
    assert stage.open


def test_given_permessage_deflate_is_asked_for_then_it_is_declined_and_not_failed() -> None:
    stage = WebSocket(Door("/mqtt", ()))
    stage.receive(request(Sec_WebSocket_Extensions="permessage-deflate; client_max_window_bits"))
    assert b"Extensions" not in stage.take()
    assert stage.open
    stage.receive(b"\xc2" + frame(b"x")[1:])  # RSV1, as if it had been agreed on
    assert ended(stage) == ("extension", 1002)


@pytest.mark.parametrize(
    ("path", "changes", "status", "reason"),
    [
        ("/", {}, 404, "path"),
        ("mqtt", {}, 400, "malformed"),
        ("/mqtt", {"Sec_WebSocket_Version": "8"}, 426, "version"),
        ("/mqtt", {"Sec_WebSocket_Version": None}, 426, "version"),
        ("/mqtt", {"Upgrade": None}, 426, "upgrade"),
        ("/mqtt", {"Connection": "close"}, 426, "upgrade"),
        ("/mqtt", {"Host": None}, 400, "malformed"),
        ("/mqtt", {"Sec_WebSocket_Key": "c2hvcnQ="}, 400, "malformed"),
        ("/mqtt", {"Sec_WebSocket_Key": None}, 400, "malformed"),
        ("/mqtt", {"Sec_WebSocket_Protocol": "mqttv3.1"}, 400, "subprotocol"),
        ("/mqtt", {"Sec_WebSocket_Protocol": None}, 400, "subprotocol"),
        ("/mqtt", {"Origin": "https://evil.test"}, 403, "origin"),
        ("/mqtt", {"Origin": "null"}, 403, "origin"),
        ("/mqtt", {"bad name": "x"}, 400, "malformed"),
        ("/mqtt", {"X": "a\nb: c"}, 400, "malformed"),
        ("/mqtt", {"X": "y" * LIMIT}, 431, "too_large"),
    ],
)
def test_given_a_bad_request_then_a_status_and_a_sentence(
    path: str, changes: dict[str, str | None], status: int, reason: str
) -> None:
    stage = WebSocket(Door("/mqtt", ["https://app.test"]))
    assert stage.receive(request(path, **changes)) == b""
    head, _, body = stage.farewell().partition(b"\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ".encode())
    assert f"Content-Length: {len(body)}".encode() in head
    assert stage.ended == reason
    assert not stage.open
    assert stage.farewell() == b""


@pytest.mark.parametrize("data", [b"POST /mqtt HTTP/1.1\r\n", b"\x16\x03\x01", b"\x10\x10\x00\x04MQTT", b"GEX"])
def test_given_no_get_then_it_is_refused_before_more_is_read(data: bytes) -> None:
    stage = WebSocket(Door("/mqtt", ()))
    stage.receive(data)
    assert stage.ended == "malformed"


@pytest.mark.parametrize(("listed", "origin"), [(["https://App.test"], "https://app.test"), (["*"], "https://any.test")])
def test_given_an_origin_that_is_listed_then_it_may(listed: list[str], origin: str) -> None:
    stage = WebSocket(Door("/mqtt", listed))
    stage.receive(request(Origin=origin))
    assert stage.open


def test_given_two_keys_then_it_is_refused() -> None:
    stage = WebSocket(Door("/mqtt", ()))
    stage.receive(request().replace(b"\r\n\r\n", b"\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"))
    assert stage.ended == "malformed"


# --- frames --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536])
def test_given_any_size_then_it_comes_out_and_goes_out(size: int) -> None:
    payload = bytes(number % 256 for number in range(size))
    stage = opened()
    assert stage.receive(frame(payload)) == payload
    assert parsed(stage.wrap(payload)) == [(BINARY, payload)]
    assert stage.take() == b""


def test_given_fragments_with_control_frames_between_then_they_are_one_stream_and_pings_are_answered() -> None:
    stage = opened()
    data = (
        frame(b"ab", fin=False)
        + frame(b"one", PING)
        + frame(b"", CONTINUATION, fin=False)
        + frame(b"unasked", PONG)
        + frame(b"cd", CONTINUATION)
        + frame(b"two", PING)
    )
    assert stage.receive(data) == b"abcd"
    assert parsed(stage.take()) == [(PONG, b"one"), (PONG, b"two")]
    assert stage.ended is None


def test_given_bytes_one_by_one_then_the_same() -> None:
    stage = opened()
    data = frame(b"x" * 300, fin=False) + frame(b"hello", PING) + frame(b"y" * 300, CONTINUATION)
    assert b"".join(stage.receive(bytes((byte,))) for byte in data) == b"x" * 300 + b"y" * 300
    assert parsed(stage.take()) == [(PONG, b"hello")]


UNMASKED = b"\x82\x01x"


@pytest.mark.parametrize(
    ("data", "reason", "code"),
    [
        (UNMASKED, "unmasked", 1002),
        (frame(b"x", 0x1), "text", 1003),
        (frame(b"x", 0x3), "frame", 1002),
        (frame(b"x", 0xB), "frame", 1002),
        (frame(b"x", CONTINUATION), "frame", 1002),
        (frame(b"x", fin=False) + frame(b"y"), "frame", 1002),
        (frame(b"x", PING, fin=False), "frame", 1002),
        (frame(b"x" * 126, PING), "frame", 1002),
        (b"\x82\xfe\x00\x01\x00\x00\x00\x00x", "frame", 1002),
        (b"\x82\xff" + (65_535).to_bytes(8) + b"\x00\x00\x00\x00", "frame", 1002),
        (b"\x82\xff" + (1 << 63).to_bytes(8) + b"\x00\x00\x00\x00", "endless", 1009),
        (frame(b"x", CLOSE), "close", 1002),
        (frame((1005).to_bytes(2), CLOSE), "close", 1002),
        (frame((999).to_bytes(2), CLOSE), "close", 1002),
        (frame((1000).to_bytes(2) + b"\xff", CLOSE), "close", 1007),
    ],
)
def test_given_a_frame_against_the_rules_then_what_came_before_counts_and_the_code_is_said(
    data: bytes, reason: str, code: int
) -> None:
    stage = opened()
    assert stage.receive(frame(b"good") + data + frame(b"never")).startswith(b"good")
    assert ended(stage) == (reason, code)
    assert stage.farewell() == b""


@pytest.mark.parametrize("payload", [b"", b"z" * 1000])
def test_given_a_message_that_never_ends_then_it_is_refused(payload: bytes) -> None:
    stage = opened()
    stage.receive(frame(payload, fin=False))
    part = frame(payload, CONTINUATION, fin=False)
    most = min(FRAGMENTS, MESSAGE // max(1, len(payload)))
    for _ in range(most - 1):
        stage.receive(part)
        assert stage.ended is None
    stage.receive(part)
    assert ended(stage) == ("endless", 1008 if not payload else 1009)


@pytest.mark.parametrize(
    ("payload", "answer"),
    [
        (b"", close_frame(1000)),
        ((1001).to_bytes(2) + "schön".encode(), close_frame(1001)),
        ((4000).to_bytes(2), close_frame(4000)),
    ],
)
def test_given_a_close_then_its_code_is_answered_and_nothing_is_read_behind_it(payload: bytes, answer: bytes) -> None:
    stage = opened()
    assert stage.receive(frame(payload, CLOSE) + frame(b"late")) == b""
    assert stage.take() == answer
    assert stage.ended == ""
    assert stage.farewell() == b""


def test_given_a_long_reason_then_it_is_cut_between_characters() -> None:
    data = close_frame(1008, "ö" * 100)
    assert len(data) <= 127
    [(_, payload)] = parsed(data)
    assert payload[2:].decode() == "ö" * 61


def test_given_a_header_that_is_not_whole_then_no_more_than_it_is_kept() -> None:
    frames = Frames()
    for byte in frame(b"x" * 70_000)[:13]:
        assert frames.receive(bytes((byte,))) == b""
    assert frames.receive(frame(b"x" * 70_000)[13:14]) == b""
    assert frames.receive(b"\x11" * 5) == bytes(a ^ 0x11 for a in b"\x11\x22\x33\x44\x11")
