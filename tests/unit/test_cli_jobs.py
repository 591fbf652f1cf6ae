"""`pushctl broadcast` and `pushctl job`: what is asked of center, and what its answers look like."""

from __future__ import annotations

import json
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest
from cli_world import Center, forget_settings, pushctl, system_at
from click.testing import CliRunner
from rich.console import Console

import cli
from infra.ops.job_text import audit_text, estimate_text, funnel_line, job_text, list_text, span, watch_view
from infra.ops.jobs import Meter


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    forget_settings(monkeypatch, tmp_path)


@pytest.fixture
def center(tmp_path: Path) -> Iterator[Center]:
    made = Center()
    system_at(tmp_path, center=made.url)
    yield made
    made.close()


def test_given_a_broadcast_then_the_job_is_printed(center: Center, tmp_path: Path) -> None:
    center.will(202, {"id": "j-1", "state": "accepted", "rate": 100})
    result = pushctl(
        "broadcast", "--data", tmp_path, "--product", "demo", "--rate", 100, "--group", "news", "--by", "ann", "hi", "--json"
    )
    assert (result.exit_code, json.loads(result.stdout)["id"]) == (0, "j-1")
    assert center.asked == [
        ("POST", "/v1/broadcasts", {"product": "demo", "payload": "hi", "rate": 100, "groups": ["news"], "by": "ann"}),
    ]


