"""Packet identifiers of what we send (MQTT 5, 2.2.1)."""

from __future__ import annotations

LAST = 65_535


class PacketIds:
    """1 to 65,535, in a circle, skipping those in use. The callers' own bounds keep the circle from filling up."""

    __slots__ = ("_in_use", "_last")

    def __init__(self) -> None:
        self._in_use: set[int] = set()
        self._last = 0

    def take(self) -> int:
        """An id that is free, until it is released."""
        while True:
            self._last = self._last % LAST + 1
            if self._last not in self._in_use:
                self._in_use.add(self._last)
                return self._last

    def release(self, packet_id: int) -> None:
        """The id may be used again. One that is free already stays free."""
        self._in_use.discard(packet_id)
