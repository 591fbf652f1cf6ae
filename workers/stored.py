"""A record of `push.messages` as the register stores it: by delivery, and by a fold."""

from __future__ import annotations

from typing import Final

from infra.register import Stored, StoreMessage
from schemas.codes import Mode
from schemas.records import PushMessage

LAST_CALL_MS: Final = 2_500
"""What is due when it expires is handed over so long before: what is due is looked at each second."""


def to_store(message: PushMessage, accepted_ms: int, expires_ms: int, *, handed: bool = False) -> StoreMessage:
    """A record as the register stores it; `handed`: another channel has it already."""
    apart = message.mode == Mode.PULL
    body = Stored(
        b"" if apart else message.payload,
        message.group or "",
        message.content_type or "",
        message.correlation,
        list(message.properties.items()),
        message.mode,
        len(message.payload),
        message.pull_after_ms,
        accepted_ms if message.fallback_after_s else 0,
    )
    collapse, payload = message.collapse_key or "", message.payload if apart else b""
    due = _due(message.fallback_after_s, accepted_ms, expires_ms)
    return StoreMessage(message.id, message.priority, expires_ms, collapse, body, payload, 0 if handed and due else due)


def _due(after_s: int | None, accepted_ms: int, expires_ms: int) -> int | None:
    """When a message's fallback is due, ms: at the latest a moment before it expires, or it would never be."""
    if after_s is None:
        return None
    return min(accepted_ms + 1000 * after_s, max(accepted_ms, expires_ms - LAST_CALL_MS))