def test_given_watch_then_it_follows_the_job_until_it_is_completed(center: Center, tmp_path: Path) -> None:
    center.will(202, {"id": "j-1", "state": "accepted"})
    center.will(404, {"title": "There is no such broadcast"})
    center.will(200, {"id": "j-1", "state": "running", "targeted": 10, "totals": {"sent": 4}})
    center.will(200, {"id": "j-1", "state": "completed", "targeted": 10, "totals": {"sent": 10}})
    result = pushctl("broadcast", "--data", tmp_path, "--product", "demo", "--watch", "hi", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["totals"] == {"sent": 10}
    assert [path for _, path, _ in center.asked[1:]] == ["/v1/broadcasts/j-1"] * 3


def test_given_every_option_then_every_one_is_in_the_request(center: Center, tmp_path: Path) -> None:
    center.will(202, {"id": "j-1", "state": "accepted"})
    result = pushctl(
        *("broadcast", "--data", tmp_path, "--product", "demo", "--group", "a", "--group", "b", "--match", "all"),
        *("--segment", 'platform == "ios"', "--sample", "5%", "--sample-seed", "s", "--audience", "list-1", "--include-new"),
        *("--rate", 100, "--ramp", "30s", "--priority", "low", "--ttl", "1h", "--start-at", "2999-01-01T00:00:00Z", "--draft"),
        *("--canary", "1%", "--canary-wait", "60s", "--min-acked", "90%", "--max-failed", "1%"),
        *("--quiet", "22:00-08:00", "--zone", "Europe/Berlin", "--fallback-after", "10m", "--by", "ann", "hi"),
    )
    assert (result.exit_code, result.stdout) == (0, "job j-1 accepted; start it: pushctl job start j-1\n")
    [(_, _, body)] = center.asked
    assert body == {
        "product": "demo",
        "payload": "hi",
        "groups": ["a", "b"],
        "match": "all",
        "segment": 'platform == "ios"',
        "sample": "5%",
        "sample_seed": "s",
        "audience": "list-1",
        "include_new": True,
        "rate": 100,
        "ramp": "30s",
        "priority": "low",
        "ttl": "1h",
        "start_at": "2999-01-01T00:00:00Z",
        "draft": True,
        "canary": {"share": "1%", "wait": "60s", "min_acked": "90%", "max_failed": "1%"},
        "quiet": {"from": "22:00", "to": "08:00", "zone": "Europe/Berlin"},
        "fallback_after": "10m",
        "by": "ann",
    }


def test_given_dry_run_then_the_estimate_is_printed_and_nothing_is_started(center: Center, tmp_path: Path) -> None:
    rooms = [{"room": "r1", "persons": 1200, "error": None}, {"room": "r2", "persons": None, "error": "no answer: BusTimeout"}]
    numbers = {"online": 1200, "offline": 3400, "known": 5000, "offline_estimated": True, "rate": 100, "takes_s": 12.0}
    center.will(200, {"rooms": rooms, **numbers})
    result = pushctl("broadcast", "--data", tmp_path, "--product", "demo", "--dry-run", "hi")
    assert [path for _, path, _ in center.asked] == ["/v1/broadcasts/estimate"]
    lines = result.stdout.splitlines()
    assert lines[0] == "1,200 online now, through in 12 s at 100/s"
    assert lines[1] == "about 3,400 offline, of about 5,000 that have bound the product"
    assert [line.split(maxsplit=1) for line in lines[3:5]] == [["r1", "1,200"], ["r2", "no answer: BusTimeout"]]
    assert lines[-1] == "nothing was sent"


# --- jobs --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", ["start", "pause", "resume", "cancel"])
def test_given_an_action_then_it_is_asked_for_with_who_and_why(center: Center, tmp_path: Path, action: str) -> None:
    center.will(202, {"id": "j-1", "product": "demo", "state": "paused", "rate": 100})
    result = pushctl("job", action, "--data", tmp_path, "--reason", "a wrong link", "--by", "ann", "j-1")
    assert (result.exit_code, result.stdout) == (0, "job j-1 will be paused at 100/s\n")
    assert center.asked == [("POST", f"/v1/broadcasts/j-1/{action}", {"by": "ann", "reason": "a wrong link"})]


def test_given_a_rate_then_it_is_put_in_the_name_of_the_shells_user(
    center: Center, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGNAME", "bob")
    center.will(202, {"id": "j-1", "product": "demo", "state": "running", "rate": 50})
    assert pushctl("job", "rate", "--data", tmp_path, "j-1", 50).exit_code == 0
    assert center.asked == [("PUT", "/v1/broadcasts/j-1/rate", {"by": "bob", "rate": 50})]


def test_given_a_state_that_does_not_allow_it_then_status_5_and_what_is_possible(center: Center, tmp_path: Path) -> None:
    center.will(409, {"title": "Not in a state for this", "detail": "a cancelled job can't resume; possible: cancel"})
    result = pushctl("job", "resume", "--data", tmp_path, "j-1")
    assert (result.exit_code, result.stdout) == (5, "")
    assert "possible: cancel" in result.stderr


def test_given_a_job_when_watched_in_a_pipe_then_each_change_is_a_line(center: Center, tmp_path: Path) -> None:
    running = {"id": "j-1", "state": "running", "rate": 100, "targeted": 10, "totals": {"sent": 4}, "progress": 0.4, "eta_s": 1}
    for document in (running, running, {**running, "progress": 1.0, "state": "completed", "totals": {"sent": 10, "acked": 9}}):
        center.will(200, document)
    result = pushctl("job", "watch", "--data", tmp_path, "j-1")
    first, second, last = result.stdout.splitlines()
    assert first.split("  ")[1:] == ["running", "40%", "0/s of 100/s", "1 s left", *funnel_line(running).split("  ")]
    assert "completed  100%  targeted 10 → sent 10  acked 9  rejected 0  waiting 0" in second
    assert last == "job j-1 completed: sent to 10 of 10 persons online, 9 acknowledged so far"
    assert result.exit_code == 0


def test_given_json_then_each_change_is_one_document_a_line(center: Center, tmp_path: Path) -> None:
    states = ["running", "completed"]
    for state in states:
        center.will(200, {"id": "j-1", "state": state})
    result = pushctl("job", "watch", "--data", tmp_path, "--json", "j-1")
    assert [json.loads(line)["state"] for line in result.stdout.splitlines()] == states


@pytest.mark.parametrize("state", ["halted", "cancelled"])
def test_given_a_job_that_ends_badly_then_status_1_and_the_reason(center: Center, tmp_path: Path, state: str) -> None:
    center.will(200, {"id": "j-1", "state": state, "reason": "canary: 12% acknowledged, less than 90%"})
    result = pushctl("job", "watch", "--data", tmp_path, "j-1")
    assert result.exit_code == 1
    assert "canary: 12% acknowledged" in result.stderr


def test_given_a_job_that_is_not_through_in_time_then_status_6(center: Center, tmp_path: Path) -> None:
    for _ in range(20):
        center.will(200, {"id": "j-1", "state": "paused"})
    assert pushctl("job", "watch", "--data", tmp_path, "--timeout", "0.4", "j-1").exit_code == 6


def test_given_a_list_then_filters_are_asked_for_and_rows_are_printed(center: Center, tmp_path: Path) -> None:
    row = {"id": "j-1", "product": "demo", "state": "running", "progress": 0.25, "rate": 1000, "totals": {"sent": 1234}}
    center.will(200, {"broadcasts": [row], "next": "cursor"})
    result = pushctl("job", "list", "--data", tmp_path, "--product", "demo", "--state", "running", "--limit", "1")
    assert center.asked == [("GET", "/v1/broadcasts?product=demo&state=running&limit=1", None)]
    lines = result.stdout.splitlines()
    assert lines[1].split() == ["j-1", "demo", "running", "25%", "1,000/s", "1,234", "0"]
    assert "--limit" in lines[2]


# --- what is shown -----------------------------------------------------------------------------------------------------


def test_given_a_job_then_its_text_has_the_state_the_funnel_and_each_room() -> None:
    counts = {"sent": 1004, "acked": 3, "too_large": 2}
    job = {
        "id": "j",
        "product": "demo",
        "state": "halted",
        "reason": "canary [red]12%[/red] acknowledged",
        "progress": 0.5,
        "targeted": 2008,
        "rate": 500,
        "uncertain": 7,
        "started_ms": 1_790_000_000_000,
        "ack_ms": {"p50": 42, "p90": 1234, "p99": None},
        "canary": {"share_bp": 25, "wait_s": 60, "state": "failed"},
        "pressure": 0.5,
        "totals": counts,
        "rooms": [{"room": "r1", "counts": counts}],
    }
    text = job_text(job)
    assert text.splitlines()[0] == "j: halted: canary [red]12%[/red] acknowledged, 50% of 2,008"
    assert text.splitlines()[-1].split() == ["all", "1,004", "0", "3", "0", "0", "0", "0"]
    assert "targeted 2,008 → sent 1,004  acked 3  rejected 0  waiting 0  too large 2  uncertain 7" in text
    for part in ("p50 42 ms", "p90 1.2 s", "p99 over an hour", "canary 0.25%: failed", "2026-09-21"):
        assert part in text
    assert "slowed down" not in text, "nothing is written to in this state"


def test_given_a_terminal_then_a_job_is_drawn_with_its_rate_and_what_slows_it_down() -> None:
    job = {
        "id": "j",
        "product": "demo",
        "state": "running",
        "progress": 0.5,
        "targeted": 100,
        "rate": 200,
        "pace": 100.0,
        "pressure": 0.5,
        "eta_s": 65,
        "totals": {"sent": 50},
    }
    console = Console(file=StringIO(), width=120, record=True, markup=False)
    console.print(watch_view(job, 97.4))
    head, bar, funnel, pressure = console.export_text().splitlines()
    assert head.split() == ["j", "demo", "running"]
    assert bar.split("  ")[-3:] == ["50%", "97/s of 100/s now, 200/s asked for", "1 min 5 s left"]
    assert funnel.rstrip() == "targeted 100 → sent 50  acked 0  rejected 0  waiting 0"
    assert "slowed down to 50%" in pressure


def test_given_an_audit_then_each_action_is_a_row() -> None:
    record = {"at_ms": 0, "by": "ann", "action": "pause", "before": "running", "after": "paused", "reason": None}
    text = audit_text({"records": [record], "whole": False})
    assert text.splitlines()[1].split() == ["1970-01-01", "00:00:00", "ann", "pause", "running", "paused"]
    assert "older ones" in text
    assert audit_text({"records": [], "whole": True}) == "nothing was done to it yet"


def test_given_nothing_then_lists_and_estimates_say_so() -> None:
    assert list_text({"broadcasts": [], "next": None}) == "no broadcasts"
    numbers = {"online": 0, "offline": None, "known": None, "offline_estimated": False, "rate": 1, "takes_s": 0.0}
    assert "Kafka did not answer" in estimate_text({**numbers, "rooms": []})
    assert "no room is live" in estimate_text({**numbers, "rooms": []})


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (8.4, "8 s"), (60, "1 min"), (125, "2 min 5 s"), (3600, "1 h"), (12_000, "3 h 20 min"), (-1, "0 s")],
)
def test_given_seconds_then_they_are_said_in_two_units_at_most(seconds: float, text: str) -> None:
    assert span(seconds) == text


