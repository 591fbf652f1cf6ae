"""Small libraries in C: built where there is a compiler, by `make install`, never needed (docs/adr/0014, docs/adr/0030)."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Final

BUILD_S: Final = 60.0


class Library:
    """One C file, and what is made of it: beside it, named by the platform."""

    def __init__(self, source: Path) -> None:
        self.source = source
        self.path = source.with_name(f"_{source.stem}.{sysconfig.get_platform()}.so")

    def build(self) -> str:
        """Compile it; returns why it could not be done, or an empty text."""
        compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
        if compiler is None:
            return "no C compiler (cc) is on PATH"
        made = self.path.with_suffix(f".{os.getpid()}.new")  # somebody else may build it, too
        command = [compiler, "-O2", "-fPIC", "-shared", "-o", str(made), str(self.source)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_S, check=False)
            if done.returncode:
                return done.stderr.strip()[:500] or f"{compiler} ended with {done.returncode}"
            made.replace(self.path)  # at once: a room that runs keeps the one that it has
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
        finally:
            made.unlink(missing_ok=True)
        return ""

    def load(self) -> ctypes.CDLL | None:
        """The library, if it was built."""
        try:
            return ctypes.CDLL(str(self.path)) if self.path.exists() else None
        except OSError:
            return None

    def main(self) -> int:
        """Build it from the command line; to have none is no failure."""
        reason = self.build()
        what = f"{self.source.name} was not built, Python does it: {reason}" if reason else f"{self.path.name} built"
        sys.stdout.write(f"{what}\n")
        return 0
