"""What a room remembers of one connected client, and of each of its binds.

Plain data with `__slots__`: no task, no timer, no dict of its own for an idle connection. The session machine
(`gateway/sessions/session.py`) owns the rules; the fan-out (`gateway/broadcast/fanout.py`) owns the masks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from infra.attributes import Attributes
from infra.wire import Ack
from schemas.partition import slot_of

if TYPE_CHECKING:
    from gateway.broadcast.caps import Recent
    from gateway.ports import Shell

NO_GROUPS: Final[frozenset[str]] = frozenset()
FIRST_BROADCAST_ID: Final = 0x8000
"""Packet ids from here up belong to broadcasts (one id a job, the same for every connection); below, to unicast."""
SOFT_CAP: Final = 256 * 1024


class Inflight:
    """One unicast message, or the notice of one, written at QoS 1 and not yet acknowledged."""

    __slots__ = ("data", "id", "n", "notice", "product", "sent_at")

    def __init__(
        self,
        product: str,
        id: str,  # noqa: A002 - the message's id
        n: int,
        sent_at: float,
        data: bytes,
        *,
        notice: bool = False,
    ) -> None:
        self.notice = notice
        self.product = product
        self.id = id
        self.n = n
        self.sent_at = sent_at
        self.data = data  # the PUBLISH as it was written: it may have to be written again


class BindState:
    """A client's bind to one product: granted QoS, groups, the last store number seen, and the masks of broadcasts.

    `n` is 0 until something came. `behind`: pending holds something that no hint will bring; a sync will. `sent`, `settled`,
    `saved` are bit masks over the places of the product's active jobs in this room; `early` are numbers of settled jobs that the
    register told us of before the job was announced here; `recent` is what a frequency cap counts, where there is one.
    """

    __slots__ = (
        "attrs", "behind", "client", "early", "fenced", "first_bind_ms", "groups", "hinted_n", "n", "product",
        "qos", "ready", "recent", "saved", "sent", "settled", "user",
    )  # fmt: skip

    def __init__(self, client: Client, product: str, qos: int, user: str, attrs: Attributes) -> None:
        self.client = client
        self.product = product
        self.qos = qos
        self.n = 0
        self.behind = False
        self.ready = False  # the saver has answered the bind
        self.fenced = False  # the client is away, or we were: no broadcast before its return, or its sync
        self.sent = 0
        self.settled = 0
        self.saved = 0
        self.groups: frozenset[str] = NO_GROUPS
        self.user = user
        self.attrs = attrs
        self.first_bind_ms = 0
        self.hinted_n = 0
        self.early: tuple[tuple[int, int], ...] = ()
        self.recent: Recent | None = None

    def fall_behind(self) -> None:
        """Pending holds something that no hint will bring."""
        self.behind = self.client.lags = True


Binds = tuple[BindState, ...]
"""The binds of one client: a few at most, and mostly one, for which a dict takes three times as much."""

NO_BINDS: Final[Binds] = ()


def bind_to(binds: Binds, product: str) -> BindState | None:
    """The bind to a product, if there is one."""
    for bind in binds:
        if bind.product == product:
            return bind
    return None


class Client:
    """One authenticated client and its unicast window. `shell` is its socket: one `write`, one packet or several joined.

    `soft_cap`: no message is written while more bytes than that are buffered. `drain`: settled once the buffer is empty. `whole`:
    it can't pull (MQTT 3.1.1 has no properties), so a notice is no use to it. `lags`: one of its binds may be behind; else
    nobody has to look at them.
    `reasons`: it wants Reason Strings.
    """

    __slots__ = (
        "acks", "binds", "blocked", "broadcast_at", "broadcasts_inflight", "connection", "drain", "generation", "inflight", "key",
        "lags", "max_packet", "next_packet_id", "number", "reasons", "receive_max", "shell", "slot", "soft_cap", "whole",
    )  # fmt: skip

    def __init__(
        self,
        key: str,
        connection: int,
        shell: Shell,
        *,
        receive_max: int,
        max_packet: int,
        soft_cap: int = SOFT_CAP,
        whole: bool = False,
    ) -> None:
        self.key = key  # what each message needs comes first: compiled, that is side by side in memory, which comes by 64 bytes
        self.shell = shell
        self.binds = NO_BINDS
        self.inflight: dict[int, Inflight] | None = None
        self.acks: list[Ack] | None = None
        self.drain: list[Ack] | None = None
        self.lags = False
        self.blocked = False  # a broadcast may wait for a place
        self.whole = whole
        self.number = 0
        self.receive_max = receive_max
        self.broadcasts_inflight = 0
        self.next_packet_id = 1
        self.max_packet = max_packet
        self.connection = connection
        self.generation = 0
        self.soft_cap = soft_cap
        self.slot = slot_of(key)
        self.reasons = True
        self.broadcast_at = 0.0  # since when the oldest of them waits, or the last of them made progress

    def explain(self, build: Callable[[str], bytes], text: str) -> bytes:
        """An acknowledgement with a Reason String, unless the client wants none or takes no packet so large (MQTT 5
        §3.1.2.11.7, §3.4.2.2.2)."""
        if text and self.reasons:
            whole = build(text)
            if len(whole) <= self.max_packet:
                return whole
        return build("")

    def unicast_places(self) -> int:
        """Free places in the window for unicast (Receive Maximum covers unicast and broadcast together, MQTT 5 §3.1.2.11.3)."""
        used = len(self.inflight) if self.inflight else 0
        return self.receive_max - used - self.broadcasts_inflight

    def broadcast_places(self) -> int:
        """So many more broadcasts may be in flight: they take at most half of the window, or the one place when it is free."""
        return min(self.unicast_places(), (self.receive_max // 2 or 1) - self.broadcasts_inflight)
