"""Compile the room: mypyc makes C of its modules, the machine's compiler a library of that. It takes two minutes."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Final

from gateway.compiled import FOLDER, GROUP, MODULES, ROOT, NotCompiled, digest

TYPES: Final = ("--config-file=", "--ignore-missing-imports", "--follow-imports=silent")
"""How mypy reads the sources: whether they are right is `make check`'s affair."""


def lacks() -> str:
    """What is needed and not here; an empty text if all is."""
    if not (shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")):
        return "no C compiler (cc) is on PATH; Debian, Ubuntu: apt install gcc"
    header = Path(sysconfig.get_path("include"), "Python.h")
    if not header.exists():
        version = ".".join(map(str, sys.version_info[:2]))
        return f"Python's headers are not here ({header}); Debian, Ubuntu: apt install python{version}-dev"
    missing = [name for name in ("mypyc", "setuptools") if importlib.util.find_spec(name) is None]
    return f"{missing[0]} is not installed: pip install -e '.[compiled]'" if missing else ""


def build(folder: Path = FOLDER) -> Path:
    """Compile what is here into a folder of its own, unless that was done, and let go of older builds. Raises NotCompiled."""
    made = folder / digest()
    if made.is_dir():
        return made
    if reason := lacks():
        raise NotCompiled(reason)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch, contextlib.chdir(scratch):
        _compile(Path("out"))
        if made.name != digest():
            raise NotCompiled("a source was changed meanwhile")
        for old in folder.iterdir():
            if old != Path(scratch):
                shutil.rmtree(old)  # a room that runs has its own open
        Path("out").rename(made)
    return made


def _compile(out: Path) -> None:
    """Into `out`; what it needs beside lies in the working directory."""
    from mypyc.build import mypycify
    from setuptools import setup

    os.environ["MYPYPATH"] = str(ROOT)
    sources = [str(ROOT / f"{name.replace('.', '/')}.py") for name in MODULES]
    try:
        extensions = mypycify([*TYPES, *sources], opt_level="2", debug_level="0", target_dir="c", group_name=GROUP)
        setup(
            name=GROUP,
            packages=[],
            ext_modules=extensions,
            script_args=["--quiet", "build_ext", f"--build-lib={out}", "--build-temp=objects"],
        )
    except SystemExit as ended:
        raise NotCompiled(f"mypyc or the compiler refused it, see above ({ended})") from None


def main() -> int:
    """`python -m gateway.compiled`."""
    try:
        made = build()
    except NotCompiled as reason:
        sys.stderr.write(f"the room was not compiled, and runs interpreted: {reason}\n")
        return 1
    sys.stdout.write(f"{len(MODULES)} modules, compiled, in {made.relative_to(ROOT)}\n")
    return 0
