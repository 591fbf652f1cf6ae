"""`pushctl message show`: what is asked, and what a person reads."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_world import Center, forget_settings, pushctl, system_at


@pytest.fixture
def center(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Center]:
    forget_settings(monkeypatch, tmp_path)
    monkeypatch.setenv("LONGWIRE_DATA", str(tmp_path))
    found = Center()
    system_at(tmp_path, center=found.url)
    yield found
    found.close()


def document(**changes: Any) -> dict[str, Any]:
    client = {"client": "phone-1", "state": "acked", "at_ms": 1250, "detail": None, "expires_ms": None, "handed_over": False}
    other = {**client, "client": "tablet-1", "state": "stored", "at_ms": None, "expires_ms": 61_000, "handed_over": True}
    return {
        "id": "m1",
        "product": "shop",
        "realm": "main",
        "user": "ann",
        "qos": 1,
        "state": "expanded",
        "at_ms": 1100,
        "detail": None,
        "accepted_ms": 1000,
        "as_of_ms": 2000,
        "clients": [client, other],
        "clients_total": 3,
        "whole": True,
        **changes,
    }


def test_given_a_users_message_then_each_client_has_a_line(center: Center) -> None:
    center.will(200, document())
    lines = [" ".join(line.split()) for line in pushctl("message", "show", "m1").output.splitlines()]
    assert center.asked == [("GET", "/v1/messages/m1", None)]
    assert lines == [
        "m1 of shop for user ann: expanded",
        "accepted 1970-01-01 00:00:01.000, as of 1970-01-01 00:00:02.000",
        "CLIENT STATE AT DETAIL",
        "phone-1 acked 1970-01-01 00:00:01.250",
        "tablet-1 stored - expires 1970-01-01 00:01:01.000, handed to another channel",
        "and 1 more clients",
    ]


def test_given_a_dead_message_and_a_bound_that_was_hit_then_both_are_said(center: Center) -> None:
    center.will(200, document(state="dead", detail="user ann has no clients", clients=[], clients_total=None, whole=False))
    output = pushctl("message", "show", "m1").output
    assert "user ann has no clients" in output
    assert "not everything was looked at" in output


def test_given_hints_and_a_trace_then_they_are_asked_and_receipts_shown(center: Center) -> None:
    trace = [{"state": "rejected", "at_ms": 1200, "detail": "0x87"}]
    [client, _] = document()["clients"]
    center.will(200, document(clients=[{**client, "trace": trace}], accepted_ms=None))
    result = pushctl("message", "show", "m1", "--client", "phone-1", "--product", "shop", "--trace")
    assert center.asked == [("GET", "/v1/messages/m1?client=phone-1&product=shop&trace=true", None)]
    assert "rejected" in result.output
    assert "0x87" in result.output
    assert "accepted unknown when" in result.output


def test_given_no_such_message_then_status_4_and_an_id_that_is_none_is_not_asked(center: Center) -> None:
    center.will(404, {"title": "There is no such message", "detail": "message m1 is not known", "type": "x:unknown-message"})
    assert pushctl("message", "show", "m1").exit_code == 4
    assert pushctl("message", "show", "../x").exit_code == 1
    assert len(center.asked) == 1


def test_given_json_then_it_is_the_document(center: Center) -> None:
    center.will(200, document())
    assert json.loads(pushctl("message", "show", "m1", "--json").output) == document()
