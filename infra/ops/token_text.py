"""Revocations and issuers for a person."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any


def revocation_text(row: dict[str, Any]) -> str:
    """One revocation: its id, whom it is about, until when."""
    why = f": {row['reason']}" if row["reason"] else ""
    return f"{row['id']}  {_whom(row)}, until {_time(row['expires_at'])}, by {row['by']}{why}"


def revocations_text(document: dict[str, Any]) -> str:
    """One a line, the newest first."""
    rows = document["revocations"]
    if not rows:
        return "nothing is revoked"
    more = [f"… and {document['total'] - len(rows)} more"] if document["total"] > len(rows) else []
    return "\n".join([revocation_text(row) for row in rows] + more)


def issuers_text(rows: list[dict[str, Any]]) -> str:
    """ISSUER, REALM, KEYS and the age of a JWKS, one row an issuer."""
    if not rows:
        return "no issuer is in the keeper"
    lines = [f"{'ISSUER':<40} {'REALM':<12} {'KEYS':>4}  JWKS"]
    return "\n".join(lines + [f"{row['iss']:<40} {row['realm']:<12} {len(row['keys']):>4}  {_jwks(row)}" for row in rows])


def issuer_text(row: dict[str, Any]) -> str:
    """One issuer, then a line for each key."""
    life = "any" if row["max_lifetime_s"] is None else f"at most {row['max_lifetime_s']:g} s"
    products = ", ".join(row["products"]) or "all"
    lines = [f"{row['iss']}: realm {row['realm']}, audience {row['audience']}, products {products}, lifetime {life}"]
    if row["jwks"]:
        lines.append(f"  JWKS {row['jwks']}: {_jwks(row)}")
    lines += [f"  key {key['kid'] or '(no kid)'}  {key['alg']}{'  fetched' if key['fetched'] else ''}" for key in row["keys"]]
    return "\n".join(lines)


def _whom(row: dict[str, Any]) -> str:
    if row["kind"] == "token":
        return f"token {row['subject']} of {row['issuer']}"
    until = f"issued until {_time(row['issued_until'])}"
    if row["kind"] == "user":
        return f"user {row['subject']} of {row['product']} ({row['realm']}), {until}"
    return f"client {row['subject']} ({row['realm']}), {until}"


def _jwks(row: dict[str, Any]) -> str:
    if not row["jwks"]:
        return "-"
    age = "never fetched" if row["jwks_age_s"] is None else f"fetched {row['jwks_age_s']:.0f} s ago"
    return f"{age}; the last attempt: {row['jwks_error']}" if row["jwks_error"] else age


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
