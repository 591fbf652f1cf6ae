"""The demo's scenario with 100 devices, as a person runs it, in a process of its own with only HOME and PATH."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.xdist_group("demo"), pytest.mark.timeout(240)]


def test_given_100_devices_when_the_demo_runs_then_every_step_holds_and_the_ledger_adds_up(tmp_path: Path) -> None:
    environment = {"HOME": os.environ["HOME"], "PATH": os.environ["PATH"]}
    command = [sys.executable, "-m", "cli", "demo", "--devices", "100", "--data", str(tmp_path / "demo"), "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=220)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout)
    assert result["ok"]
    assert result["failures"] == []
    assert 9.0 <= result["broadcast_s"] <= 11.0
    assert result["offline_delivered"] == 200
    ledger = result["ledger"]
    # 10 × 20 offline messages, one online, one pending, one expired, one reply; two broadcasts (the second to 110 devices)
    assert ledger["accepted"] == 204 + 100 + 110
    assert (ledger["pending"], ledger["expired"], ledger["lost"]) == (1, 1, 0)
    assert ledger["acked"] == ledger["accepted"] - 2
    assert ledger["duplicates"] <= ledger["duplicate_bound"]
