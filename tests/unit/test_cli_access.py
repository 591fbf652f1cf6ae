"""`pushctl access`: what an entry is taken for, what is asked of center, and what each answer becomes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_world import Center, forget_settings, pushctl, system_at
from click.testing import CliRunner

import cli
from infra.ops.access_commands import sort_out
from infra.ops.access_text import access_text, changed_text
from infra.ops.shell import Ending

NOBODY: dict[str, list[str]] = {"networks": [], "clients": [], "patterns": []}
EMPTY = {"allow": NOBODY, "deny": NOBODY, "uncounted": []}
QUESTION = {"type": "urn:longwire:problem:confirm-needed", "title": "It must be confirmed", "detail": "allow has no networks now"}


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    forget_settings(monkeypatch, tmp_path)
    monkeypatch.setattr("getpass.getuser", lambda: "ann")


@pytest.fixture
def center(tmp_path: Path) -> Iterator[Center]:
    made = Center()
    system_at(tmp_path, center=made.url)
    yield made
    made.close()


# --- what an entry is --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "kind", "sent"),
    [
        ("203.0.113.0/24", None, {"networks": ["203.0.113.0/24"]}),
        ("198.51.100.7", None, {"networks": ["198.51.100.7/32"]}),
        ("2001:DB8::1", None, {"networks": ["2001:db8::1/128"]}),
        ("2001:db8::/32", None, {"networks": ["2001:db8::/32"]}),
        ("phone-7", None, {"clients": ["phone-7"]}),
        ("aa:bb:cc:dd:ee:ff", None, {"clients": ["aa:bb:cc:dd:ee:ff"]}),
        ("4711", None, {"clients": ["4711"]}),
        ("test-*", None, {"patterns": ["test-*"]}),
        ("phone-?", None, {"patterns": ["phone-?"]}),
        ("*", None, {"patterns": ["*"]}),
        ("10.0.*", "pattern", {"patterns": ["10.0.*"]}),
        ("198.51.100.7", "client", {"clients": ["198.51.100.7"]}),
        ("phone-7", "pattern", {"patterns": ["phone-7"]}),
        ("1.2.3", "client", {"clients": ["1.2.3"]}),
    ],
)
def test_given_an_entry_then_it_is_what_it_looks_like_or_what_it_is_said_to_be(entry: str, kind: str | None, sent: Any) -> None:
    assert sort_out([entry, entry], kind) == sent


@pytest.mark.parametrize(
    ("entry", "kind", "said"),
    [
        ("198.51.100.7/24", None, "has host bits set"),
        ("203.0.113.0/33", None, "network '203.0.113.0/33'"),
        ("shop/phone", None, "network 'shop/phone'"),
        ("203.0.113.*", None, "looks like one: write a network as 203.0.113.0/24"),
        ("203.0.113.256", None, "looks like one"),
        ("203.0.113", None, "--as client"),
        ("a b", None, "client 'a b'"),
        ("", None, "client ''"),
        ("a*b*c*d*e*", None, "more than 4 stars"),
        ("phone-7", "network", "network 'phone-7'"),
        ("test-*", "client", "client 'test-*'"),
        ("a\x1b[31m", None, "client 'a\\x1b[31m'"),
    ],
)
def test_given_an_entry_that_does_not_fit_then_status_1_it_is_named_and_nothing_is_sent(
    center: Center, tmp_path: Path, entry: str, kind: str | None, said: str
) -> None:
    with pytest.raises(Ending) as raised:
        sort_out(["good", entry] if kind != "network" else [entry], kind)
    assert said in str(raised.value)
    result = pushctl("access", "deny", "--data", tmp_path, *(["--as", kind] if kind else []), "--", entry)
    assert (result.exit_code, result.stdout, center.asked) == (1, "", [])


# --- what is asked, and said -------------------------------------------------------------------------------------------


def test_given_entries_when_denied_then_one_change_is_asked_for_and_said(center: Center, tmp_path: Path) -> None:
    center.will(200, EMPTY)
    result = pushctl(
        "access", "deny", "--data", tmp_path, "203.0.113.0/24", "phone-7", "test-*", "198.51.100.7", "--reason", "flood"
    )
    add = {"networks": ["203.0.113.0/24", "198.51.100.7/32"], "clients": ["phone-7"], "patterns": ["test-*"]}
    assert center.asked == [("POST", "/v1/access", {"list": "deny", "add": add, "by": "ann", "reason": "flood"})]
    assert result.exit_code == 0
    assert result.stdout == "deny has network 203.0.113.0/24, network 198.51.100.7/32, client phone-7, pattern test-*\n"


def test_given_entries_when_lifted_then_they_are_to_be_removed(center: Center, tmp_path: Path) -> None:
    center.will(200, EMPTY)
    result = pushctl("access", "uncounted", "--data", tmp_path, "--lift", "10.0.0.0/8", "--by", "bob")
    assert center.asked == [("POST", "/v1/access", {"list": "uncounted", "remove": {"networks": ["10.0.0.0/8"]}, "by": "bob"})]
    assert (result.exit_code, result.stdout) == (0, "uncounted no longer has network 10.0.0.0/8\n")


def test_given_json_then_the_new_document_is_printed(center: Center, tmp_path: Path) -> None:
    center.will(200, EMPTY)
    result = pushctl("access", "deny", "--data", tmp_path, "c", "--json")
    assert (result.exit_code, json.loads(result.stdout)) == (0, EMPTY)


@pytest.mark.parametrize(
    ("answer", "status", "said"),
    [
        (
            (400, {"type": "urn:longwire:problem:bad-input", "title": "The request does not fit", "detail": "add.clients 'c'"}),
            5,
            "'c'",
        ),
        ((404, {"type": "urn:longwire:problem:unknown-entry", "title": "The list does not have it", "detail": "'c'"}), 4, "'c'"),
        ((409, {"type": "urn:longwire:problem:changed-meanwhile", "title": "Somebody else changed it meanwhile"}), 5, "Somebody"),
        ((503, {"type": "urn:longwire:problem:bus-down", "title": "NATS did not answer"}), 5, "NATS"),
    ],
)
def test_given_a_refusal_then_its_status_and_sentence_and_no_question(
    center: Center, tmp_path: Path, answer: tuple[int, Any], status: int, said: str
) -> None:
    center.will(*answer)
    result = pushctl("access", "deny", "--data", tmp_path, "c")
    assert (result.exit_code, result.stdout, len(center.asked)) == (status, "", 1)
    assert said in result.stderr


# --- what must be confirmed --------------------------------------------------------------------------------------------


def asked(center: Center, data: Path, answer: str, *more: str) -> Any:
    arguments = ["access", "allow", "--data", str(data), "192.0.2.0/24", *more]
    return CliRunner().invoke(cli.cli, arguments, input=answer)


def test_given_a_yes_when_center_wants_it_confirmed_then_it_is_asked_for_again_with_it(center: Center, tmp_path: Path) -> None:
    center.will(409, QUESTION)
    center.will(200, {**EMPTY, "allow": {**NOBODY, "networks": ["192.0.2.0/24"]}})
    result = asked(center, tmp_path, "y\n")
    assert result.exit_code == 0
    assert "allow has no networks now" in result.stderr
    assert result.stdout == "allow has network 192.0.2.0/24; admitted is everybody, from its networks only\n"
    first, second = (body for _, _, body in center.asked)
    assert second == {**first, "confirm": True}
    assert "confirm" not in first


@pytest.mark.parametrize("answer", ["n\n", "", "\n"])
def test_given_no_yes_when_center_wants_it_confirmed_then_status_5_and_nothing_more_is_asked(
    center: Center, tmp_path: Path, answer: str
) -> None:
    center.will(409, QUESTION)
    result = asked(center, tmp_path, answer)
    assert (result.exit_code, result.stdout, len(center.asked)) == (5, "", 1)
    assert "--yes" in result.stderr


def test_given_yes_as_an_option_then_it_is_confirmed_at_once(center: Center, tmp_path: Path) -> None:
    center.will(200, EMPTY)
    assert asked(center, tmp_path, "", "--yes").exit_code == 0
    [(_, _, body)] = center.asked
    assert body["confirm"] is True


# --- what is shown -----------------------------------------------------------------------------------------------------


def test_given_lists_when_shown_then_each_entry_has_a_line_and_an_empty_list_says_what_that_means(
    center: Center, tmp_path: Path
) -> None:
    document = {
        **EMPTY,
        "deny": {"networks": ["203.0.113.0/24"], "clients": ["phone-7"], "patterns": []},
        "uncounted": ["::1/128"],
    }
    center.will(200, document)
    result = pushctl("access", "show", "--data", tmp_path)
    assert center.asked == [("GET", "/v1/access", None)]
    assert result.stdout.splitlines() == [
        "deny:",
        "  network 203.0.113.0/24",
        "  client phone-7",
        "allow: everybody who is not denied",
        "uncounted:",
        "  network ::1/128",
    ]
    assert access_text(EMPTY).splitlines()[0] == "deny: nobody"
    center.will(200, document)
    assert json.loads(pushctl("access", "show", "--data", tmp_path, "--json").stdout) == document


@pytest.mark.parametrize(
    ("allow", "said"),
    [
        ({}, "admitted is everybody, from anywhere"),
        ({"clients": ["c"]}, "admitted are the clients that it means, from anywhere"),
        ({"networks": ["192.0.2.0/24"], "patterns": ["c*"]}, "admitted are the clients that it means, from its networks only"),
    ],
)
def test_given_a_change_of_allow_then_it_is_said_whom_that_admits(allow: dict[str, list[str]], said: str) -> None:
    document = {**EMPTY, "allow": {**NOBODY, **allow}}
    assert changed_text(document, "allow", {"clients": ["d"]}, lift=True) == f"allow no longer has client d; {said}"
