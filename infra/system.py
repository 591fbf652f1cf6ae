"""A running system as other commands find it: `system.json` in its data folder, readable by its owner only."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import msgspec

from infra.settings import Settings
from infra.telemetry import write_json

FILE: Final = "system.json"


class NoSystem(Exception):
    """No running system was found; the text says what to do."""


class RoomAddress(msgspec.Struct, frozen=True):
    """Where one room listens for devices."""

    id: str
    host: str
    port: int


class System(msgspec.Struct, frozen=True, kw_only=True):
    """What `pushctl up` started. `pid` is the supervisor's; `logs` is the folder of all logs."""

    center: str
    api_key: str
    rooms: list[RoomAddress]
    nats: str
    kafka: str
    redis: str
    pid: int
    data: str
    logs: str

    def save(self) -> None:
        """Write `system.json`."""
        write_json(Path(self.data) / FILE, msgspec.to_builtins(self))

    def shown(self) -> dict[str, object]:
        """What `pushctl up --json` prints."""
        return {
            "center": self.center,
            "api_key": self.api_key,
            "rooms": msgspec.to_builtins(self.rooms),
            "nats": self.nats,
            "kafka": self.kafka,
            "redis": self.redis,
        }


def read(data: Path) -> System | None:
    """The system whose supervisor runs in this data folder, else None."""
    try:
        system = msgspec.json.decode((data / FILE).read_bytes(), type=System)
    except (OSError, msgspec.MsgspecError):
        return None
    return system if _alive(system.pid) else None


def find(settings: Settings) -> System:
    """The running system of the settings' data folder; raises NoSystem."""
    system = read(settings.data)
    if system is None:
        raise NoSystem(f"no system runs in {settings.data}; start one with: pushctl up --detach --data {settings.data}")
    return system


def forget(data: Path) -> None:
    """Remove `system.json`."""
    (data / FILE).unlink(missing_ok=True)


def _alive(pid: int) -> bool:
    """Is there a process with this pid, and does it look like ours where the system can tell (a pid may be used again)?"""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    command = Path(f"/proc/{pid}/cmdline")
    return not command.exists() or any(word in command.read_bytes() for word in (b"cli", b"pushctl", b"python"))
