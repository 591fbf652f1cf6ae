"""The optional C sender: built where a compiler is (`python -m gateway.broadcast.native`, by `make install`), never needed."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).parent
SOURCE: Final = FOLDER / "sender.c"
LIBRARY: Final = FOLDER / f"_sender.{sysconfig.get_platform()}.so"
BUILD_S: Final = 60.0


def build() -> str:
    """Compile the library; returns why it could not be done, or an empty text."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return "no C compiler (cc) is on PATH"
    made = LIBRARY.with_suffix(".new")
    command = [compiler, "-O2", "-fPIC", "-shared", "-o", str(made), str(SOURCE)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_S, check=False)
        if done.returncode:
            return done.stderr.strip()[:500] or f"{compiler} ended with {done.returncode}"
        made.replace(LIBRARY)  # at once: a room that runs keeps the one that it has
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return ""


def load() -> ctypes.CDLL | None:
    """The library, if it was built."""
    if not LIBRARY.exists():
        return None
    try:
        library = ctypes.CDLL(str(LIBRARY))
    except OSError:
        return None
    library.lw_open.argtypes, library.lw_open.restype = [ctypes.c_uint], ctypes.c_void_p
    library.lw_close.argtypes, library.lw_close.restype = [ctypes.c_void_p], None
    pointer = ctypes.c_void_p
    library.lw_send.argtypes = [pointer, pointer, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint, pointer]
    library.lw_send.restype = ctypes.c_int
    return library


def main() -> int:
    """`python -m gateway.broadcast.native`."""
    reason = build()
    sys.stdout.write(f"the C sender was not built, Python's is used: {reason}\n" if reason else f"{LIBRARY.name} built\n")
    return 0
