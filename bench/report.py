"""What `make bench-gateway` found: the file, the table, and what the figures are held against."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from rich.table import Table

from bench.measures import Joined

KEYS: Final = (
    "c_send", "uvloop", "gateway_qos0", "gateway_qos1_acked", "gateway_burst16", "gateway_unicast_acked", "nats", "nats_burst16",
    "mosquitto_qos0", "mosquitto_qos1", "c_send_256", "uvloop_256", "gateway_qos0_256", "nats_256",
)  # fmt: skip
"""Messages per CPU-second of the server."""
HANDSHAKES: Final = ("tls_full_handshakes", "tls_resumed_handshakes")
"""Per CPU-second of the room."""
ROOMS: Final = ("gateway", "gateway_qos1")
PYTHON_SENDER: Final = "python"
"""What a room says where it writes broadcasts without the sender in C (docs/adr/0014)."""


@dataclass(slots=True)
class Results:
    """What was measured, as it comes. `rates`: figure → its samples; `arrivals`: server → (p50, p99) of each broadcast, ms.

    `sender`, `reader`: what writes the room's broadcasts and what reads, as it says itself; `compiled`: by mypyc (docs/adr/0027).
    """

    connections: int
    idle: int
    native_client: bool
    sender: str = PYTHON_SENDER
    reader: str = "python"
    compiled: bool = False
    rates: dict[str, list[float]] = field(default_factory=dict)
    frames: dict[str, int] = field(default_factory=dict)
    joined: dict[str, Joined] = field(default_factory=dict)
    arrivals: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    pings_ms: list[float] = field(default_factory=list)
    tls_bytes_each: float | None = None


@dataclass(frozen=True, slots=True)
class Bound:
    """What a figure is held against: the largest of a number and multiples of others. `most`: smaller is better."""

    label: str
    key: str
    least: float | None = None
    least_of: Mapping[str, float] = field(default_factory=dict)
    aim: float | None = None
    aim_of: Mapping[str, float] = field(default_factory=dict)
    most: bool = False


BOUNDS: Final = (
    Bound("broadcast, QoS 0, beside send() (aim: sender in C)", "gateway_qos0", None, {"c_send": 0.8}, None, {"c_send": 1.1}),
    Bound("    beside nats-server", "gateway_qos0", None, {"nats": 1.35}),
    Bound("    beside mosquitto", "gateway_qos0", None, {"mosquitto_qos0": 2.2}),
    Bound("broadcast, QoS 1, all acks counted", "gateway_qos1_acked", 55_000, aim=70_000),
    Bound("    beside mosquitto", "gateway_qos1_acked", None, {"mosquitto_qos1": 2.0}),
    Bound("burst of 16", "gateway_burst16", 1_000_000, aim=1_500_000),
    Bound("    beside nats-server", "gateway_burst16", None, {"nats_burst16": 5.0}),
    Bound("unicast round trips, QoS 1, 256 B", "gateway_unicast_acked", 50_000, aim=70_000),
    Bound("bytes an idle connection", "bytes_per_connection", 1_900, aim=1_600, most=True),
    Bound("connects, CPU of the room", "connects_per_room_cpu_s", 12_000, aim=20_000),
    Bound("connects, room + saver + Redis", "connects_per_total_cpu_s", 5_000, aim=8_000),
    Bound("ping p99 under broadcasts, ms", "ping_p99_ms", 50, aim=20, most=True),
    Bound("TLS: bytes an idle connection", "tls_bytes_per_connection", 32_000, aim=25_000, most=True),
    Bound("TLS: full handshakes", "tls_full_handshakes", 1_500, aim=2_600),
    Bound("TLS: resumed", "tls_resumed_handshakes", None, {"tls_full_handshakes": 1.05}, None, {"tls_full_handshakes": 2.0}),
)


def percentile(values: Sequence[float], percent: int) -> float:
    """The smallest value that so many percent of them do not exceed (nearest rank)."""
    return sorted(values)[max(0, -(-len(values) * percent // 100) - 1)]


def document(found: Results) -> dict[str, Any]:
    """What goes to `build/bench-gateway.json`. A figure that could not be taken is None."""
    room = found.joined.get(ROOMS[0])
    return {
        **{key: statistics.median(found.rates[key]) if key in found.rates else None for key in KEYS},
        "bytes_per_connection": room and room.bytes_each,
        "connects_per_room_cpu_s": room and room.per_cpu_s,
        "connects_per_total_cpu_s": room and room.per_total_cpu_s,
        "ping_p99_ms": percentile(found.pings_ms, 99) if found.pings_ms else None,
        "tls_bytes_per_connection": found.tls_bytes_each,
        **{key: statistics.median(found.rates[key]) if key in found.rates else None for key in HANDSHAKES},
        "native_sender": found.sender != PYTHON_SENDER,
        "sender": found.sender,
        "reader": found.reader,
        "compiled": found.compiled,
        "native_client": found.native_client,
        "connections": found.connections,
        "idle_connections": found.idle,
        "spread": {key: {"min": min(values), "max": max(values)} for key, values in {**found.rates, **_rooms(found)}.items()},
        "samples": found.rates,
        "arrival_ms": {name: _arrival(values) for name, values in found.arrivals.items()},
        "pings": len(found.pings_ms),
        "ping_p50_ms": percentile(found.pings_ms, 50) if found.pings_ms else None,
        "ping_max_ms": max(found.pings_ms, default=None),
        "frame_bytes": found.frames,
        "joins": {name: {"bytes_each": item.bytes_each, "per_cpu_s": item.per_cpu_s} for name, item in found.joined.items()},
    }


def _rooms(found: Results) -> dict[str, list[float]]:
    """What was taken once in each room: the first with all idle connections, whose figures are the file's, and the second."""
    rooms = [found.joined[name] for name in ROOMS if name in found.joined]
    taken = {
        "bytes_per_connection": [room.bytes_each for room in rooms],
        "connects_per_room_cpu_s": [room.per_cpu_s for room in rooms],
        "connects_per_total_cpu_s": [room.per_total_cpu_s for room in rooms],
    }
    return {key: values for key, values in taken.items() if values}


