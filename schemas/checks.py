"""The bounds that several records share; each check raises ValueError with the field, the value and the bound."""

from __future__ import annotations

from schemas.codes import MAX_PAYLOAD, MAX_PROPERTIES, MAX_PROPERTIES_BYTES

MAX_TTL_S = 28 * 24 * 3600
"""The longest time to live that is accepted, four weeks: FCM's bound."""

RESERVED_PROPERTIES = frozenset({"id", "job", "pull", "size", "pull-after", "retry-after"})


def check_content(payload: bytes, properties: dict[str, str], content_type: str | None) -> None:
    """A payload, the sender's properties (MQTT user properties) and the content type."""
    if len(payload) > MAX_PAYLOAD:
        raise ValueError(f"payload has {len(payload)} bytes, more than {MAX_PAYLOAD}")
    if len(properties) > MAX_PROPERTIES:
        raise ValueError(f"{len(properties)} properties, more than {MAX_PROPERTIES}")
    if sum(len(k.encode()) + len(v.encode()) for k, v in properties.items()) > MAX_PROPERTIES_BYTES:
        raise ValueError(f"properties have more than {MAX_PROPERTIES_BYTES} bytes")
    if any("\0" in text for pair in properties.items() for text in pair):
        raise ValueError("a property contains NUL, which MQTT strings may not (MQTT 5 §1.5.4)")
    if any(name in RESERVED_PROPERTIES for name in properties):
        raise ValueError(f"property names {', '.join(sorted(RESERVED_PROPERTIES))} are Longwire's own")
    if content_type is not None and (len(content_type) > 128 or "\0" in content_type):
        raise ValueError("content_type has more than 128 characters, or a NUL")


def check_ttl(ttl_s: int | None) -> None:
    """A time to live in seconds, or none."""
    if ttl_s is not None and not 0 < ttl_s <= MAX_TTL_S:
        raise ValueError(f"ttl_s {ttl_s} is not between 1 and {MAX_TTL_S}")


def check_range(name: str, value: int, low: int, high: int) -> None:
    """A number between two bounds, both allowed."""
    if not low <= value <= high:
        raise ValueError(f"{name} {value} is not between {low} and {high}")