def test_given_counts_then_the_rate_is_that_of_the_last_seconds() -> None:
    meter = Meter()
    assert meter.take(0, 0.0) == 0
    assert meter.take(100, 1.0) == 100
    for second in range(2, 20):
        rate = meter.take(100 + 50 * (second - 1), float(second))
    assert rate == 50
    for second in range(20, 40):
        rate = meter.take(1000, float(second))
    assert rate == 0, "a job that stands has no rate"


# --- one that has to be confirmed --------------------------------------------------------------------------------------

QUESTION = {
    "type": "urn:longwire:problem:confirm-needed",
    "title": "It must be confirmed",
    "detail": "it is for about 5 persons, and more than 4 have to be confirmed: ask again with `confirm`",
    "estimate": 5,
    "confirm": "a-token",
}


@pytest.mark.parametrize(("more", "answer"), [(["--yes"], None), ([], "y\n")])
def test_given_many_persons_when_it_is_confirmed_then_it_is_asked_again_with_the_token(
    more: list[str], answer: str | None, center: Center, tmp_path: Path
) -> None:
    center.will(409, QUESTION)
    center.will(202, {"id": "j-1", "state": "accepted"})
    command = ["broadcast", "--data", str(tmp_path), "hi", "--product", "demo", "--by", "ann", *more]
    result = CliRunner().invoke(cli.cli, command, input=answer)
    assert (result.exit_code, result.stdout) == (0, "job j-1 accepted\n")
    assert ("more than 4" in result.stderr) == (answer is not None)
    body = {"product": "demo", "payload": "hi", "by": "ann"}
    assert [asked[2] for asked in center.asked] == [body, {**body, "confirm": "a-token"}]


