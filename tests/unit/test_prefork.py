"""What each of several rooms is told, and where the ports don't reach."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from infra.prefork import TooManyRooms, check, variables
from infra.settings import ListenerSettings, RoomSettings, Settings, TelemetrySettings


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LONGWIRE_CONFIG", raising=False)


def settings(*listeners: dict[str, Any], telemetry: int = 0, **room: Any) -> Settings:
    made = RoomSettings(listeners=tuple(ListenerSettings.model_validate(item) for item in listeners), **room)
    return Settings(data=Path("/nowhere"), room=made, telemetry=TelemetrySettings(port=telemetry))


def test_given_ports_then_they_are_counted_up_and_shared_ones_stay() -> None:
    given = settings(
        {"port": 8000, "advertise": "push.test:9000"},
        {"port": 7000, "shared": True, "advertise": "all.test:7000"},
        {"host": "::1"},
        port=1883,
        advertise="push.test:1883",
        telemetry=9100,
    )
    check(given, 3)
    told = variables(given, 2, "edge")
    listeners = json.loads(told.pop("LONGWIRE_ROOM__LISTENERS"))
    assert told == {
        "LONGWIRE_ROOM__ID": "edge-3",
        "LONGWIRE_ROOM__PORT": "1885",
        "LONGWIRE_ROOM__ADVERTISE": "push.test:1885",
        "LONGWIRE_TELEMETRY__PORT": "9102",
    }
    assert [(item["host"], item["port"], item["advertise"]) for item in listeners] == [
        (None, 8002, "push.test:9002"),
        (None, 7000, "all.test:7000"),
        ("::1", 0, ""),
    ]
    assert [ListenerSettings.model_validate(item).shared for item in listeners] == [False, True, False]


def test_given_nothing_fixed_then_the_kernel_picks() -> None:
    assert variables(settings(advertise="[2001:db8::1]"), 1, "r") == {
        "LONGWIRE_ROOM__ID": "r-2",
        "LONGWIRE_ROOM__ADVERTISE": "[2001:db8::1]",
    }


@pytest.mark.parametrize(
    ("given", "rooms", "said"),
    [
        (settings({"port": 1885}, port=1883), 3, "room.port 1883 and room.listeners.0.port 1885"),
        (settings({"port": 1884, "shared": True}, port=1883), 2, "room.port 1883 and room.listeners.0.port 1884"),
        (settings(port=9099, telemetry=9100), 2, "room.port 9099 and telemetry.port 9100"),
        (settings(port=65_530), 7, "the last port is 65535"),
    ],
)
def test_given_ports_that_meet_then_it_is_said_which(given: Settings, rooms: int, said: str) -> None:
    check(given, rooms - 1)
    with pytest.raises(TooManyRooms, match=said):
        check(given, rooms)
