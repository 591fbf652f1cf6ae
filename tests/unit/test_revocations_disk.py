"""What was heard of a revocation is on disk when its process has stopped, whatever was being written meanwhile."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest

from infra import kept
from infra.revocations import Revocations
from infra.revoked import Revocation


class NoMirror:
    """A bucket that can't be read."""

    def __init__(self) -> None:
        self.entries: dict[str, bytes] = {}

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        pass


async def test_given_a_save_under_way_when_stopped_then_it_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "SAVE_EVERY", 0.01)
    begun: list[float] = []
    write = kept.write_json

    def slowly(path: Path, document: object) -> None:
        begun.append(time.monotonic())
        time.sleep(0.3)
        write(path, document)

    monkeypatch.setattr(kept, "write_json", slowly)
    now = time.time()
    made = Revocation(kind="client", scope="main", subject="c1", before=now, until=now + 600, by="ann", reason="lost")
    value = json.dumps({name: getattr(made, name) for name in made.__struct_fields__}).encode()
    bus: Any = type("Bus", (), {"on_reconnect": []})()
    here = Revocations(bus, disk=tmp_path)
    here._kept._mirror = NoMirror()  # type: ignore[assignment]
    await here.start()
    here._kept._mirror.entries[made.id] = value
    here._kept._take(made.id, value)
    async with asyncio.timeout(5):
        while not begun:  # noqa: ASYNC110 - in a thread
            await asyncio.sleep(0.005)
    await here.stop()
    assert list(json.loads((tmp_path / "revocations.json").read_text())) == [made.id]
