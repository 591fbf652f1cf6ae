"""PITFALLS, The edge: ids with `*`, `>`, CRLF, `}{`, or 4 KB. None becomes a name in here, and none breaks an answer.

One with NUL is no string of MQTT: tests/unit/test_conformance_format.py.
"""

from __future__ import annotations

import mqtt5
import pytest
from live_room import Client, Live, connect, counted, live, served

from infra.wire import ConnectItem

BAD = ["*", ">", "a.*", "a.>", "a\r\nb", "a\nPUB x 1", "}{", "a}{b", "{a}", "a b", "a/b", "Gerät", "\u202e", "x" * 129]
FITS_A_PACKET = "x" * 1_500
"""With the token, which names it too, about 4 KB: the largest that a CONNECT may have."""


async def refused(room: Live, client_id: str) -> None:
    client = await room.client(connect(client_id))
    answer = await client.packet()
    assert isinstance(answer, mqtt5.ConnAckPacket)
    assert int(answer.reason_code) == 0x85
    assert (answer.reason_str or "").isprintable()
    assert (answer.reason_str or "").isascii()
    assert len(answer.reason_str or "") < 300
    assert await client.closed() == b""
    assert not [item for item in room.world.register.of(ConnectItem) if item.key != "main:bystander"]


@pytest.mark.parametrize("client_id", [*BAD, FITS_A_PACKET], ids=ascii)
async def test_given_a_client_id_of_another_form_then_0x85_says_so_in_plain_text_and_others_are_served(client_id: str) -> None:
    async with live() as room, served(room):
        before = counted("refused", reason="client_id")
        await refused(room, client_id)
        assert counted("refused", reason="client_id") == before + 1


async def test_given_a_client_id_of_four_kilobytes_then_the_socket_is_closed_and_others_are_served() -> None:
    async with live() as room, served(room):
        client = await room.client(connect("x" * 4_096))
        assert await client.closed() == b""


async def opened(room: Live) -> Client:
    client = await room.client(connect("c1"))
    assert isinstance(await client.packet(), mqtt5.ConnAckPacket)
    return client


@pytest.mark.parametrize("name", [*BAD, "x" * 4_096], ids=ascii)
@pytest.mark.parametrize("form", ["{}", "up/{}/note", "up/demo/{}", "pull/{}"])
async def test_given_a_topic_with_such_a_name_then_puback_0x90_says_so_in_plain_text_and_others_are_served(
    form: str, name: str
) -> None:
    async with live() as room, served(room):
        client = await opened(room)
        client.writer.write(mqtt5.PublishPacket(form.format(name), b"", qos=mqtt5.QoS(1), packet_id=1).write())
        answer = await client.packet()
        assert isinstance(answer, (mqtt5.PubAckPacket, mqtt5.DisconnectPacket))
        assert int(answer.reason_code) == 0x90
        assert (answer.reason_str or "").isprintable()
        assert not room.world.coordinator.waiting


@pytest.mark.parametrize("name", [*(name for name in BAD if "/" not in name), "x" * 4_096], ids=ascii)
@pytest.mark.parametrize("form", ["push/{}", "push/demo/{}"])
async def test_given_a_filter_with_such_a_name_then_suback_0x8f_says_so_in_plain_text_and_others_are_served(
    form: str, name: str
) -> None:
    async with live() as room, served(room):
        client = await opened(room)
        pattern = form.format(name)
        client.writer.write(mqtt5.SubscribePacket(1, [mqtt5.TopicFilter(pattern, max_qos=mqtt5.QoS(1))]).write())
        answer = await client.packet()
        assert isinstance(answer, mqtt5.SubAckPacket)
        assert [int(code) for code in answer.reason_codes] == [0x8F]
        assert (answer.reason_str or "").isprintable()