def _arrival(values: Sequence[tuple[float, float]]) -> dict[str, float]:
    """Medians over the broadcasts, and the widest."""
    halves, lasts = zip(*values, strict=True)
    return {"p50": statistics.median(halves), "p99": statistics.median(lasts), "p99_max": max(lasts)}


def limit(values: Mapping[str, Any], number: float | None, multiples: Mapping[str, float]) -> float | None:
    """The largest of a number and multiples of other figures, as far as those were taken; None if there is nothing."""
    all_of = [times * values[key] for key, times in multiples.items() if values[key] is not None]
    return max([*all_of, *([number] if number is not None else [])], default=None)


def meets(value: float, bound: float, *, most: bool) -> bool:
    """Is it as good as the bound?"""
    return value <= bound if most else value >= bound


# --- for a person ------------------------------------------------------------------------------------------------------


def tables(found: Results) -> list[Table]:
    """The same, and what it is held against."""
    values = document(found)
    form = "compiled" if found.compiled else "interpreted"
    title = f"thousand messages / CPU-s, {found.connections:,} connections, room {form}"
    rates = Table(title, "min / median / max", "× C send", box=None)
    for key in KEYS:
        if key not in found.rates:
            rates.add_row(key, "not taken", "")
            continue
        base = values["c_send_256" if key.endswith("_256") else "c_send"]
        spread = " / ".join(f"{pick(found.rates[key]) / 1000:,.1f}" for pick in (min, statistics.median, max))
        rates.add_row(key, spread, f"{values[key] / base:.2f}" if base else "")
    arrived = Table("arrival of one broadcast, ms", "p50 / p99", "bytes a connection", "joins / CPU-s", box=None)
    for name, item in found.joined.items():
        times = values["arrival_ms"].get(name)
        shown = f"{times['p50']:.0f} / {times['p99']:.0f}" if times else ""
        arrived.add_row(name, shown, f"{item.bytes_each:,.0f}", f"{item.per_cpu_s:,.0f}")
    return [rates, arrived, _bounds(values)]


def _bounds(values: Mapping[str, Any]) -> Table:
    shown = Table("figure", "measured", "at least (at most)", "aim", "", box=None)
    for item in BOUNDS:
        value = values[item.key]
        least, aim = limit(values, item.least, item.least_of), limit(values, item.aim, item.aim_of)
        verdict = "not taken"
        if value is not None:
            reached = [bound is not None and meets(value, bound, most=item.most) for bound in (least, aim)]
            verdict = "aim reached" if reached[1] else "met" if reached[0] else "missed"
        shown.add_row(item.label, *(f"{number:,.0f}" if number is not None else "-" for number in (value, least, aim)), verdict)
    return shown
