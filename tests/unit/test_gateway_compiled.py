"""A room is run from a build only where that was made of the very sources that are here (docs/adr/0027)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gateway import compiled
from gateway.compiled import MODULES, NotCompiled, Overlay, build, digest

SHOW = "; import gateway.client; print(gateway.client.__file__)"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The sources, in a folder of their own."""
    for package in ("gateway", "infra", "schemas"):
        shutil.copytree(
            compiled.ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("*.so", "built", "__pycache__")
        )
    return tmp_path


def run(root: Path, wanted: str, then: str = SHOW) -> subprocess.CompletedProcess[str]:
    """A process that imports from these sources as a room of the setting `wanted` does."""
    code = f"from gateway import compiled; compiled.choose({wanted!r}){then}"
    env = {**os.environ, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run([sys.executable, "-c", code], cwd=root, env=env, capture_output=True, text=True, check=False)


def built(root: Path) -> Path:
    """What stands for a build of these sources: files that no room can be run from, so that it is seen when one is."""
    folder = root / "gateway/compiled/built" / digest(root)
    for name in MODULES:
        file = folder / (name.replace(".", "/") + compiled.SUFFIX)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"not a library")
    return folder


def test_given_a_build_of_these_sources_then_it_is_what_is_run(copy: Path) -> None:
    folder = built(copy)
    for wanted in ("auto", "on"):
        done = run(copy, wanted)
        assert done.returncode, done.stdout
        assert f"{folder}/gateway/client{compiled.SUFFIX}" in done.stderr
    assert run(copy, "off").stdout.strip() == f"{copy}/gateway/client.py"


@pytest.mark.parametrize("name", ["gateway/sessions/window.py", "gateway/ports.py", "infra/wire/__init__.py", "schemas/codes.py"])
def test_given_a_changed_source_then_an_older_build_is_never_run(copy: Path, name: str) -> None:
    built(copy)
    with (copy / name).open("a") as source:
        source.write("# changed\n")
    assert run(copy, "auto").stdout.strip() == f"{copy}/gateway/client.py"
    refused = run(copy, "on")
    assert "NotCompiled: room.compiled is on: what was built is of other sources" in refused.stderr


def test_given_another_python_then_its_build_is_another(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = digest(copy)
    monkeypatch.setattr(compiled, "SUFFIX", ".cpython-399-pdp11.so")
    assert digest(copy) != before


def test_given_another_release_of_a_library_then_its_build_is_another(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = digest(copy)
    monkeypatch.setattr(compiled, "version", lambda name: "0.0.1")
    assert digest(copy) != before


def test_given_no_build_then_a_room_is_interpreted_and_on_is_refused(copy: Path) -> None:
    assert run(copy, "auto").stdout.strip() == f"{copy}/gateway/client.py"
    assert "NotCompiled: room.compiled is on: it was not built (make compiled)" in run(copy, "on").stderr


def test_given_a_part_of_the_room_is_imported_then_the_rest_is_not_compiled(copy: Path) -> None:
    built(copy)
    done = run(copy, "off", "; import gateway.client; compiled.use()")
    assert "RuntimeError: gateway.client was imported before its compiled form could be" in done.stderr


def test_every_module_of_the_list_is_one() -> None:
    assert len(set(MODULES)) == len(MODULES)
    assert [name for name in MODULES if not (compiled.ROOT / f"{name.replace('.', '/')}.py").is_file()] == []


def test_given_another_module_then_an_overlay_leaves_it_alone(tmp_path: Path) -> None:
    overlay = Overlay(tmp_path)
    assert overlay.find_spec("gateway.ports", None) is None
    found = overlay.find_spec("gateway.client", None)
    assert found is not None
    assert found.origin == f"{tmp_path}/gateway/client{compiled.SUFFIX}"


def test_given_no_compiler_then_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NotCompiled, match="no C compiler"):
        build.build(tmp_path)


def test_given_a_build_of_these_sources_then_nothing_is_compiled_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / digest()).mkdir()
    monkeypatch.setattr(build, "_compile", lambda out: pytest.fail("compiled again"))
    assert build.build(tmp_path) == tmp_path / digest()


def test_given_no_headers_then_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build.shutil, "which", lambda name: "/usr/bin/cc")
    monkeypatch.setattr(build.sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(NotCompiled, match="Python's headers are not here"):
        build.build(tmp_path)
