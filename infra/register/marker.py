"""A shard's marker: which life of a server may be used, and how far it came (docs/adr/0007)."""

from __future__ import annotations

from dataclasses import dataclass, field

OPEN, FOLDING = "open", "folding"


@dataclass(frozen=True, slots=True)
class Incarnation:
    """One life of a server with the generation that the register gave it."""

    run_id: str
    generation: int


@dataclass(frozen=True, slots=True)
class Marker:
    """A shard's marker, as it is in Redis. `since_ms`: the last beat before this incarnation, 0 for none; `positions`: what of
    each part of the log (`part`) was stored when it was written; `folded`: parts done; `progress`: read, of how many."""

    incarnation: Incarnation
    state: str
    kind: str
    since_ms: int
    began_ms: int
    opened_ms: int
    beat_ms: int
    positions: dict[str, int] = field(default_factory=dict)
    folded: frozenset[str] = frozenset()
    progress: dict[str, tuple[int, int]] = field(default_factory=dict)


def part(partition: int, queue: str = "") -> str:
    """The name of a part of the log in a marker: a partition of `push.messages`, or of a product's own queue."""
    return f"{partition}:{queue}" if queue else str(partition)


def read_marker(raw: dict[str, str]) -> Marker | None:
    """A marker's fields; None where there is none."""
    if "run_id" not in raw:
        return None
    progress = {name[2:]: value.partition("/") for name, value in raw.items() if name.startswith("r:")}
    return Marker(
        Incarnation(raw["run_id"], int(raw["generation"])),
        raw["state"],
        raw["kind"],
        int(raw["since"]),
        int(raw["began"]),
        int(raw.get("opened", 0)),
        int(raw.get("beat", 0)),
        {name[2:]: int(value) for name, value in raw.items() if name.startswith("p:")},
        frozenset(name[2:] for name, value in raw.items() if name.startswith("f:") and value == raw["generation"]),
        {name: (int(read), int(of)) for name, (read, _, of) in progress.items()},
    )


def why_not_open(run_id: str, marker: Marker | None) -> str:
    """For a log and an error."""
    if marker is None:
        return "it is empty, and what Kafka has is not folded into it yet"
    if marker.incarnation.run_id != run_id:
        return "it was restarted, and what it may have lost is not folded again yet"
    return f"{len(marker.folded)} parts of the log are folded into it again"
