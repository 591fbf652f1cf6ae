"""Messages that were sent by FCM's endpoint: a notification to show, and data for the app."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from .messages import PushMessage


@dataclass(frozen=True, slots=True, kw_only=True)
class Notification:
    """What to show, each None where the sender left it out, and the app's own `data`."""

    title: str | None = None
    body: str | None = None
    image: str | None = None
    data: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, message: PushMessage) -> Notification | None:
        """What a message carries; None where its payload has another form: whoever can push may send anything."""
        if message.content_type != "application/json":
            return None
        try:
            found = json.loads(message.payload)
        except (ValueError, RecursionError):
            return None
        if not isinstance(found, dict) or not found.keys() <= {"notification", "data"}:
            return None
        shown, data = found.get("notification", {}), found.get("data", {})
        if not (_texts(shown) and _texts(data) and shown.keys() <= {"title", "body", "image"}):
            return None
        return cls(**shown, data=data)


def _texts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())
