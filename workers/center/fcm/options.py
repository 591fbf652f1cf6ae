"""How long and how urgently: FCM says it for each platform in that platform's own words.

We do not know which platform a device is. Of what several platforms say the first counts: `android`, then `apns`, then `webpush`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Final

from schemas import names
from schemas.checks import MAX_TTL_S
from workers.center.content import PriorityName
from workers.center.web.problems import bad_input

_DURATION: Final = re.compile(r"([0-9]{1,9})(?:\.([0-9]{1,9}))?s")
"""A duration of JSON's mapping for Protocol Buffers, as `3.5s`."""
_APNS: Final[dict[str, PriorityName]] = {"10": "high", "5": "normal", "1": "low"}
_URGENCY: Final[dict[str, PriorityName]] = {"high": "high", "normal": "normal", "low": "low", "very-low": "low"}


@dataclass(frozen=True, slots=True)
class Options:
    """What was said, None where nothing was. `ttl_s` 0: now or never."""

    ttl_s: int | None = None
    priority: PriorityName | None = None
    collapse_key: str | None = None

    def or_else(self, other: Options) -> Options:
        """This, and of the other what this does not say."""
        missing = {each.name: getattr(other, each.name) for each in fields(self) if getattr(self, each.name) is None}
        return replace(self, **missing)


def duration_s(text: str) -> int:
    """Whole seconds of a duration, rounded up; raises ValueError."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError('is a duration in seconds with an s, as "3600s" or "3.5s"')
    return _within(int(match[1]) + bool(int(match[2] or 0)))


def _within(seconds: int) -> int:
    if seconds > MAX_TTL_S:
        raise ValueError(f"is more than {MAX_TTL_S} s, four weeks")
    return seconds


def of_apns(headers: Mapping[str, str], now: float) -> Options:
    """What headers of APNs say; `now`: the time, s. Raises a Problem for one that says nothing here, or does not fit."""
    readers = {
        "apns-expiration": ("ttl_s", lambda text: _until(text, now)),
        "apns-priority": ("priority", lambda text: _word(text, _APNS)),
        "apns-collapse-id": ("collapse_key", names.collapse_key),
    }
    return _of_headers("message.apns.headers", headers, readers)


def of_webpush(headers: Mapping[str, str]) -> Options:
    """What headers of Web Push (RFC 8030 §5) say; raises a Problem for one that says nothing here, or does not fit."""
    readers = {
        "ttl": ("ttl_s", _seconds),
        "urgency": ("priority", lambda text: _word(text, _URGENCY)),
        "topic": ("collapse_key", names.collapse_key),
    }
    return _of_headers("message.webpush.headers", headers, readers)


def _of_headers(field: str, headers: Mapping[str, str], readers: Mapping[str, tuple[str, Callable[[str], Any]]]) -> Options:
    found: dict[str, Any] = {}
    for header, text in headers.items():
        if header.lower() not in readers:
            raise bad_input(f"{field}.{ascii(header)[1:-1][:64]}", text, f"is not supported: only {', '.join(readers)} are")
        name, read = readers[header.lower()]
        try:
            found[name] = read(text)
        except ValueError as error:
            raise bad_input(f"{field}.{header}", text, str(error)) from None
    return Options(**found)


def _word(text: str, words: Mapping[str, PriorityName]) -> PriorityName:
    if text not in words:
        raise ValueError(f"is none of {', '.join(words)}")
    return words[text]


def _seconds(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 10):
        raise ValueError("is a number of seconds")
    return _within(int(text))


def _until(text: str, now: float) -> int:
    """Seconds from now to a time in seconds since the epoch; 0 is now or never."""
    if not (text.isascii() and text.isdecimal() and len(text) <= 12):
        raise ValueError("is a time in seconds since the epoch, or 0")
    if int(text) and int(text) <= now:
        raise ValueError("is in the past")
    return _within(math.ceil(int(text) - now)) if int(text) else 0
