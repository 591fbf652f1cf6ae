"""Documents of center as text for a terminal."""

from __future__ import annotations

from io import StringIO
from typing import Any

from rich.console import Console
from rich.table import Table

COUNTS = ("sent", "written", "acked", "rejected", "repeated", "skipped", "waiting")


def _render(*parts: Any) -> str:
    text = StringIO()
    console = Console(file=text, width=110, highlight=False)
    for part in parts:
        console.print(part)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())


def rooms_text(document: Any) -> str:
    """ROOM ADDRESS STATE CONNECTIONS, one row a room."""
    table = Table("ROOM", "ADDRESS", "STATE", "CONNECTIONS", box=None)
    for row in document["rooms"]:
        table.add_row(str(row["room"]), f"{row['host']}:{row['port']}", str(row["state"]), str(row["connections"]))
    return _render(table)


def client_text(document: Any) -> str:
    """Where a client is, what it has bound, what is pending."""
    session = document.get("session")
    where = f"online in room {session['room']}, session {session['number']}" if session else "offline"
    table = Table("PRODUCT", "BOUND", "PENDING", box=None)
    binds, pending = document.get("binds") or {}, document.get("pending") or {}
    if not any(pending.values()) and not binds:
        return f"{where}; bound to nothing, nothing pending"
    for product in sorted({*binds, *pending}):
        table.add_row(product, "yes" if product in binds else "no", str(pending.get(product, 0)))
    return _render(where, table)


def watched_text(document: Any) -> str:
    """How a watched job ended, in one line."""
    totals = document.get("totals") or {}
    sent, targeted = int(totals.get("sent", 0)), int(document.get("targeted") or 0)
    if not targeted and not sent:
        return f"{document['state']}: nobody who is bound was online; late joiners get it until it expires"
    return f"{document['state']}: sent to {sent} of {targeted} persons online, {totals.get('acked', 0)} acknowledged so far"


def job_text(document: Any) -> str:
    """A job's state, then its counts, room by room."""
    progress = float(document.get("progress") or 0)
    head = f"{document.get('job') or document.get('id')}: {document['state']}, {progress:.0%} of {document.get('targeted', '?')}"
    table = Table("ROOM", *(name.upper() for name in COUNTS), box=None)
    for row in document.get("rooms") or []:
        table.add_row(str(row["room"]), *(str((row.get("counts") or {}).get(name, 0)) for name in COUNTS))
    table.add_row("all", *(str((document.get("totals") or {}).get(name, 0)) for name in COUNTS))
    return _render(head, table)
