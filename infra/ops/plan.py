"""A forecast of a broadcast (`pushctl plan broadcast`) as text for a terminal."""

from __future__ import annotations

from typing import Any


def forecast_text(document: Any) -> str:
    """Duration, orders, messages, cursor and CPU, a line each."""
    rows = [
        ("duration", f"{_time(document['seconds'])}; the first room is through after {_time(document['first_room_s'])}"),
        ("persons", f"{document['persons']:,}, {document['persons_per_s']:,.0f} a second"),
        ("slices", f"{document['slices']:,}, {document['slices_per_s']:,.1f} a second"),
        ("NATS messages", f"{document['nats_messages']:,}, {document['nats_messages_per_s']:,.1f} a second"),
        ("NATS bytes", f"{_bytes(document['nats_bytes'])}, {_bytes(document['nats_bytes_per_s'])} a second"),
        ("cursor", f"{_bytes(document['cursor_bytes'])} at most, {_bytes(document['kafka_bytes_per_s'])} a second to Kafka"),
        ("owner", f"{document['owner_cores']:.3f} of a core"),
        ("each room", f"{document['room_cores']:.3f} of a core; all rooms {document['rooms_cpu_s']:,.0f} CPU-seconds"),
    ]
    return "\n".join(f"{label:<14} {text}" for label, text in rows)


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours} h {rest // 60} min" if hours else f"{rest // 60} min {rest % 60} s"


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}" if unit != "B" else f"{count:.0f} B"
        count /= 1000
    return f"{count:.3g} GB"
