"""The register: sessions, binds and what is pending, in Redis. An index, never the truth (docs/adr/0001).

Each method takes a batch and runs one Lua script a client, pipelined; every script is idempotent, because a timeout leaves its
outcome unknown and the caller repeats it. A script touches the keys of one client only, which share a slot.

`calls` builds what a script is given, `answers` reads what it returns, `views` are the values, `client` is the class.
"""

from infra.register.client import Register, RegisterDown
from infra.register.views import (
    Bound,
    ClientView,
    Connected,
    Owed,
    PendingItem,
    PendingPage,
    SessionView,
    Stored,
    StoreItem,
    StoreMessage,
    StoreOutcome,
    Synced,
)

__all__ = [
    "Bound",
    "ClientView",
    "Connected",
    "Owed",
    "PendingItem",
    "PendingPage",
    "Register",
    "RegisterDown",
    "SessionView",
    "StoreItem",
    "StoreMessage",
    "StoreOutcome",
    "Stored",
    "Synced",
]
