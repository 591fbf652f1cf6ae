"""The programs in `bench/native`, built with the machine's C compiler, where there is one. Nothing of the product needs them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Final

SOURCES: Final = Path(__file__).with_name("native")
FOLDER: Final = Path("build/native")
FLAGS: Final = ("-O2", "-Wall", "-Wextra", "-std=gnu11")


class NotBuilt(Exception):
    """The compiler refused a source; the text is what it said."""


def compiled(name: str, folder: Path = FOLDER) -> Path | None:
    """The program of `bench/native/{name}.c`, built anew; None where there is no compiler. Raises NotBuilt."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    program = (folder / name).absolute()
    done = subprocess.run(
        [compiler, *FLAGS, "-o", str(program), str(SOURCES / f"{name}.c")], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise NotBuilt(f"{name}.c does not compile: {done.stderr.strip()[:2000]}")
    return program
