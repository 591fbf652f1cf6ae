"""`pushctl run gateway --rooms N`: N rooms of one machine, a process each, supervised together.

Every room has an id and ports of its own, counted up from those of the settings; shared ports stay as they are. A room that ends
by itself is started again on its ports, after pauses that grow (`infra.agent`). SIGTERM drains all at once; SIGHUP goes to each.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Callable
from typing import Any, Final

from infra.agent import Agent, ProcessSpec, Supervised
from infra.lifecycle import EXIT_FAILED
from infra.settings import STOP_BESIDE_DRAIN, ListenerSettings, PortSettings, RoomSettings, Settings
from infra.telemetry import configure_logging

HIGHEST_PORT: Final = 65_535
KILL_AFTER: Final = 3.0
"""Seconds beyond the longest orderly end of a room before it is killed."""


class TooManyRooms(ValueError):
    """The ports of the settings don't reach for so many rooms; the text says which."""


def room_stops_within(room: RoomSettings) -> float:
    """Seconds after SIGTERM in which a room has ended."""
    return room.drain + STOP_BESIDE_DRAIN + KILL_AFTER


def variables(settings: Settings, number: int, base: str) -> dict[str, str]:
    """What room `number` (from 0) is told beside the settings; `base`: its id without the number."""
    room = settings.room
    told = {"LONGWIRE_ROOM__ID": f"{base}-{number + 1}", **_of_port(room, number)}
    if room.listeners:
        told["LONGWIRE_ROOM__LISTENERS"] = json.dumps([_listener(item, number) for item in room.listeners])
    if settings.telemetry.port:
        told["LONGWIRE_TELEMETRY__PORT"] = str(settings.telemetry.port + number)
    return told


def check(settings: Settings, rooms: int) -> None:
    """Raises TooManyRooms where two rooms would have the same port, or one beyond the last."""
    room = settings.room
    first = {"room.port": room.port, "telemetry.port": settings.telemetry.port}
    first |= {f"room.listeners.{place}.port": item.port for place, item in enumerate(room.listeners) if not item.shared}
    fixed = sorted((port, name) for name, port in first.items() if port)
    fixed += [(item.port, f"room.listeners.{place}.port") for place, item in enumerate(room.listeners) if item.shared]
    own = len(fixed) - sum(item.shared for item in room.listeners)
    for place, (port, name) in enumerate(fixed[:own]):
        if port + rooms - 1 > HIGHEST_PORT:
            raise TooManyRooms(f"{name} {port} and {rooms - 1} more: the last port is {HIGHEST_PORT}")
        for other, of in fixed[place + 1 :]:
            if port < other < port + rooms:
                raise TooManyRooms(f"{name} {port} and {of} {other} are too close for {rooms} rooms: each has its own ports")


def _of_port(port: PortSettings, number: int) -> dict[str, str]:
    told = {}
    if port.port:
        told["LONGWIRE_ROOM__PORT"] = str(port.port + number)
    if port.advertise:
        told["LONGWIRE_ROOM__ADVERTISE"] = _counted(port.advertise, number)
    return told


def _listener(item: ListenerSettings, number: int) -> dict[str, Any]:
    told = item.model_dump(mode="json")
    if not item.shared:
        told["port"] = item.port and item.port + number
        told["advertise"] = _counted(item.advertise, number)
    return told


def _counted(advertise: str, number: int) -> str:
    host, colon, port = advertise.rpartition(":")
    return f"{host}{colon}{int(port) + number}" if host and port.isdigit() else advertise


class Rooms:
    """All rooms of this process. `progress` gets a line for each that is ready, has ended, was started again."""

    def __init__(self, settings: Settings, rooms: int, progress: Callable[[str], None]) -> None:
        """Raises TooManyRooms."""
        check(settings, rooms)
        self._settings = settings
        self._rooms = rooms
        self._base = settings.room.id or f"r-{os.urandom(4).hex()}"
        self.agent = Agent(settings.data.absolute(), progress=progress)

    async def start(self) -> None:
        """Return when all are ready; raises ProcessFailed."""
        passed = {name: value for name, value in os.environ.items() if name.startswith("LONGWIRE_")}
        starts = [self._start({**passed, **variables(self._settings, number, self._base)}) for number in range(self._rooms)]
        for failed in await asyncio.gather(*starts, return_exceptions=True):
            if failed is not None:
                raise failed

    async def _start(self, env: dict[str, str]) -> None:
        name = env["LONGWIRE_ROOM__ID"]
        spec = ProcessSpec(name=name, role="gateway", env=env, stop_within=room_stops_within(self._settings.room))
        _keep_ports(await self.agent.start(spec))

    def read_files(self) -> None:
        """Have the rooms read their certificates again; one that has none would end by SIGHUP."""
        if self._settings.room.tls.certificates:
            self.agent.hang_up()

    async def stop(self) -> None:
        """Drain all, side by side."""
        await self.agent.stop(at_once=True)


def _keep_ports(room: Supervised) -> None:
    """The ports that the kernel picked are the room's also after a restart: a client returns to its room."""
    own, *others = room.report["ports"]
    room.keep("LONGWIRE_ROOM__PORT", str(own))
    if others:
        listeners = json.loads(room.spec.env["LONGWIRE_ROOM__LISTENERS"])
        kept = [{**item, "port": port} for item, port in zip(listeners, others, strict=True)]
        room.keep("LONGWIRE_ROOM__LISTENERS", json.dumps(kept))


async def run_rooms(settings: Settings, rooms: int, progress: Callable[[str], None]) -> int:
    """Run them until SIGTERM or SIGINT; returns the exit status. Raises TooManyRooms, ProcessFailed."""
    configure_logging(settings.telemetry, process="rooms")
    running = Rooms(settings, rooms, progress)
    loop, ended = asyncio.get_running_loop(), asyncio.Event()

    def caught() -> None:
        if ended.is_set():
            os._exit(EXIT_FAILED)  # asked twice: the rooms end with us
        ended.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, caught)
    loop.add_signal_handler(signal.SIGHUP, running.read_files)
    start = asyncio.create_task(running.start())
    end = asyncio.create_task(ended.wait())
    try:
        await asyncio.wait({start, end}, return_when=asyncio.FIRST_COMPLETED)
        if start.done():
            start.result()
            progress(f"{rooms} rooms are ready")
            await end
    finally:
        for task in (start, end):
            task.cancel()
        await asyncio.gather(start, end, return_exceptions=True)
        await running.stop()
    return 0
