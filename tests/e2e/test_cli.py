"""The whole surface of `pushctl` as a person or a script uses it: real commands on one running system, two rooms."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import psutil
import pytest

from infra.system import System, read

pytestmark = [pytest.mark.xdist_group("local-brokers"), pytest.mark.timeout(240)]

PUSHCTL = str(Path(sys.executable).with_name("pushctl"))
START = 200.0
DEADLINE = 40.0


class Pushctl:
    """Runs commands on the system of one data folder, with an environment of HOME and PATH only."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self._devices: list[subprocess.Popen[str]] = []

    @property
    def environment(self) -> dict[str, str]:
        passed = {name: os.environ[name] for name in ("HOME", "PATH") if name in os.environ}
        return {**passed, "LONGWIRE_DATA": str(self.data)}

    def __call__(self, *arguments: str, timeout: float = DEADLINE, status: int = 0) -> subprocess.CompletedProcess[str]:
        """Run a command, which has to end with `status` and, whatever it is, without a traceback."""
        done = subprocess.run(
            [PUSHCTL, *arguments], env=self.environment, capture_output=True, text=True, timeout=timeout, check=False
        )
        assert "Traceback" not in done.stderr, done.stderr
        assert done.returncode == status, (arguments, done.returncode, done.stdout, done.stderr)
        return done

    def json(self, *arguments: str, timeout: float = DEADLINE) -> Any:
        """Run a command with `--json`; its stdout has to be one document."""
        return json.loads(self(*arguments, "--json", timeout=timeout).stdout)

    def listening(self, client: str, *more: str) -> subprocess.Popen[str]:
        """A device in the background; returns when the system knows its bind."""
        command = [PUSHCTL, "listen", "--product", "demo", "--client", client, "--json", *more]
        device = subprocess.Popen(
            command, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        self._devices.append(device)
        until(lambda: self.bound(client) or device.poll() is not None)
        return device

    def end_devices(self) -> None:
        """End what a test left listening, because it failed."""
        for device in self._devices:
            if device.poll() is None:
                device.kill()
            device.communicate()
        self._devices.clear()

    def bound(self, client: str) -> bool:
        """Whether the register has the client online with a bind to `demo`."""
        done = subprocess.run(
            [PUSHCTL, "client", "show", client, "--json"], env=self.environment, capture_output=True, text=True, check=False
        )
        document = json.loads(done.stdout) if done.returncode == 0 else {}
        return bool(document.get("session")) and "demo" in document["binds"]


def until(found: Callable[[], Any], deadline: float = DEADLINE) -> Any:
    """The first truthy value of `found()`."""
    end = time.monotonic() + deadline
    while not (value := found()):
        assert time.monotonic() < end, f"nothing came within {deadline:.0f} s"
        time.sleep(0.1)
    return value


def messages(device: subprocess.Popen[str], status: int = 0) -> list[dict[str, Any]]:
    """Wait for the end of a device and return what it printed."""
    out, err = device.communicate(timeout=DEADLINE)
    assert device.returncode == status, (device.returncode, out, err)
    return [json.loads(line) for line in out.splitlines()]


def fresh(name: str) -> str:
    """A client id of its own for a test."""
    return f"{name}-{uuid4().hex[:8]}"


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Pushctl, Any]]:
    """A system with two rooms, and what `up --detach --json` printed. Whatever happens, its supervisor is ended."""
    pushctl = Pushctl(tmp_path_factory.mktemp("cli") / "data")
    printed = pushctl.json("up", "--detach", "--rooms", "2", timeout=START)
    system = read(pushctl.data)
    assert system is not None
    try:
        yield pushctl, printed
    finally:
        end(system)


def end(system: System) -> None:
    """Stop a supervisor by its pid, as `down` would; its children die with it."""
    try:
        process = psutil.Process(system.pid)
    except psutil.NoSuchProcess:
        return
    process.terminate()
    try:
        process.wait(timeout=DEADLINE)
    except psutil.TimeoutExpired:
        process.kill()
        raise


@pytest.fixture
def pushctl(started: tuple[Pushctl, Any]) -> Iterator[Pushctl]:
    yield started[0]
    started[0].end_devices()


# --- up ----------------------------------------------------------------------------------------------------------------


def test_given_up_detached_then_it_prints_where_everything_is_and_all_of_it_answers(started: tuple[Pushctl, Any]) -> None:
    pushctl, printed = started
    assert set(printed) == {"center", "api_key", "rooms", "nats", "kafka", "redis"}
    assert [room["id"] for room in printed["rooms"]] == ["r1", "r2"]
    assert httpx.get(f"{printed['center']}/readyz", trust_env=False).json()["reasons"] == {}
    assert httpx.get(f"{printed['center']}/v1/rooms", trust_env=False).status_code == 401
    assert (pushctl.data / "system.json").stat().st_mode & 0o777 == 0o600

    for room in printed["rooms"]:
        socket.create_connection((room["host"], room["port"]), timeout=5).close()


