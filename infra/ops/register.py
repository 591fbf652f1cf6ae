"""The register's state for a person: which servers are open, in which generation, and how far a fold has come."""

from __future__ import annotations

import time
from typing import Any

from infra.register import Marker, Register, Shard
from infra.settings import RedisSettings
from schemas import names


async def status(settings: RedisSettings) -> list[dict[str, Any]]:
    """One document a shard; raises RegisterDown."""
    register = Register(settings)
    await register.start()
    try:
        return [await _shard(shard) for shard in register.shards.all]
    finally:
        await register.stop()


async def _shard(shard: Shard) -> dict[str, Any]:
    run_id, marker = await shard.look()
    found: dict[str, Any] = {"shard": shard.name, "address": shard.address, "state": _state(run_id, marker)}
    if marker is None:
        return found
    read, of = (sum(pair[place] for pair in marker.progress.values()) for place in (0, 1))
    return {
        **found,
        "generation": marker.incarnation.generation,
        "kind": marker.kind,
        "beat_age_s": round(time.time() - marker.beat_ms / 1000, 1) if marker.beat_ms else None,
        "folded_partitions": len(marker.folded),
        "records_read": read,
        "records_to_read": of,
        "fold_s": round((marker.opened_ms - marker.began_ms) / 1000, 1) if marker.opened_ms >= marker.began_ms else None,
        "positions": dict(sorted((_place(part), offset) for part, offset in marker.positions.items())),
    }


def _place(part: str) -> str:
    partition, _, queue = part.partition(":")
    return f"{names.queue_topic(queue) if queue else names.MESSAGES}:{partition}"


def _state(run_id: str, marker: Marker | None) -> str:
    if marker is None:
        return "empty: waits for a delivery worker"
    if marker.incarnation.run_id != run_id:
        return "restarted: waits for a delivery worker"
    return marker.state


def status_text(shards: list[dict[str, Any]]) -> str:
    """A few lines for each shard."""
    lines = []
    for item in shards:
        lines.append(f"shard {item['shard']} at {item['address']}: {item['state']}")
        if "generation" in item:
            how = {"emptied": "it had been emptied", "rewound": "it had kept its data"}.get(item["kind"], item["kind"])
            lines.append(f"  generation {item['generation']}; when it began, {how}")
            lines.append(f"  {item['folded_partitions']} partitions folded, {item['records_read']:,} records read")
            if item["state"] == "folding":
                lines.append(f"  of {item['records_to_read']:,} so far known")
            elif item["fold_s"] is not None:
                lines.append(f"  open after {item['fold_s']} s; last beat {item['beat_age_s']} s ago")
    return "\n".join(lines)
