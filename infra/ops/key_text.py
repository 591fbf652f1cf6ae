"""API keys for a person."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any


def key_text(row: dict[str, Any]) -> str:
    """One key: its id, what it is for, what it may, and how it stands."""
    products = "all products" if row["products"] is None else ", ".join(row["products"])
    return f"{row['id']}  {row['name']}: {', '.join(row['roles'])} of {products}, {row['rate']}/s; {_state(row)}"


def keys_text(rows: list[dict[str, Any]]) -> str:
    """One a line."""
    return "\n".join(map(key_text, rows)) or "there are no keys but the operator's"


def _state(row: dict[str, Any]) -> str:
    if row["revoked_at"] is not None:
        return f"revoked {_time(row['revoked_at'])}"
    words = [f"last used {_time(row['last_used_at'])}" if row["last_used_at"] else "not used as far as is known"]
    if row["old_secret_until"] is not None:
        words.append(f"two secrets until {_time(row['old_secret_until'])}")
    if row["expires_at"] is not None:
        words.append(f"{'expires' if row['secrets'] else 'expired'} {_time(row['expires_at'])}")
    return ", ".join(words)


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
