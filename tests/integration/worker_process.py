"""A worker as it really runs: a process of its own, told by its environment, known by its report file, ended by SIGTERM."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from infra.settings import Settings

ROOT = Path(__file__).parents[2]
DEADLINE = 30.0

T = TypeVar("T")

_RUN = """
import sys
from importlib import import_module
from infra import lifecycle, settings
module, function = sys.argv[1].split(":")
main = getattr(import_module(module), function)
sys.exit(lifecycle.run(lambda: main(settings.load())))
"""


def environment(settings: Settings, folder: Path, **more: str) -> dict[str, str]:
    """What a supervisor hands to a process."""
    return {
        **{name: value for name, value in os.environ.items() if name in ("HOME", "PATH")},
        "PYTHONPATH": str(ROOT),
        "LONGWIRE_DATA": str(folder),
        "LONGWIRE_NATS__URL": settings.nats.url,
        "LONGWIRE_KAFKA__BOOTSTRAP": settings.kafka.bootstrap,
        "LONGWIRE_REDIS__URL": settings.redis.url,
        "LONGWIRE_TELEMETRY__REPORT": str(folder / "report.json"),
        **more,
    }


async def start(main: str, folder: Path, env: dict[str, str]) -> asyncio.subprocess.Process:
    """Start `main` (as `module:function`); its log goes to `folder/log`."""
    folder.mkdir(exist_ok=True)  # noqa: ASYNC240 - once a process
    with (folder / "log").open("wb") as log:
        return await asyncio.create_subprocess_exec(sys.executable, "-c", _RUN, main, cwd=ROOT, env=env, stdout=log, stderr=log)


@asynccontextmanager
async def running(main: str, settings: Settings, folder: Path, **more: str) -> AsyncIterator[dict[str, Any]]:
    """Run a worker until the block ends, and give its report. Fails if it does not end by SIGTERM with status 0."""
    process = await start(main, folder, environment(settings, folder, **more))
    try:
        yield await _report(process, folder)
        process.terminate()
        async with asyncio.timeout(DEADLINE):
            status = await process.wait()
        assert status == 0, (folder / "log").read_text()[-4000:]
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _report(process: asyncio.subprocess.Process, folder: Path) -> dict[str, Any]:
    def there() -> bool:
        assert process.returncode is None, (folder / "log").read_text()[-4000:]
        return (folder / "report.json").exists()

    await until(there)
    report: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return report


async def until(found: Callable[[], T | Awaitable[T]], *, deadline: float = DEADLINE) -> T:
    """The first truthy value that `found()` gives; fails with TimeoutError after `deadline` seconds."""
    async with asyncio.timeout(deadline):
        while True:
            value = found()
            result = await value if isinstance(value, Awaitable) else value
            if result:
                return result
            await asyncio.sleep(0.05)
