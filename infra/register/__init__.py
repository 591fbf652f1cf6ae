"""The register: sessions, binds and what is pending, in Redis. An index, never the truth (docs/adr/0001).

Each method takes a batch and runs one Lua script a client, pipelined; every script is idempotent, because a timeout leaves its
outcome unknown and the caller repeats it. A script touches the keys of one client only, which share a slot.

`scripts` has the Lua, `calls` builds what a script is given, `packing` makes bytes of it, `answers` reads what it returns,
`views` are the values, `shards` knows which server has a key and whether it may be used by its `marker`, `client` is the class,
`fold` what puts Kafka's records into a server that lost something, `slots` and `due` the index of what is to be handed to
another channel, `told` what products were told of their clients and users.
"""

from infra.register.client import Register
from infra.register.marker import Marker
from infra.register.shards import RegisterDown, RegisterNotReady, Shard
from infra.register.views import (
    Bound,
    Claimed,
    ClientView,
    Connected,
    Gone,
    Holding,
    LastSession,
    Located,
    Owed,
    Parked,
    Parking,
    PendingItem,
    PendingPage,
    Pulled,
    Rebound,
    SessionView,
    Settlement,
    Standing,
    Stored,
    StoreItem,
    StoreMessage,
    StoreOutcome,
    Synced,
    Unbound,
    Unsettled,
)

__all__ = [
    "Bound",
    "Claimed",
    "ClientView",
    "Connected",
    "Gone",
    "Holding",
    "LastSession",
    "Located",
    "Marker",
    "Owed",
    "Parked",
    "Parking",
    "PendingItem",
    "PendingPage",
    "Pulled",
    "Rebound",
    "Register",
    "RegisterDown",
    "RegisterNotReady",
    "SessionView",
    "Settlement",
    "Shard",
    "Standing",
    "StoreItem",
    "StoreMessage",
    "StoreOutcome",
    "Stored",
    "Synced",
    "Unbound",
    "Unsettled",
]
