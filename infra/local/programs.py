"""Finding the executables: first those that came as Python packages, then those on PATH."""

import asyncio
import shutil
import sys
from pathlib import Path

VERSION_DEADLINE = 10.0  # seconds; a first start from a cold disk takes a while


def beside_python(name: str) -> list[Path]:
    """Where a wheel's script of this name is, if it is: next to the interpreter of this environment."""
    return _executable(Path(sys.executable).with_name(name))


def on_path(*names: str) -> list[Path]:
    """Those of the names that are on PATH, in that order."""
    return [Path(found) for name in names if (found := shutil.which(name)) is not None]


def inside(folder: Path | None, pattern: str) -> list[Path]:
    """Executables below a folder (None: nothing) that match a glob pattern."""
    return [] if folder is None else [file for found in sorted(folder.glob(pattern)) for file in _executable(found)]


async def version_text(program: Path, argument: str) -> str:
    """What `program argument` prints (both streams); empty if it cannot run here, fails, or takes too long."""
    try:
        process = await asyncio.create_subprocess_exec(
            program,
            argument,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
    except OSError:
        return ""
    try:
        async with asyncio.timeout(VERSION_DEADLINE):
            output, _ = await process.communicate()
    except TimeoutError:
        return ""
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return output.decode(errors="replace") if process.returncode == 0 else ""


def _executable(file: Path) -> list[Path]:
    return [file] if shutil.which(file) is not None else []
