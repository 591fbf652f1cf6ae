"""Documents of center as text for a terminal."""

from __future__ import annotations

from io import StringIO
from typing import Any, Final

from rich.console import Console
from rich.table import Table

WIDTH: Final = 130


def rendered(*parts: Any) -> str:
    """Lines of text, as a terminal of `WIDTH` columns would have them, without colours. Nothing in them is markup."""
    text = StringIO()
    console = Console(file=text, width=WIDTH, highlight=False, markup=False)
    for part in parts:
        console.print(part)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())


def rooms_text(document: Any) -> str:
    """ROOM ADDRESS STATE CONNECTIONS, one row a room."""
    table = Table("ROOM", "ADDRESS", "STATE", "CONNECTIONS", box=None)
    for row in document["rooms"]:
        table.add_row(str(row["room"]), f"{row['host']}:{row['port']}", str(row["state"]), str(row["connections"]))
    return rendered(table)


def dispatch_text(document: Any) -> str:
    """The addresses that a device would be told of, best first, and how it is to behave."""
    table = Table("ROOM", "ADDRESS", box=None)
    for row in document["addresses"]:
        host = f"[{row['host']}]" if ":" in str(row["host"]) else str(row["host"])
        table.add_row(str(row["room"]), f"{host}:{row['port']}")
    backoff = document["backoff"]
    told = f"region {document.get('region') or 'unknown'}; heartbeat {document['heartbeat_s']} s, good for {document['ttl_s']} s"
    return rendered(table, f"{told}, backoff {backoff['base_s']:g} s to {backoff['cap_s']:g} s")


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
    return rendered(where, table)
