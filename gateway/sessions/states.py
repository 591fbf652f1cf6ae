"""The words of a connection's machine: where it is, why it does not read, and what ends it at once."""

from __future__ import annotations

import enum
from typing import Final


class State(enum.Enum):
    """Where a connection is. A session that outlives its socket is AWAY (gateway/sessions/flash.py)."""

    NEW = "before CONNECT"
    OPENING = "waiting for the saver"
    OPEN = "open"
    AWAY = "away"
    CLOSED = "closed"


class Hold:
    """Why nothing is read: bits. Plain numbers: an enum's `&` takes a microsecond, for each packet."""

    OPENING: Final = 1
    CHANGES: Final = 2
    UPLINKS: Final = 4
    PACE: Final = 8
    WINDOW: Final = 16


class Violation(Exception):
    """A packet that ends the connection."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text
