"""Connections whose tokens are revoked end, whether they have a socket, wait for the saver, or are away. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from gateway.room import Room
from gateway.sessions.lifetime import Lifetime
from gateway.sessions.session import Session
from infra.revoked import Revoked

SOON: Final = 0.05
"""Seconds for which changes gather: one walk is for all of them."""
AT_ONCE: Final = 2000
"""Connections that are looked at before others have their turn; some milliseconds."""


class Revoking:
    """Walks the room's connections after a change."""

    def __init__(self, room: Room, revoked: Revoked, *, later: Callable[[float, Callable[[], None]], object]) -> None:
        """`later(seconds, call)` runs a call once, later."""
        self._later = later
        self._room = room
        self._revoked = revoked
        self._due = False

    def changed(self) -> None:
        """A revocation came, or went."""
        if not self._due:
            self._due = True
            self._later(SOON, self._begin)

    def _begin(self) -> None:
        self._due = False
        room = self._room
        self._walk([*room.sessions, *room.kept], 0)

    def _walk(self, sessions: list[Lifetime], begin: int) -> None:
        wall = self._room.wall()
        for session in sessions[begin : begin + AT_ONCE]:
            assert isinstance(session, Session)
            grant = session.grant
            if grant is not None and self._revoked.covers(grant, wall):
                session.revoke()
        if begin + AT_ONCE < len(sessions):
            self._later(0.0, lambda: self._walk(sessions, begin + AT_ONCE))
