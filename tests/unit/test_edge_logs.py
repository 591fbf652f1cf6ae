"""PITFALLS, The edge: control characters in logs. What a stranger sends is never a line of its own, nor a terminal's command."""

from __future__ import annotations

import json
import subprocess
import sys

import mqtt5
import pytest
from live_room import connect, live, served

HOSTILE = 'x\r\n{"event": "forged"}\x1b[2J\x9b\u2028y'
NUL = "\0"

LOGS_IT = """
import logging, sys, structlog
from infra.settings import TelemetrySettings
from infra.telemetry import configure_logging
configure_logging(TelemetrySettings(format=sys.argv[1]), process="test")
hostile = sys.argv[2].encode().decode("unicode_escape")
structlog.get_logger("edge").warning("refused", client=hostile, topic=hostile.encode())
logging.getLogger("a.library").warning("refused %s", hostile)
"""


def lines(format: str) -> list[str]:  # noqa: A002 - the setting's name
    shown = (HOSTILE + NUL).encode("unicode_escape").decode()
    run = subprocess.run([sys.executable, "-c", LOGS_IT, format, shown], capture_output=True, check=True)
    return run.stderr.decode().removesuffix("\n").split("\n")


def test_given_hostile_text_when_it_is_logged_as_json_then_it_is_one_line_of_plain_characters() -> None:
    found = lines("json")
    assert len(found) == 2
    assert all(line.isprintable() and line.isascii() for line in found)
    assert json.loads(found[0])["client"] == HOSTILE + NUL
    assert [json.loads(line)["event"].startswith("refused") for line in found] == [True, True]


def test_given_hostile_text_when_it_is_logged_for_a_console_then_it_is_one_line_of_printable_characters() -> None:
    found = lines("console")
    assert len(found) == 2
    assert "\x1b[2J" not in "".join(found)


@pytest.mark.parametrize("nul", ["", NUL], ids=["as it is", "no string of MQTT"])
@pytest.mark.parametrize("where", ["client", "topic", "property", "filter", "reason"])
async def test_given_hostile_text_anywhere_in_a_packet_then_no_log_line_has_it_and_others_are_served(
    where: str, nul: str, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    async with live() as room, served(room):
        client = await room.client(connect(HOSTILE + nul if where == "client" else "c1"))
        if where == "client" and nul:
            assert await client.closed() == b""
        else:
            assert isinstance(await client.packet(), mqtt5.ConnAckPacket)
        if where != "client":
            client.writer.write(packet(where, HOSTILE + nul))
            if where == "property" and not nul:
                await room.until(lambda: bool(room.world.coordinator.waiting))
            elif where != "reason":
                await client.packet()
    shown = "".join(capfd.readouterr()) + caplog.text
    assert "forged" not in shown


def packet(where: str, text: str) -> bytes:
    if where == "topic":
        return mqtt5.PublishPacket(text, b"x", qos=mqtt5.QoS(1), packet_id=1).write()
    if where == "property":
        properties = [(text, text)]
        return mqtt5.PublishPacket("up/demo/x", b"", qos=mqtt5.QoS(1), packet_id=1, user_properties=properties).write()
    if where == "filter":
        return mqtt5.SubscribePacket(1, [mqtt5.TopicFilter(text)]).write()
    return mqtt5.DisconnectPacket(reason_str=text).write()