@pytest.mark.parametrize(("more", "answer"), [(["--yes"], None), ([], "y\n")])
def test_given_a_draft_for_many_persons_when_its_start_is_confirmed_then_it_is_asked_again_with_the_token(
    more: list[str], answer: str | None, center: Center, tmp_path: Path
) -> None:
    center.will(409, QUESTION)
    center.will(202, {"id": "j-1", "state": "scheduled", "rate": 100})
    command = ["job", "start", "--data", str(tmp_path), "j-1", "--by", "ann", *more]
    result = CliRunner().invoke(cli.cli, command, input=answer)
    assert (result.exit_code, result.stdout) == (0, "job j-1 will be scheduled at 100/s\n")
    body = {"by": "ann"}
    path = "/v1/broadcasts/j-1/start"
    assert center.asked == [("POST", path, body), ("POST", path, {**body, "confirm": "a-token"})]


@pytest.mark.parametrize("answer", ["n\n", ""])
def test_given_many_persons_when_it_is_not_confirmed_then_nothing_is_sent(answer: str, center: Center, tmp_path: Path) -> None:
    center.will(409, QUESTION)
    result = CliRunner().invoke(cli.cli, ["broadcast", "--data", str(tmp_path), "hi", "--product", "demo"], input=answer)
    assert (result.exit_code, len(center.asked)) == (5, 1)
    assert "--yes" in result.stderr
