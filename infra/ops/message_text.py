"""What became of a message, as text for a terminal."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from rich.table import Table

from infra.ops.show import rendered


def state_text(document: Any) -> str:
    """Head lines, then CLIENT STATE AT DETAIL, one row a client; with a trace its receipts below it."""
    whom = f" for user {document['user']}" if document["user"] else ""
    lines = [f"{document['id']} of {document['product']}{whom}: {document['state']}"]
    if document["detail"] and not document["clients"]:
        lines.append(document["detail"])
    accepted = "unknown when" if document["accepted_ms"] is None else clock(document["accepted_ms"])
    lines.append(f"accepted {accepted}, as of {clock(document['as_of_ms'])}")
    if not document["whole"]:
        lines.append("not everything was looked at: a bound was hit, and what it left out is unknown")
    table = Table("CLIENT", "STATE", "AT", "DETAIL", box=None)
    for client in document["clients"]:
        table.add_row(client["client"], client["state"], clock(client["at_ms"]), _detail(client))
        for event in client.get("trace") or ():
            table.add_row("", f"  {event['state']}", clock(event["at_ms"]), event["detail"] or "")
    missing = (document["clients_total"] or 0) - len(document["clients"])
    more = [f"and {missing} more clients"] if missing > 0 else []
    return rendered(*lines, *([table] if document["clients"] else []), *more)


def _detail(client: Any) -> str:
    found = [client["detail"] or ""]
    if client["expires_ms"] is not None:
        found.append(f"expires {clock(client['expires_ms'])}")
    if client["handed_over"]:
        found.append("handed to another channel")
    return ", ".join(filter(None, found))


def clock(ms: int | None) -> str:
    """A time as UTC with milliseconds, "-" for none."""
    return "-" if ms is None else datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
