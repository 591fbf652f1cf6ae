"""What a client tells about itself."""

from __future__ import annotations

from dataclasses import dataclass

from .address import Address


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionState:
    """Given to `on_state` at every change, and for every attempt that fails.

    `code` is the reason code where the server gave one. `retry_in_s` is the wait before the next attempt, None when
    connected or when there will be none.
    """

    connected: bool
    address: Address | None
    text: str
    code: int | None = None
    session_present: bool = False
    retry_in_s: float | None = None


@dataclass(slots=True)
class Stats:
    """Counters since the client was made. Whatever a bound drops or cuts is counted here."""

    connects: int = 0
    """connections that the server accepted; all but the first are returns"""
    renewals: int = 0
    """new tokens that the server took on a live connection"""
    failures: int = 0
    """attempts and connections that ended, whatever the reason"""
    dispatch_failures: int = 0
    violations: int = 0
    received: int = 0
    duplicates: int = 0
    acked: int = 0
    rejected: int = 0
    dropped: int = 0
    """QoS 0 messages that found the queue full: the oldest went"""
    evicted: int = 0
    """unacknowledged messages of an earlier connection that made room: the server sends them again"""
    late_replies: int = 0
    callback_errors: int = 0
    binds_refused: int = 0
    """binds that were granted once, and refused on a later connection"""
    uplinks: int = 0
    resent: int = 0

    @property
    def reconnects(self) -> int:
        return max(0, self.connects - 1)
