"""The supervisor, with real processes: a small `cli` module stands in for Longwire's, so that each can be told how to behave."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from infra import agent as agents
from infra.agent import Agent, ProcessFailed, ProcessSpec

DEADLINE = 20.0

STAND_IN = '''
"""`python -m cli run ROLE`: ready at once, unless FOLDER/ROLE says otherwise, with one word for each start."""
import json, os, signal, sys, time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

role, folder = sys.argv[2], Path(os.environ["FOLDER"])
script = folder / role
words = script.read_text().split() if script.exists() else []
word = words[0] if words else "good"
if len(words) > 1:
    script.write_text(" ".join(words[1:]))
print(f"{role} is {word}", flush=True)
if word == "dies":
    sys.exit(3)


class Page(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(503 if word == "unready" else 200)
        self.end_headers()

    def log_message(self, *args):
        pass


def asked(*_):
    with (folder / "ends").open("a") as ends:
        ends.write(f"{role} ")
    if word != "stubborn":
        os._exit(0)


signal.signal(signal.SIGTERM, asked)
server = HTTPServer(("127.0.0.1", 0), Page)
report = Path(os.environ["LONGWIRE_TELEMETRY__REPORT"])
report.parent.mkdir(parents=True, exist_ok=True)
fresh = report.with_suffix(".new")
fresh.write_text(
    json.dumps({"pid": os.getpid(), "internal": f"http://127.0.0.1:{server.server_port}", "environ": dict(os.environ)})
)
fresh.replace(report)
server.serve_forever()
'''


class World:
    """An agent in its own folder, with what it said."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.said: list[str] = []
        self.agent = Agent(folder / "data", progress=self.said.append)

    def spec(self, name: str, *words: str) -> ProcessSpec:
        """A process that behaves by `words`, one a start, the last one for ever."""
        if words:
            (self.folder / name).write_text(" ".join(words))
        return ProcessSpec(name=name, role=name, env={"PYTHONPATH": str(self.folder), "FOLDER": str(self.folder)})

    def pid(self, name: str) -> int | None:
        return self.agent.processes[name].child.pid


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    (tmp_path / "cli.py").write_text(STAND_IN)
    monkeypatch.chdir(tmp_path)  # `-m` looks in the working directory first: ours has the real cli
    monkeypatch.setattr(agents, "BACKOFF", (0.01, 0.05))
    made = World(tmp_path)
    yield made
    await made.agent.stop()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(DEADLINE):
        while not condition():  # noqa: ASYNC110 - another process makes it true
            await asyncio.sleep(0.01)


# --- starting ----------------------------------------------------------------------------------------------------------


async def test_given_a_process_that_gets_ready_then_start_returns_with_its_report(world: World) -> None:
    item = await world.agent.start(world.spec("saver"))
    assert item.report["pid"] == item.child.pid
    assert [line.partition(" in ")[0] for line in world.said] == ["saver: ready"]
    assert (world.folder / "data" / "logs" / "saver.log").read_text() == "saver is good\n"


async def test_given_secrets_in_our_environment_then_a_process_gets_only_what_it_is_told(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOMEBODYS_SECRET", "hush")
    item = await world.agent.start(world.spec("saver"))
    environ = item.report["environ"]
    assert "SOMEBODYS_SECRET" not in environ
    assert environ["LONGWIRE_DATA"] == str(world.folder / "data")
    assert {name for name in ("HOME", "PATH") if name in os.environ} <= environ.keys()


async def test_given_a_report_of_an_earlier_run_then_it_is_not_mistaken_for_the_new_one(world: World) -> None:
    old = world.folder / "data" / "run" / "saver.json"
    old.parent.mkdir(parents=True)
    old.write_text(json.dumps({"pid": 1, "internal": "http://127.0.0.1:1"}))
    item = await world.agent.start(world.spec("saver"))
    assert item.report["pid"] == item.child.pid


async def test_given_a_process_that_dies_while_starting_then_the_error_has_its_name_its_end_and_its_log(world: World) -> None:
    with pytest.raises(ProcessFailed, match=r"saver exited with code 3 while it started") as failure:
        await world.agent.start(world.spec("saver", "dies"))
    assert "saver is dies" in str(failure.value)
    assert str(world.folder / "data" / "logs" / "saver.log") in str(failure.value)


async def test_given_a_process_that_never_gets_ready_then_start_gives_up_and_stop_leaves_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agents, "READY", 1.0)
    with pytest.raises(ProcessFailed, match="saver was not ready within 1 s"):
        await world.agent.start(world.spec("saver", "unready"))
    pid = world.pid("saver")
    await world.agent.stop()
    assert pid is None or not psutil.pid_exists(pid)