def test_given_a_running_system_then_a_second_up_detached_is_refused(pushctl: Pushctl) -> None:
    done = pushctl("up", "--detach", status=1)
    assert str(pushctl.data) in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    pushctl("room", "list")


def test_given_a_running_system_then_the_rooms_are_listed(started: tuple[Pushctl, Any]) -> None:
    pushctl, printed = started
    listed = pushctl.json("room", "list")["rooms"]
    assert [(room["room"], room["port"], room["state"]) for room in listed] == [
        (room["id"], room["port"], "open") for room in printed["rooms"]
    ]
    assert "r2" in pushctl("room", "list").stdout


def test_given_topics_that_are_there_then_apply_leaves_them(pushctl: Pushctl) -> None:
    outcome = {row["topic"]: row["outcome"] for row in pushctl.json("topics", "apply")}
    assert outcome["push.messages"] == "exists"
    assert set(outcome.values()) == {"exists"}


# --- one device --------------------------------------------------------------------------------------------------------


def test_given_a_listening_device_then_a_message_reaches_it_under_the_printed_id(pushctl: Pushctl) -> None:
    client = fresh("online")
    device = pushctl.listening(client, "--count", "1", "--timeout", "30")
    sent = pushctl.json("send", "--product", "demo", "--client", client, "hello \x1b[31m")
    [message] = messages(device)
    assert (message["id"], message["topic"], message["qos"]) == (sent["id"], "push/demo", 1)
    assert message["payload"] == "hello \\x1b[31m", "a payload must not drive the terminal"


def test_given_an_offline_device_then_messages_wait_and_come_in_order(pushctl: Pushctl) -> None:
    client = fresh("offline")
    ids = [pushctl.json("send", "--product", "demo", "--client", client, f"n {i}")["id"] for i in range(3)]
    until(lambda: _pending(pushctl, client) == 3)
    device = pushctl.listening(client, "--count", "3", "--timeout", "30")
    assert [message["id"] for message in messages(device)] == ids
    until(lambda: _pending(pushctl, client) == 0)


def test_given_a_notice_then_a_listening_device_pulls_its_body_and_it_is_settled(pushctl: Pushctl) -> None:
    client = fresh("pull")
    device = pushctl.listening(client, "--count", "1", "--timeout", "30")
    sent = pushctl.json("send", "--product", "demo", "--client", client, "--mode", "pull", "--pull-after", "0.1", "the body")
    [message] = messages(device)
    assert (message["id"], message["payload"]) == (sent["id"], "the body")
    until(lambda: _pending(pushctl, client) == 0)


def test_given_a_kick_then_the_device_is_told_and_does_not_come_back(pushctl: Pushctl) -> None:
    client = fresh("kicked")
    device = pushctl.listening(client, "--timeout", "30")
    pushctl("client", "kick", client, "--reason", "lost phone")
    assert device.wait(timeout=DEADLINE) == 5
    _, errors = device.communicate()
    assert "lost phone" in errors


def _pending(pushctl: Pushctl, client: str) -> int:
    done = subprocess.run(
        [PUSHCTL, "client", "show", client, "--json"], env=pushctl.environment, capture_output=True, text=True, check=False
    )
    return int(json.loads(done.stdout)["pending"].get("demo", 0)) if done.returncode == 0 else 0


def test_given_a_printed_token_then_a_device_gets_in_with_it_and_its_user_is_reached(pushctl: Pushctl) -> None:
    client, user = fresh("phone"), fresh("user")
    token = pushctl("token", "--client", client, "--product", "demo", "--user", user, "--group", "news").stdout.strip()
    assert re.fullmatch(r"[\w-]+\.[\w-]+\.[\w-]+", token), "the bare token, nothing else"
    device = pushctl.listening(client, "--token", token, "--group", "news", "--count", "1", "--timeout", "30")
    shown = pushctl.json("client", "show", client)
    assert shown["binds"]["demo"]["groups"] == ["news"]
    assert shown["binds"]["demo"]["user"] == user
    sent = pushctl.json("send", "--product", "demo", "--user", user, "to all my devices")
    assert [message["id"] for message in messages(device)] == [sent["id"]]


def test_given_a_qos_0_device_then_it_gets_everything_at_qos_0(pushctl: Pushctl) -> None:
    client = fresh("zero")
    device = pushctl.listening(client, "--qos", "0", "--count", "1", "--timeout", "30")
    pushctl("send", "--product", "demo", "--client", client, "quick")
    assert [message["qos"] for message in messages(device)] == [0]


def test_given_too_few_messages_in_time_then_listen_ends_with_status_6(pushctl: Pushctl) -> None:
    client = fresh("idle")
    done = pushctl("listen", "--product", "demo", "--client", client, "--count", "1", "--timeout", "2", status=6)
    assert "0 of 1" in done.stderr


