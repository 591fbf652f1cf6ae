"""PITFALLS, The edge: length bombs. A length is judged before anything is allocated: 4 KiB before CONNECT, 70 KiB after."""

from __future__ import annotations

import contextlib
import tracemalloc
from collections.abc import Iterator

import mqtt5
import pytest
from live_room import connect, counted, live, served

from gateway.mqtt.forms import FIRST, MQTT5, MQTT311
from gateway.mqtt.framing import AFTER_CONNECT, BadPacket, Form, Reader, decode
from gateway.reasons import Reason


def announced(remaining: int) -> bytes:
    """A Remaining Length of three bytes, so a packet of four more (MQTT 5 §1.5.5)."""
    return bytes((remaining & 0x7F | 0x80, remaining >> 7 & 0x7F | 0x80, remaining >> 14))


BEFORE = {
    "256 MiB": b"\x10\xff\xff\xff\x7f\x00\x04MQTT\x05",
    "one byte too many": b"\x10\xfe\x1f\x00\x04MQTT\x05",
    "a length without an end": b"\x10\xff\xff\xff\xff\xff",
    "properties of 256 MiB": b"\x10\x14\x00\x04MQTT\x05\x02\x00\x3c\xff\xff\xff\x7f" + b"x" * 6,
    "a client id of 64 KiB in 20 bytes": b"\x10\x14\x00\x04MQTT\x05\x02\x00\x3c\x00\xff\xff" + b"x" * 7,
}
AFTER = {
    "256 MiB": (b"\x32\xff\xff\xff\x7f\x00\x0cup/demo/note", 0x95),
    "one byte too many": (b"\x32" + announced(AFTER_CONNECT - 4 + 1), 0x95),
    "a topic of 64 KiB in 10 bytes": (b"\x32\x08\xff\xffup/dem", 0x81),
    "properties of 256 MiB": (b"\x32\x13\x00\x0cup/demo/note\x00\x01\xff\xff\xff\x7f", 0x81),
    "a user property of 64 KiB": (b"\x32\x16\x00\x0cup/demo/note\x00\x01\x05\x26\xff\xffab", 0x81),
}  # fmt: skip


@contextlib.contextmanager
def allocates_at_most(size: int) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < size, peak


@pytest.mark.parametrize("bomb", BEFORE.values(), ids=BEFORE.keys())
async def test_given_a_bomb_before_connect_then_the_socket_is_closed_without_a_word_and_others_are_served(bomb: bytes) -> None:
    async with live() as room, served(room):
        before = counted("refused", reason="malformed")
        client = await room.client(bomb)
        assert await client.closed() == b""
        assert counted("refused", reason="malformed") == before + 1


@pytest.mark.parametrize(("bomb", "code"), AFTER.values(), ids=AFTER.keys())
async def test_given_a_bomb_after_connect_then_its_reason_is_said_and_others_are_served(bomb: bytes, code: int) -> None:
    async with live() as room, served(room):
        client = await room.client(connect("c1"))
        assert isinstance(await client.packet(), mqtt5.ConnAckPacket)
        client.writer.write(bomb)
        end = await client.packet()
        assert isinstance(end, mqtt5.DisconnectPacket)
        assert int(end.reason_code) == code
        await client.closed()


@pytest.mark.parametrize("form", [FIRST, MQTT5, MQTT311], ids=["first", "5", "3.1.1"])
def test_given_an_announced_length_over_the_limit_then_nothing_is_allocated_for_it(form: Form) -> None:
    reader = Reader(form)
    with allocates_at_most(64 * 1024):
        reader.receive_data(b"\x10\xff\xff\xff\x7f")
        with pytest.raises(BadPacket) as raised:
            reader.next_packet()
    assert raised.value.code == Reason.PACKET_TOO_LARGE


@pytest.mark.parametrize("bomb", [*BEFORE.values(), *(bomb for bomb, _ in AFTER.values())])
def test_given_any_bomb_then_what_is_allocated_stays_small(bomb: bytes) -> None:
    reader = Reader(Form(AFTER_CONNECT + 1, decode))
    with allocates_at_most(64 * 1024):
        reader.receive_data(bomb)
        with contextlib.suppress(BadPacket):
            assert reader.next_packet() is None  # within the limit: no more is held than came
