"""Words and numbers of the protocol that several processes share."""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import Final

SLOTS: Final = 4096
"""Into how many slots the clients of a product are hashed; a broadcast's cursor counts slots."""

PLACES: Final = 64
"""Broadcasts of one product that are active at a time: so many bits has a client's mask in a room."""

WHOLE: Final = 10_000
"""Basis points of everyone."""

MAX_PAYLOAD: Final = 64 * 1024
"""Bytes of a message's payload, at most. A product may set less."""

MAX_PROPERTIES: Final = 16
"""User properties of a sender on one message, at most."""

MAX_PROPERTIES_BYTES: Final = 4096
"""All names and values of a message's user properties together, in bytes of UTF-8, at most."""


class Priority(IntEnum):
    """Priority class: a lower one is delivered first. FCM's `high` is transactional, `low` is bulk."""

    HIGH = 0
    NORMAL = 1
    LOW = 2


class Mode(StrEnum):
    """How a message reaches its client. `both`: with its body, or as a notice where that is too large for the client."""

    PUSH = "push"
    PULL = "pull"
    BOTH = "both"


class State(StrEnum):
    """What became of an accepted (id, client), as receipts name it (docs/guarantees.md).

    `expanded`, `moved`, `fallback` and `stored` are notes and settle nothing: the message goes on under its clients' keys, in its
    product's own queue, or is pending all the same. `stored` is written where its client was not there, of products that ask.
    """

    ACKED = "acked"
    WRITTEN = "written"
    REJECTED = "rejected"
    EXPIRED = "expired"
    REPLACED = "replaced"
    EVICTED = "evicted"
    EXPANDED = "expanded"
    MOVED = "moved"
    DROPPED = "dropped"
    DEAD = "dead"
    FALLBACK = "fallback"
    STORED = "stored"


HANDED_OVER: Final = "handed over"
"""The detail of a receipt that settles what had been handed to another channel before."""


class Status(StrEnum):
    """What happened to a client, as `push.status` tells it."""

    ONLINE = "online"
    OFFLINE = "offline"
    BIND = "bind"
    UNBIND = "unbind"


class EventType(StrEnum):
    """What a product's webhook can be told (docs/webhooks.md). An endpoint names those that it wants."""

    UPLINK_RECEIVED = "uplink.received"
    CLIENT_CONNECTED = "client.connected"
    CLIENT_DISCONNECTED = "client.disconnected"
    CLIENT_BOUND = "client.bound"
    CLIENT_UNBOUND = "client.unbound"
    USER_ONLINE = "user.online"
    USER_OFFLINE = "user.offline"
    MESSAGE_STORED = "message.stored"
    MESSAGE_ACKED = "message.acked"
    MESSAGE_WRITTEN = "message.written"
    MESSAGE_REJECTED = "message.rejected"
    MESSAGE_EXPIRED = "message.expired"
    MESSAGE_REPLACED = "message.replaced"
    MESSAGE_EVICTED = "message.evicted"
    MESSAGE_DEAD = "message.dead"


ANY_EVENT: Final = "*"
WEBHOOK_TEST: Final = "webhook.test"
"""The type of what `pushctl webhook test` sends: an endpoint does not ask for it."""
