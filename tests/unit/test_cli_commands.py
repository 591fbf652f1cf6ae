"""`pushctl` without a system: usage, exit statuses, sentences; and with a scripted center, what each answer becomes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import click
import pytest
from cli_world import Center, forget_settings, pushctl, system_at
from joserfc import jwt
from joserfc.jwk import OctKey

import cli
from infra.ops.device import printable
from infra.ops.play import show_play
from infra.ops.show import client_text, rooms_text
from infra.ops.tokens import make_token
from infra.system import read

SECRET = "a-secret-that-is-long-enough-for-hs256"


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    forget_settings(monkeypatch, tmp_path)


@pytest.fixture
def center(tmp_path: Path) -> Iterator[Center]:
    made = Center()
    system_at(tmp_path, center=made.url)
    yield made
    made.close()


# --- usage -------------------------------------------------------------------------------------------------------------


def commands(group: click.Group, *path: str) -> Iterator[tuple[str, ...]]:
    for name, command in group.commands.items():
        yield (*path, name)
        if isinstance(command, click.Group):
            yield from commands(command, *path, name)


def test_given_help_then_the_exit_statuses_are_documented() -> None:
    shown = " ".join(pushctl("--help").output.split())
    for status in ("0 done", "1 bad configuration", "2 wrong usage", "3 not reachable", "4 not found", "130 interrupted"):
        assert status in shown


@pytest.mark.parametrize("path", list(commands(cli.cli)), ids=" ".join)
def test_given_any_command_then_it_has_help_that_says_what_it_does(path: tuple[str, ...]) -> None:
    result = pushctl(*path, "--help")
    assert result.exit_code == 0
    assert f"Usage: cli {' '.join(path)}" in result.output


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("send", "hello"),
        ("send", "--product", "demo", "hello"),
        ("send", "--product", "demo", "--client", "c", "--user", "u", "hello"),
        ("send", "--product", "demo", "--client", "c", "--qos", "2", "hello"),
        ("broadcast", "--product", "demo", "--rate", "0", "hello"),
        ("broadcast", "--product", "demo", "--match", "some", "hello"),
        ("broadcast", "--product", "demo", "--canary", "1%", "hello"),
        ("broadcast", "--product", "demo", "--min-acked", "90%", "hello"),
        ("broadcast", "--product", "demo", "--quiet", "at night", "hello"),
        ("broadcast", "--product", "demo", "--zone", "Europe/Berlin", "hello"),
        ("broadcast", "--product", "demo", "--draft", "--watch", "hello"),
        ("broadcast", "--product", "demo", "--dry-run", "--watch", "hello"),
        ("job", "rate", "j", "0"),
        ("job", "list", "--limit", "101"),
        ("listen", "--product", "demo"),
        ("run", "analytics-of-nothing"),
        ("run", "gateway", "--rooms", "0"),
        ("up", "--rooms", "0"),
        ("access", "deny"),
        ("access", "deny", "c", "--as", "user"),
    ],
    ids=" ".join,
)
def test_given_wrong_usage_then_status_2_and_nothing_on_stdout(arguments: tuple[str, ...]) -> None:
    result = pushctl(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "Usage:" in result.stderr


# --- settings ----------------------------------------------------------------------------------------------------------


def test_given_good_settings_then_checkconfig_says_where_the_data_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGWIRE_DATA", str(tmp_path / "here"))
    result = pushctl("checkconfig")
    assert result.exit_code == 0
    assert str(tmp_path / "here") in result.stdout


@pytest.mark.parametrize(
    ("file", "where"),
    [
        ("[nats]\nurll = 'x'\n", "nats.urll"),
        ("[kafka]\npartitions = 0\n", "kafka.partitions"),
        ("[redis]\ntimeout = 'soon'\n", "redis.timeout"),
        ("[nats\n", ""),
    ],
)
def test_given_a_file_that_does_not_hold_together_then_status_1_and_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, where: str
) -> None:
    (tmp_path / "longwire.toml").write_text(file)
    monkeypatch.setenv("LONGWIRE_CONFIG", str(tmp_path / "longwire.toml"))
    result = pushctl("checkconfig")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert where in result.stderr


def test_given_a_config_file_that_is_not_there_then_status_1_and_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGWIRE_CONFIG", "/nowhere/longwire.toml")
    result = pushctl("checkconfig")
    assert result.exit_code == 1
    assert "/nowhere/longwire.toml" in result.stderr


def test_given_certificates_that_cant_be_served_then_checkconfig_names_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGWIRE_ROOM__TLS__CERTIFICATES", '[{"certificate": "/nowhere/room.crt"}]')
    result = pushctl("checkconfig")
    assert result.exit_code == 1
    assert "/nowhere/room.crt: No such file" in result.stderr


@pytest.mark.parametrize(
    ("role", "port", "status", "said"),
    [("saver", 0, 2, "--rooms is for gateways"), ("gateway", 65_535, 1, "the last port is 65535")],
)
def test_given_rooms_that_cant_be_run_then_it_is_said_why(
    monkeypatch: pytest.MonkeyPatch, role: str, port: int, status: int, said: str
) -> None:
    for name in ("NATS__URL", "KAFKA__BOOTSTRAP", "REDIS__URL"):
        monkeypatch.setenv(f"LONGWIRE_{name}", "nowhere")
    monkeypatch.setenv("LONGWIRE_ROOM__PORT", str(port))
    result = pushctl("run", role, "--rooms", "2")
    assert result.exit_code == status
    assert said in result.stderr


def test_given_a_bad_setting_beside_a_secret_then_the_secret_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGWIRE_CENTER__API_KEY", "do-not-show-me")
    monkeypatch.setenv("LONGWIRE_CENTER__PORT", "99999")
    result = pushctl("checkconfig")
    assert result.exit_code == 1
    assert "center.port" in result.stderr
    assert "do-not-show-me" not in result.output


# --- no system ---------------------------------------------------------------------------------------------------------

NEEDS_A_SYSTEM = [
    ("down",),
    ("send", "--product", "demo", "--client", "c", "hello"),
    ("broadcast", "--product", "demo", "hello"),
    ("listen", "--product", "demo", "--client", "c"),
    ("job", "show", "j"),
    ("job", "list"),
    ("job", "watch", "j"),
    ("job", "pause", "j"),
    ("job", "rate", "j", "5"),
    ("job", "audit", "j"),
    ("client", "show", "c"),
    ("room", "list"),
    ("topics", "apply"),
    ("access", "show"),
    ("access", "deny", "c"),
    ("token", "--client", "c", "--product", "demo"),
]


@pytest.mark.parametrize("arguments", NEEDS_A_SYSTEM, ids=" ".join)
def test_given_no_system_then_status_3_and_a_sentence_with_the_folder_and_the_way_out(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    result = pushctl(*arguments, "--data", tmp_path / "empty")
    assert result.exit_code == 3
    assert result.stdout == ""
    assert str(tmp_path / "empty") in result.stderr
    assert "pushctl up" in result.stderr


def test_given_a_file_of_a_supervisor_that_is_gone_then_there_is_no_system(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", "pass"])
    gone.wait()
    system_at(tmp_path, pid=gone.pid)
    assert read(tmp_path) is None
    assert pushctl("room", "list", "--data", tmp_path).exit_code == 3


def test_given_a_broken_system_file_then_there_is_no_system(tmp_path: Path) -> None:
    (tmp_path / "system.json").write_text('{"center": ')
    assert pushctl("room", "list", "--data", tmp_path).exit_code == 3


def test_given_a_system_file_then_only_its_owner_can_read_it_and_it_shows_what_scripts_need(tmp_path: Path) -> None:
    system = system_at(tmp_path)
    assert (tmp_path / "system.json").stat().st_mode & 0o777 == 0o600
    assert read(tmp_path) == system
    assert set(system.shown()) == {"center", "api_key", "rooms", "nats", "kafka", "redis"}
    assert system.shown()["rooms"] == [{"id": "r1", "host": "127.0.0.1", "port": 1883}]


def test_given_a_running_system_then_up_detached_is_refused_with_its_pid(tmp_path: Path) -> None:
    system_at(tmp_path)
    result = pushctl("up", "--detach", "--data", tmp_path)
    assert result.exit_code == 1
    assert f"pid {os.getpid()}" in result.stderr


def test_given_a_running_system_then_a_refused_up_leaves_its_file(tmp_path: Path) -> None:
    system = system_at(tmp_path)
    assert pushctl("up", "--data", tmp_path).exit_code == 1
    assert read(tmp_path) == system


# --- a scripted center -------------------------------------------------------------------------------------------------


def test_given_a_message_then_it_is_posted_with_the_key_and_its_id_printed(center: Center, tmp_path: Path) -> None:
    center.will(202, {"id": "m-1"})
    result = pushctl(
        "send", "--data", tmp_path, "--product", "demo", "--client", "c1", "--qos", "0", "--ttl", "60", "hi", "--json"
    )
    assert (result.exit_code, json.loads(result.stdout)) == (0, {"id": "m-1"})
    body = {"product": "demo", "client": "c1", "qos": 0, "ttl": 60, "payload": "hi"}
    assert center.asked == [("POST", "/v1/messages", body)]
    assert center.keys == ["Bearer key-1"]


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        ((404, {"title": "There is no such product", "detail": "product x is not configured"}), 4),
        ((400, {"title": "The request does not fit", "detail": "ttl 0"}), 5),
        ((401, {"title": "The API key is missing or wrong"}), 5),
        ((503, {"title": "Kafka did not acknowledge", "detail": "repeat it"}), 5),
        ((502, b"<html>"), 5),
    ],
)
def test_given_a_refusal_then_its_title_and_detail_are_the_sentence(
    center: Center, tmp_path: Path, answer: tuple[int, Any], status: int
) -> None:
    center.will(*answer)
    result = pushctl("send", "--data", tmp_path, "--product", "demo", "--client", "c1", "hi")
    assert result.exit_code == status
    assert result.stdout == ""
    words = answer[1].values() if isinstance(answer[1], dict) else ["502"]
    assert all(word in result.stderr for word in words)


def test_given_nobody_where_center_should_be_then_status_3(center: Center, tmp_path: Path) -> None:
    center.close()
    result = pushctl("room", "list", "--data", tmp_path)
    assert result.exit_code == 3
    assert center.url in result.stderr


# --- tokens ------------------------------------------------------------------------------------------------------------


def test_given_the_folder_of_a_system_then_a_bare_token_with_all_claims_is_printed(tmp_path: Path) -> None:
    (tmp_path / "issuer-secret").write_text(SECRET)
    result = pushctl(
        *("token", "--data", tmp_path, "--client", "c1", "--product", "demo", "--user", "u1", "--group", "a", "--group", "b"),
        *("--ttl", "60"),
    )
    assert result.exit_code == 0
    claims = jwt.decode(result.stdout.strip(), OctKey.import_key(SECRET), algorithms=["HS256"]).claims
    assert (claims["iss"], claims["aud"], claims["sub"]) == ("longwire", "longwire", "c1")
    assert claims["exp"] - claims["iat"] == 60
    assert claims["products"] == {"demo": {"groups": ["a", "b"], "user": "u1"}}


def test_given_two_tokens_then_their_jti_differ(tmp_path: Path) -> None:
    (tmp_path / "issuer-secret").write_text(SECRET)
    tokens = [make_token(tmp_path, client="c1", product="demo") for _ in range(2)]
    claims = [jwt.decode(token, OctKey.import_key(SECRET), algorithms=["HS256"]).claims for token in tokens]
    assert claims[0]["jti"] != claims[1]["jti"]


@pytest.mark.parametrize(
    "names",
    [
        ("--client", "a b", "--product", "demo"),
        ("--client", "c", "--product", "Demo"),
        ("--client", "c", "--product", "demo", "--group", "a>b"),
        ("--client", "c", "--product", "demo", "--user", "u\n"),
    ],
)
def test_given_a_name_that_does_not_fit_then_status_1_and_no_token(tmp_path: Path, names: tuple[str, ...]) -> None:
    (tmp_path / "issuer-secret").write_text(SECRET)
    result = pushctl("token", "--data", tmp_path, *names)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "does not fit" in result.stderr


# --- what is shown -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("payload", "shown"),
    [
        (b"hello", "hello"),
        ("grüße ✓".encode(), "grüße ✓"),
        (b"\x1b[31mred", "\\x1b[31mred"),
        (b"a\r\nb\0", "a\\r\\nb\\x00"),
        (b"\xff\xfe", "\\xff\\xfe"),
        ("\u202etxt.exe".encode(), "\\u202etxt.exe"),
    ],
)
def test_given_a_payload_then_nothing_of_it_can_drive_the_terminal(payload: bytes, shown: str) -> None:
    assert printable(payload) == shown


def test_given_a_running_system_then_play_has_its_real_addresses_key_and_a_token(tmp_path: Path) -> None:
    (tmp_path / "issuer-secret").write_text(SECRET)
    system = system_at(tmp_path, center="http://127.0.0.1:4711")
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "saver.log").touch()
    text = show_play(system)
    for part in ("listen", "send", "broadcast", "curl", "http://127.0.0.1:4711/v1/messages", "Bearer key-1", "logs/saver.log"):
        assert part in text
    token = text.partition("--token ")[2].split()[0]
    assert jwt.decode(token, OctKey.import_key(SECRET), algorithms=["HS256"]).claims["sub"] == "phone-1"


def test_given_documents_then_tables_show_their_numbers() -> None:
    rooms = rooms_text({"rooms": [{"room": "r1", "host": "10.0.0.1", "port": 1883, "state": "open", "connections": 42}]})
    assert rooms.splitlines()[1].split() == ["r1", "10.0.0.1:1883", "open", "42"]
    client = client_text({"session": None, "binds": {}, "pending": {"demo": 3}})
    assert client.splitlines()[0] == "offline"
    assert client.splitlines()[-1].split() == ["demo", "no", "3"]


def test_given_a_fallback_then_its_time_goes_to_center_as_it_was_written(center: Center, tmp_path: Path) -> None:
    center.will(202, {"id": "m-1"})
    arguments = ("--product", "demo", "--client", "c1", "--fallback-after", "10m", "hi")
    assert pushctl("send", "--data", tmp_path, *arguments).exit_code == 0
    [(_, _, body)] = center.asked
    assert body["fallback_after"] == "10m"


DISPATCHED = {
    "addresses": [{"host": "10.0.0.1", "port": 1883, "room": "r1"}, {"host": "2001:db8::1", "port": 2, "room": "r2"}],
    "ttl_s": 300,
    "heartbeat_s": 480,
    "backoff": {"base_s": 0.5, "cap_s": 30.0},
    "region": None,
}


def test_given_a_device_then_it_is_shown_where_it_would_be_sent(center: Center, tmp_path: Path) -> None:
    center.will(200, DISPATCHED)
    more = ("--network", "4g", "--attempt", 2, "--last", "r9", "--failed", "a:1", "--failed", "[::1]:2")
    result = pushctl("dispatch", "--data", tmp_path, "phone-1", *more)
    assert result.exit_code == 0
    assert [line.split() for line in result.stdout.splitlines()[1:3]] == [["r1", "10.0.0.1:1883"], ["r2", "[2001:db8::1]:2"]]
    assert "region unknown; heartbeat 480 s, good for 300 s, backoff 0.5 s to 30 s" in result.stdout
    [(method, target, _)] = center.asked
    assert method == "GET"
    asked = parse_qs(urlsplit(target).query)
    assert asked == {"client": ["phone-1"], "network": ["4g"], "attempt": ["2"], "last": ["r9"], "failed": ["a:1", "[::1]:2"]}


def test_given_no_room_then_dispatch_says_so_with_status_5(center: Center, tmp_path: Path) -> None:
    center.will(503, {"type": "urn:longwire:problem:no-room", "title": "No room admits clients now", "detail": "come back later"})
    result = pushctl("dispatch", "--data", tmp_path, "phone-1")
    assert result.exit_code == 5
    assert "No room admits clients now" in result.stderr
