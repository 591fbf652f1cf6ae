"""PITFALLS, The edge: under every attack the others' p99 does not move, and memory stays bounded. Measured from outside: the
room, the attacker and the bystander are processes of their own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

import pytest
from edge_attacks import ATTACKS, PING, Ports, answered, opened
from edge_room import BYSTANDER
from live_room import connect

ROOT: Final = Path(__file__).parents[2]
QUIET_S: Final = 0.4
ATTACK_S: Final = 1.2
WATCHED_S: Final = 0.9
MOVED_S: Final = 0.05
"""What the p99 of a ping may be beyond that before the attack: the project's bound for it under load (docs/benchmarks.md)."""
ROUNDS: Final = 10
"""The machine has other things to do: one of so many rounds has to hold. Where the room itself is held up, none does."""
GROWS: Final = 48 * 1024 * 1024
"""Bytes by which the room may grow under one attack. What the scripted saver remembers of each session is part of it."""


def running(module: str, *arguments: str) -> subprocess.Popen[str]:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "sdk", ROOT / "tests" / "unit")))}
    command = [sys.executable, "-m", f"tests.unit.{module}", *arguments]
    return subprocess.Popen(command, cwd=ROOT, env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    found = process.stdout.readline()
    assert found, f"{process.args!r} ended"
    return found


class Room:
    """The room's process, and somebody who is connected to it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.ports: Ports = json.loads(line(process))
        self.bystander: socket.socket = opened(self.ports["mqtt"], connect("bystander"), source=BYSTANDER)
        assert answered(self.bystander, 30)[3] == 0

    def memory(self) -> int:
        """Bytes that it has now."""
        stdin: IO[str] | None = self._process.stdin
        assert stdin is not None
        stdin.write("\n")
        stdin.flush()
        return int(line(self._process))

    def p99(self, seconds: float) -> float:
        """Of the bystander's pings, s, for so long. Each is sent 2 ms after the last one's answer."""
        waits: list[float] = []
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            begun = time.monotonic()
            self.bystander.sendall(PING)
            assert answered(self.bystander, 2) == b"\xd0\x00"
            waits.append(time.monotonic() - begun)
            time.sleep(0.002)
        return sorted(waits)[int(len(waits) * 0.99)]

    def attacked(self, attack: str) -> tuple[float, dict[str, int]]:
        """The p99 meanwhile, and what the attacker has to tell."""
        attacker = running("edge_attacks", attack, str(ATTACK_S), json.dumps(self.ports))
        try:
            assert line(attacker) == "begun\n"
            time.sleep((ATTACK_S - WATCHED_S) / 2)
            during = self.p99(WATCHED_S)
            return during, json.loads(line(attacker))
        finally:
            attacker.kill()
            attacker.communicate()


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Room]:
    process = running("edge_room", str(tmp_path_factory.mktemp("room")))
    try:
        made = Room(process)
        yield made
        made.bystander.close()
    finally:
        process.communicate("")
    assert process.returncode == 0


@pytest.mark.parametrize("attack", ATTACKS)
def test_given_an_attack_then_the_others_p99_does_not_move_and_memory_stays_bounded(room: Room, attack: str) -> None:
    before, seen = room.memory(), []
    for _ in range(ROUNDS):
        quiet = room.p99(QUIET_S)
        during, report = room.attacked(attack)
        seen.append((quiet, during))
        assert report["times"] > 0
        assert report["met"] == report["times"], report
        if during < quiet + MOVED_S:
            break
    print(attack, *(f"{quiet * 1e3:.1f} -> {during * 1e3:.1f} ms" for quiet, during in seen), report, room.memory() - before)
    assert during < quiet + MOVED_S, seen
    assert room.memory() - before < GROWS
