"""`pushctl drain`: what is asked of center, and what its answers look like."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_world import Center, forget_settings, pushctl, system_at


@pytest.fixture
def center(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Center]:
    forget_settings(monkeypatch, tmp_path)
    made = Center()
    system_at(tmp_path, center=made.url)
    yield made
    made.close()


def test_given_start_status_and_stop_then_each_asks_center(center: Center, tmp_path: Path) -> None:
    view = {"room": "r1", "state": "draining", "connections": 7}
    for status in (202, 200, 202):
        center.will(status, view)
    to = ("--redirect-to", "a:1", "--redirect-to", "b:2")
    begun = pushctl("drain", "start", "--data", tmp_path, "r1", "--conn-evict-rate", 50, *to, "--reason", "a kernel")
    assert (begun.exit_code, begun.stdout) == (0, "r1: draining, 7 connections\n")
    assert pushctl("drain", "status", "--data", tmp_path, "r1").exit_code == 0
    assert pushctl("drain", "stop", "--data", tmp_path, "r1").exit_code == 0
    body = {"conn_evict_rate": 50, "redirect_to": ["a:1", "b:2"], "confirm": False, "reason": "a kernel"}
    assert center.asked == [
        ("POST", "/v1/rooms/r1/drain", body),
        ("GET", "/v1/rooms/r1/drain", None),
        ("POST", "/v1/rooms/r1/drain/stop", {}),
    ]


def test_given_a_room_that_is_not_there_then_status_4(center: Center, tmp_path: Path) -> None:
    center.will(404, {"title": "There is no such room", "detail": "room r9"})
    result = pushctl("drain", "status", "--data", tmp_path, "r9")
    assert (result.exit_code, "There is no such room" in result.output) == (4, True)