def test_given_ctrl_c_then_listen_ends_quietly_with_status_130(pushctl: Pushctl) -> None:
    device = pushctl.listening(fresh("interrupted"))
    device.send_signal(signal.SIGINT)
    out, err = device.communicate(timeout=DEADLINE)
    assert (device.returncode, out, err) == (130, "", "")


@pytest.mark.parametrize("more", [("--product", "nope"), ("--product", "demo", "--token", "no.jwt")], ids=" ".join)
def test_given_a_server_that_refuses_the_device_then_listen_says_so_with_status_5(
    pushctl: Pushctl, more: tuple[str, ...]
) -> None:
    pushctl("listen", "--client", fresh("refused"), *more, "--count", "1", "--timeout", "10", status=5)


# --- everyone ----------------------------------------------------------------------------------------------------------


def test_given_two_devices_then_a_watched_broadcast_reaches_both_and_is_counted(pushctl: Pushctl) -> None:
    clients = [fresh("many") for _ in range(2)]
    devices = [pushctl.listening(client, "--count", "1", "--timeout", "60") for client in clients]
    job = pushctl.json("broadcast", "--product", "demo", "--rate", "50", "--watch", "hello, everyone", timeout=60)
    assert job["state"] == "completed"
    for device in devices:
        [message] = messages(device)
        assert (message["id"], message["payload"]) == (job["id"], "hello, everyone")
    shown = until(lambda: (found := pushctl.json("job", "show", job["id"]))["totals"]["acked"] >= 2 and found)
    assert shown["totals"]["sent"] >= 2
    assert job["id"] in pushctl("job", "show", job["id"]).stdout


def test_given_a_broadcast_without_watch_then_the_accepted_job_is_printed_at_once(pushctl: Pushctl) -> None:
    job = pushctl.json("broadcast", "--product", "demo", "--rate", "7", "--ttl", "60", "later")
    assert (job["product"], job["state"], job["rate"]) == ("demo", "accepted", 7)


# --- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("send", "--product", "nope", "--client", "c", "x"), 4, "nope"),
        (("broadcast", "--product", "nope", "x"), 4, "nope"),
        (("send", "--product", "demo", "--client", "a b", "x"), 5, "a b"),
        (("send", "--product", "demo", "--client", "c", "x" * 20_000), 5, "20000"),
        (("client", "show", "nobody-at-all"), 4, "nobody-at-all"),
        (("job", "show", "no-such-job"), 4, "no-such-job"),
        (("send", "--product", "demo", "x"), 2, "--client"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, tuple) else "",
)
def test_given_what_cannot_be_then_its_status_and_a_sentence(
    pushctl: Pushctl, arguments: tuple[str, ...], status: int, said: str
) -> None:
    done = pushctl(*arguments, status=status)
    assert done.stdout == ""
    assert said in done.stderr


# --- play, and the end -------------------------------------------------------------------------------------------------


def test_given_a_running_system_then_the_curl_line_of_play_works_as_it_stands(pushctl: Pushctl) -> None:
    text = pushctl("play").stdout
    found = re.search(r"curl -s (\S+) -H 'Authorization: (Bearer \S+)' -H 'Content-Type: application/json' -d '(.+)'", text)
    assert found is not None, text
    url, key, body = found.groups()
    answer = httpx.post(url, headers={"Authorization": key}, json=json.loads(body), trust_env=False)
    assert answer.status_code == 202
    token = text.partition("--token ")[2].split()[0]
    claims = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
    assert claims["sub"] == json.loads(body)["client"], "the listening line is for the client that the others push to"
    logs = re.findall(r"^\s+log\s+(\S+)$", text, re.MULTILINE)
    assert {Path(log).stem for log in logs} >= {"saver", "delivery", "broadcast", "coordinator", "center", "r1", "r2", "kafka"}
    assert all(Path(log).is_file() for log in logs)


def test_given_a_second_system_in_another_folder_then_both_run_side_by_side_and_down_leaves_nothing(
    pushctl: Pushctl, tmp_path: Path
) -> None:
    other = Pushctl(tmp_path / "other")
    printed = other.json("up", "--detach", timeout=START)
    system = read(other.data)
    assert system is not None
    try:
        family = [psutil.Process(system.pid), *psutil.Process(system.pid).children(recursive=True)]
        assert len(family) >= 1 + 3 + 6, "the supervisor, three brokers, six processes"
        assert [room["port"] for room in other.json("room", "list")["rooms"]] == [room["port"] for room in printed["rooms"]]
        assert len(pushctl.json("room", "list")["rooms"]) == 2, "the first one is not touched"
        other("down", timeout=90)
    finally:
        end(system)
    assert [process for process in family if process.is_running() and process.status() != psutil.STATUS_ZOMBIE] == []
    assert not (other.data / "system.json").exists()
    other("down", status=3)
