"""Who imports whom, and what the wheels hold."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest

from infra import VERSION

ROOT = Path(__file__).parents[2]


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    """Run a command with only HOME and PATH set; fails with what it said."""
    environment = {"HOME": os.environ["HOME"], "PATH": os.environ["PATH"]}
    done = subprocess.run([str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_processes_say_the_version_of_the_wheel() -> None:
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == VERSION


def test_import_contracts_hold() -> None:
    assert "0 broken" in run(Path(sys.executable).parent / "lint-imports", "--no-cache")


@pytest.mark.timeout(300)
def test_given_the_wheels_when_installed_clean_then_pushctl_runs_and_nothing_else_is_shipped(tmp_path: Path) -> None:
    run(sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path / "dist", ".")
    run(sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path / "dist", "sdk")
    venv.create(tmp_path / "clean", with_pip=True)
    pip = [tmp_path / "clean/bin/python", "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt"]
    run(*pip, *sorted((tmp_path / "dist").glob("*.whl")))
    shown = run(tmp_path / "clean/bin/pushctl", "--help", cwd=tmp_path)
    assert "broadcast" in shown
    found = run(
        tmp_path / "clean/bin/python",
        "-c",
        "import importlib.metadata as m; print(*{str(f).split('/')[0] for f in m.files('longwire')})",
        cwd=tmp_path,
    ).split()
    shipped = {name for name in found if not name.endswith(".dist-info") and name not in ("..", "__pycache__")}
    assert shipped == {"cli.py", "gateway", "infra", "schemas", "workers"}
