"""Quiet hours: who is in them by its own clock waits, by zone, until they are over there.

A zone is looked at once a minute, not a client; a job without quiet hours has none of this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Final
from zoneinfo import ZoneInfo

from gateway.client import BindState
from infra.wire import QuietHours

MAX_UNKNOWN: Final = 4_096
"""Names that are no zones, remembered so that the disk is not asked again; then all are forgotten. The zones that exist are
some hundreds."""
TZ: Final = "tz"
"""The attribute that names a client's zone (IANA)."""


class BadZone(ValueError):
    """A job's own zone, for clients that have none, does not exist here."""


class Zones:
    """Time zones by name, each read from disk once."""

    def __init__(self) -> None:
        self._known: dict[str, ZoneInfo] = {}
        self._unknown: set[str] = set()

    def get(self, name: str) -> ZoneInfo | None:
        """The zone, or None where there is none of that name."""
        zone = self._known.get(name)
        if zone is None and name and name not in self._unknown:
            zone = self._read(name)
        return zone

    def _read(self, name: str) -> ZoneInfo | None:
        try:
            zone = ZoneInfo(name)
        except (KeyError, ValueError, OSError):  # none of that name, no name at all, or a folder of the database
            if len(self._unknown) >= MAX_UNKNOWN:
                self._unknown.clear()
            self._unknown.add(name)
            return None
        self._known[name] = zone
        return zone


class Quiet:
    """One job's quiet hours, and who waits for their end. `wall`: s since the epoch."""

    def __init__(self, hours: QuietHours, zones: Zones, wall: Callable[[], float]) -> None:
        """Raises BadZone."""
        self._hours = hours
        self._zones = zones
        self._wall = wall
        default = zones.get(hours.zone)
        if default is None:
            raise BadZone(f"quiet hours in zone {hours.zone[:64]!a}, which does not exist here")
        self._default = default
        self._minute = -1
        self._now: dict[ZoneInfo, bool] = {}
        self._waiting: dict[ZoneInfo, dict[BindState, None]] = {}
        self._released = -1

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def holds(self, bind: BindState) -> bool:
        """Is it quiet for this bind? Then it waits until `over` names it, or `forget`; else it does not wait (any more)."""
        zone = self._zone(bind)
        if not self._quiet(zone):
            self.forget(bind)
            return False
        self._waiting.setdefault(zone, {})[bind] = None
        return True

    def forget(self, bind: BindState) -> None:
        """It does not wait any more."""
        waiting = self._waiting.get(self._zone(bind)) if self._waiting else None
        if waiting is not None:
            waiting.pop(bind, None)

    def over(self) -> Iterable[BindState]:
        """Who waited and is no longer in quiet hours; they wait no more. Looks once a minute."""
        minute = self._tick()
        if minute == self._released or not self._waiting:
            return ()
        self._released = minute
        awake = [zone for zone in self._waiting if not self._quiet(zone)]
        return [bind for zone in awake for bind in self._waiting.pop(zone)]

    def clear(self) -> None:
        """Nobody waits."""
        self._waiting.clear()

    def _zone(self, bind: BindState) -> ZoneInfo:
        return self._zones.get(bind.attrs.get(TZ, "")) or self._default

    def _tick(self) -> int:
        minute = int(self._wall() // 60)
        if minute != self._minute:
            self._minute = minute
            self._now.clear()
        return minute

    def _quiet(self, zone: ZoneInfo) -> bool:
        minute = self._tick()
        quiet = self._now.get(zone)
        if quiet is None:
            local = datetime.fromtimestamp(minute * 60, zone)
            quiet = self._now[zone] = _within(local.hour * 60 + local.minute, self._hours)
        return quiet


def _within(minute: int, hours: QuietHours) -> bool:
    if hours.from_minute <= hours.to_minute:
        return hours.from_minute <= minute < hours.to_minute
    return minute >= hours.from_minute or minute < hours.to_minute
