"""How the cluster treats connections, and who may have one."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from infra.access import MAX_CLIENTS, MAX_NETWORKS, MAX_PATTERNS, NOT_COUNTED, network, pattern
from infra.documents.base import Document
from infra.settings import Seconds
from schemas import names

KeepAlive = Annotated[int, Field(ge=1, le=3600)]


class Policy(Document):
    """How the cluster treats connections. Keep Alive is by the network that a client names in CONNECT (`wifi`, `4g`, …).

    `sweep_grace`: how long a room is dead before its sessions are removed; `flash_window_s`: the longest Session Expiry Interval
    that is granted (0: none); `connect_rate`, `resync_rate`: CONNECTs admitted and clients synced again, per second and room;
    `connect_ramp`: a room that starts admits `connect_ramp_from` of that rate, and all of it so long after;
    `connections_per_*`, `accepts_per_address`: open sockets, and new ones per second (`accept_burst` seconds' worth at once), of
    an IPv4 address or an IPv6 /64 in a room, and of an IPv6 /48 (site); `accept_rate`: new sockets of all, per second and room;
    `flapping_*`: a client that was let in more than so often in a window is banned for that long; `publish_*`: uplinks and pulls
    of a client per second, how many at once, and for how long it may want more before it is closed;
    `dispatch_*`: a device may use an answer of the dispatcher for `ttl_s`; an address may ask `per_address` times a second
    (`accept_burst` seconds' worth at once), and all of them `rate`, per center; `backoff_*`: how devices wait between attempts;
    `park_after_*`: a message that was written in so many connections over at least that time, none of which acknowledged
    anything, is a dead letter.
    """

    keep_alive: dict[str, KeepAlive] = Field(default_factory=lambda: {"2g": 300, "3g": 300, "4g": 480, "wifi": 480})
    keep_alive_default: int = Field(default=480, ge=5, le=3600)
    sync_interval: Seconds = 300.0
    ack_timeout: Seconds = 30.0
    window: int = Field(default=32, ge=1, le=1024)
    binds_per_connection: int = Field(default=32, ge=1, le=1024)
    groups_per_bind: int = Field(default=64, ge=0, le=1024)
    lease_interval: Seconds = 3.0
    lease_dead_after: Seconds = 10.0
    sweep_grace: Seconds = 30.0
    sweep_interval: Seconds = 3600.0
    flash_window_s: int = Field(default=60, ge=0, le=3600)
    connect_rate: int = Field(default=2_000, ge=1)
    connect_ramp: Seconds = 20.0
    connect_ramp_from: float = Field(default=0.25, gt=0, le=1)
    connections_per_address: int = Field(default=1_000, ge=1)
    connections_per_site: int = Field(default=4_000, ge=1)
    accepts_per_address: int = Field(default=100, ge=1)
    accept_burst: Seconds = 5.0
    accept_rate: int = Field(default=20_000, ge=1)
    flapping_connects: int = Field(default=30, ge=1)
    flapping_window: Seconds = 60.0
    flapping_ban: Seconds = 300.0
    publish_rate: int = Field(default=50, ge=1)
    publish_burst: int = Field(default=100, ge=1)
    publish_patience: Seconds = 120.0
    resync_rate: int = Field(default=2_000, ge=1)
    park_after_connections: int = Field(default=10, ge=2, le=1000)
    park_after: Seconds = 1800.0
    dispatch_ttl_s: int = Field(default=300, ge=1)
    dispatch_per_address: int = Field(default=100, ge=1)
    dispatch_rate: int = Field(default=3_000, ge=1)
    backoff_base: Seconds = 0.5
    backoff_cap: Seconds = 30.0


Network = Annotated[str, Field(max_length=64), AfterValidator(network)]


class Rules(Document):
    """Whom a list means: by address, by client id (in whatever realm), or by a pattern of ids (`*` any characters, `?` one)."""

    networks: tuple[Network, ...] = Field(default=(), max_length=MAX_NETWORKS)
    clients: tuple[Annotated[str, AfterValidator(names.client)], ...] = Field(default=(), max_length=MAX_CLIENTS)
    patterns: tuple[Annotated[str, AfterValidator(pattern)], ...] = Field(default=(), max_length=MAX_PATTERNS)


class Access(Document):
    """Who may connect. `deny` wins. Where `allow` has networks, an address must be in one of them; where it has clients or
    patterns, an id must be meant by one. Addresses of `uncounted` have no limits of their own."""

    allow: Rules = Rules()
    deny: Rules = Rules()
    uncounted: tuple[Network, ...] = Field(default=NOT_COUNTED, max_length=MAX_NETWORKS)