# --- keeping -----------------------------------------------------------------------------------------------------------


async def test_given_a_process_that_is_killed_from_outside_then_it_is_started_again(world: World) -> None:
    item = await world.agent.start(world.spec("saver"))
    first = world.pid("saver")
    assert first is not None
    os.kill(first, signal.SIGKILL)
    await until(lambda: world.pid("saver") not in (None, first))
    assert item.restarts == 1
    assert "saver: was killed by SIGKILL; started again" in world.said


async def test_given_a_process_that_was_started_again_then_its_report_is_the_new_one(world: World) -> None:
    item = await world.agent.start(world.spec("saver"))
    first = world.pid("saver")
    assert first is not None
    os.kill(first, signal.SIGKILL)
    await until(lambda: item.report_file.exists() and json.loads(item.report_file.read_text())["pid"] != first)
    async with asyncio.timeout(2):
        while item.report["pid"] == first:  # noqa: ASYNC110 - the agent makes it true
            await asyncio.sleep(0.01)


async def test_given_a_process_that_keeps_dying_then_it_is_tried_on_and_that_is_said_once(world: World) -> None:
    item = await world.agent.start(world.spec("saver", "good", *["dies"] * (agents.FAILING + 2), "good"))
    first = world.pid("saver")
    assert first is not None
    os.kill(first, signal.SIGKILL)
    await until(lambda: item.restarts == agents.FAILING + 3 and item.ready)
    assert world.pid("saver") is not None
    assert world.said[-1].startswith(f"saver: exited with code 3, {agents.FAILING} times in a row; it is tried again every")
    assert sum("in a row" in line for line in world.said) == 1


async def test_given_kill_then_the_process_is_dead_and_stays_down_and_the_others_live(world: World) -> None:
    await world.agent.start(world.spec("r1"))
    await world.agent.start(world.spec("r2"))
    first, other = world.pid("r1"), world.pid("r2")
    assert await world.agent.kill("r1") == first
    watch = world.agent.processes["r1"].watch
    assert watch is not None
    async with asyncio.timeout(DEADLINE):
        await watch  # ends because it was told to leave it down
    assert world.pid("r1") is None
    assert world.pid("r2") == other


# --- stopping ----------------------------------------------------------------------------------------------------------


async def test_given_three_processes_when_stopped_then_the_last_started_ends_first(world: World) -> None:
    pids = []
    for name in ("saver", "center", "r1"):
        await world.agent.start(world.spec(name))
        pids.append(world.pid(name))
    await world.agent.stop()
    assert (world.folder / "ends").read_text().split() == ["r1", "center", "saver"]
    assert not any(pid is None or psutil.pid_exists(pid) for pid in pids)
    assert not list((world.folder / "data" / "run").glob("*.json"))


async def test_given_a_process_that_ignores_term_then_it_is_killed_after_its_grace(world: World) -> None:
    item = await world.agent.start(replace(world.spec("saver", "stubborn"), stop_within=0.3))
    await world.agent.stop()
    assert (await item.child.exited()).code == -signal.SIGKILL
    assert (world.folder / "ends").read_text().split() == ["saver"], "it was asked first"


async def test_given_a_stopped_agent_then_stop_again_is_harmless(world: World) -> None:
    await world.agent.start(world.spec("saver"))
    await world.agent.stop()
    await world.agent.stop()
    assert world.agent.processes == {}
