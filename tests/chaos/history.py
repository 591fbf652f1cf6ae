"""What everybody saw, in the order in which it was noted: one JSON document a line."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

Event = dict[str, Any]


class History:
    """The events of one row, in memory and in a file. `note(kind, …)`; the kinds are those of `checker.Checker`."""

    def __init__(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self._file = file.open("w", encoding="utf-8")
        self.events: list[Event] = []

    def note(self, kind: str, /, **fields: Any) -> None:
        """Remember one event with the time on this machine's monotonic clock, s."""
        event = {"e": kind, "t": round(time.monotonic(), 4), **fields}
        self.events.append(event)
        self._file.write(json.dumps(event) + "\n")

    def close(self) -> None:
        """Write the rest."""
        self._file.close()


def read(file: Path) -> list[Event]:
    """The events of a file."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
