"""The ledger: for every accepted (message, client) the one state that it is in, by what was noted. Pure: no I/O, no clock.

A message is known by its token, which its payload carries: so one whose acceptance is unknown is not a stranger when it comes.
An id is one only within its product.

| event | fields |
|---|---|
| `offer` | token, product, clients, kind (unicast, broadcast), priority, ttl (s), mode; made before anything is sent |
| `accepted` | token, id: answered 202, or acknowledged by Kafka. Without it the outcome is unknown, never failed |
| `record` | token, product, id, client, offset, partition: read under the client's own key; `topic`: an own queue |
| `got` | token, product, id, client: a device's application got it |
| `repeats` | client, count: arrivals that the device knew by their ids |
| `receipt` | product, id, client, state; `clock`: s by which its sender's wall clock was ahead |
| `dead` | product, id, client: in `push.dead` |
| `pending` | product, id, client: in the register at the end |
| `committed` | partition, offset: of the delivery group at the end; `topic`: of an own queue's group |
| `allow` | client, count, why: repeats that a crash or a reconnect may cause |
| `status` | client, event, generation, session: read from `push.status` |
| `online` | client, returns: it is connected at the end, and came back so often since the begin |
| `refused`, `not-pulled` | id, client: a body that was not to be had; counts for nothing |
| `uplink`, `puback`, `uplinked` | id, client: sent; acknowledged; read from `push.uplink` |

Every event may carry `t`, s on one monotonic clock.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final

from schemas.codes import Mode, State, Status
from schemas.names import MESSAGES

SETTLING: Final = frozenset(
    {State.ACKED, State.WRITTEN, State.REJECTED, State.EXPIRED, State.REPLACED, State.EVICTED, State.DEAD}
)
DELIVERED: Final = frozenset({State.ACKED, State.WRITTEN, State.REJECTED})
ARRIVED, PENDING, QUEUED, DEAD_LETTER = "arrived", "pending", "queued", "dead-lettered"
BROADCAST: Final = "broadcast"

Pair = tuple[str, str]
"""(token, client)."""
Key = tuple[str, str, str]
"""(product, id, client)."""


@dataclass(slots=True)
class Verdict:
    """What the ledger says. `states` counts accepted pairs; everything else is empty where all is well.

    `contradictions`: pairs that were acknowledged or rejected, and no device saw them; `disordered`: first arrivals against their
    partition's order;
    `early`: expired before their time; `two_ids`: one message (one idempotency key) under several ids; `gone`: clients that are
    connected and were called offline last, or at all though they had never left.
    """

    accepted: int = 0
    unknown: int = 0
    states: Counter[str] = field(default_factory=Counter)
    lost: list[Pair] = field(default_factory=list)
    misdelivered: list[Pair] = field(default_factory=list)
    duplicates: int = 0
    duplicate_bound: int = 0
    over_bound: list[tuple[str, int, int]] = field(default_factory=list)
    twice: list[Pair] = field(default_factory=list)
    disordered: list[tuple[str, str, str]] = field(default_factory=list)
    contradictions: list[Pair] = field(default_factory=list)
    early: list[Pair] = field(default_factory=list)
    two_ids: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    uplinks: int = 0
    uplinks_lost: list[str] = field(default_factory=list)
    uplinks_twice: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Does everything hold but the order, which some faults may break once, and that an uplink's id is in Kafka once?"""
        return not any(
            (
                self.lost, self.misdelivered, self.over_bound, self.twice, self.contradictions, self.early, self.two_ids,
                self.gone, self.uplinks_lost,
            )
        )  # fmt: skip

    def problems(self) -> list[str]:
        """One line for each kind of thing that is wrong, with an example."""
        kinds: tuple[tuple[str, list[Any]], ...] = (
            ("lost", self.lost),
            ("delivered to a wrong client", self.misdelivered),
            ("clients with more repeats than allowed", self.over_bound),
            ("came to an application twice", self.twice),
            ("acked and never seen", self.contradictions),
            ("expired before their time", self.early),
            ("under more than one id", self.two_ids),
            ("called offline, and connected", self.gone),
            ("out of order", self.disordered),
            ("uplinks acknowledged and not in Kafka", self.uplinks_lost),
            ("uplinks in Kafka twice", self.uplinks_twice),
        )
        return [f"{len(found)} {text}, as {found[0]}" for text, found in kinds if found]


class Checker:
    """Takes the events of one history, then judges."""

    def __init__(self, events: Iterable[dict[str, Any]]) -> None:
        self._offers: dict[str, dict[str, Any]] = {}
        self._accepted: set[str] = set()
        self._tokens: dict[tuple[str, str], str] = {}  # by product and id
        self._got: dict[Pair, int] = {}
        self._times: Counter[Pair] = Counter()
        self._records: dict[Pair, dict[str, tuple[int, int]]] = defaultdict(dict)
        self._ids: dict[str, set[str]] = defaultdict(set)
        self._receipts: dict[Key, str] = {}
        self._expired: dict[Key, float] = {}
        self._offline: Counter[str] = Counter()
        self._last: dict[str, tuple[int, int, bool]] = {}
        self._began: dict[str, tuple[int, int]] = {}
        self._online: dict[str, int] = {}
        self._dead: set[Key] = set()
        self._pending: set[Key] = set()
        self._strange: set[Pair] = set()
        self._committed: dict[tuple[str, int], int] = {}
        self._repeats: Counter[str] = Counter()
        self._allowed: Counter[str] = Counter()
        self._uplinks: set[str] = set()
        self._pubacks: set[str] = set()
        self._uplinked: Counter[str] = Counter()
        for self._place, event in enumerate(events):  # the order of notes, finer than their times
            getattr(self, "_take_" + event["e"].replace("-", "_"))(event)

    # --- events --------------------------------------------------------------------------------------------------------

    def _take_offer(self, e: dict[str, Any]) -> None:
        self._offers[e["token"]] = e

    def _take_accepted(self, e: dict[str, Any]) -> None:
        self._accepted.add(e["token"])
        self._tokens[self._offers[e["token"]]["product"], e["id"]] = e["token"]
        self._ids[e["token"]].add(e["id"])

    def _take_record(self, e: dict[str, Any]) -> None:
        self._tokens.setdefault((e["product"], e["id"]), e["token"])
        self._ids[e["token"]].add(e["id"])
        self._records[e["token"], e["client"]].setdefault(e.get("topic", MESSAGES), (e["partition"], e["offset"]))

    def _take_got(self, e: dict[str, Any]) -> None:
        pair = (e["token"], e["client"])
        self._got.setdefault(pair, self._place)
        self._times[pair] += 1
        offer = self._offers.get(e["token"])
        if offer is None or e["client"] not in offer["clients"] or e["product"] != offer["product"]:
            self._strange.add(pair)

    def _take_repeats(self, e: dict[str, Any]) -> None:
        self._repeats[e["client"]] += e["count"]

    def _take_receipt(self, e: dict[str, Any]) -> None:
        if e["state"] in SETTLING:
            self._receipts.setdefault(_key(e), e["state"])
        if e["state"] == State.EXPIRED and "t" in e:
            self._expired.setdefault(_key(e), e["t"])

    def _take_dead(self, e: dict[str, Any]) -> None:
        self._dead.add(_key(e))

    def _take_pending(self, e: dict[str, Any]) -> None:
        self._pending.add(_key(e))

    def _take_committed(self, e: dict[str, Any]) -> None:
        self._committed[e.get("topic", MESSAGES), e["partition"]] = e["offset"]

    def _take_allow(self, e: dict[str, Any]) -> None:
        self._allowed[e["client"]] += e["count"]

    def _take_session(self, e: dict[str, Any]) -> None:
        self._began[e["client"]] = (e["generation"], e["session"])

    def _take_status(self, e: dict[str, Any]) -> None:
        if e["event"] not in (Status.ONLINE, Status.OFFLINE):
            return
        offline = e["event"] == Status.OFFLINE
        if offline and (e["generation"], e["session"]) < self._began.get(e["client"], (0, 0)):
            return  # the end of a session that was over before the history began: a room keeps one for its flash window
        self._offline[e["client"]] += offline
        state = (e["generation"], e["session"], offline)  # of one session, offline is the later
        self._last[e["client"]] = max(self._last.get(e["client"], state), state)

    def _take_online(self, e: dict[str, Any]) -> None:
        self._online[e["client"]] = e["returns"]

    def _take_refused(self, e: dict[str, Any]) -> None:
        """It was settled, expired or is pending: the rest of the ledger tells."""

    def _take_not_pulled(self, e: dict[str, Any]) -> None:
        """It is pending, or comes yet."""

    def _take_uplink(self, e: dict[str, Any]) -> None:
        self._uplinks.add(e["id"])

    def _take_puback(self, e: dict[str, Any]) -> None:
        self._pubacks.add(e["id"])

    def _take_uplinked(self, e: dict[str, Any]) -> None:
        self._uplinked[e["id"]] += 1

    # --- the verdict ---------------------------------------------------------------------------------------------------

    def verdict(self) -> Verdict:
        """Add everything up."""
        found = Verdict(unknown=len(set(self._offers) - self._accepted))
        ids = {token: message for (_, message), token in self._tokens.items()}
        for token in sorted(self._accepted):
            for client in self._offers[token]["clients"]:
                self._judge(found, token, client, ids[token])
        found.misdelivered = [pair for pair in self._got if pair in self._strange]
        found.twice = [pair for pair, count in self._times.items() if count > 1]
        found.duplicates = sum(self._repeats.values())
        found.duplicate_bound = sum(self._allowed.values())
        found.over_bound = [
            (client, count, self._allowed[client]) for client, count in self._repeats.items() if count > self._allowed[client]
        ]
        found.disordered = list(self._disordered())
        found.early = list(self._early())
        found.two_ids = sorted(token for token, ids in self._ids.items() if len(ids) > 1)
        found.gone = sorted(client for client, returns in self._online.items() if self._is_gone(client, returns))
        found.uplinks = len(self._pubacks)
        found.uplinks_lost = sorted(self._pubacks - set(self._uplinked))
        found.uplinks_twice = sorted(message for message, count in self._uplinked.items() if count > 1)
        return found

    def _judge(self, found: Verdict, token: str, client: str, message: str) -> None:
        found.accepted += 1
        state = self.state(token, client, message)
        if state is None:
            found.lost.append((token, client))
            return
        found.states[state] += 1
        if state in (State.ACKED, State.REJECTED) and (token, client) not in self._got:
            found.contradictions.append((token, client))

    def state(self, token: str, client: str, message: str) -> str | None:
        """The state of an accepted pair (docs/guarantees.md); None: lost."""
        if self._offers[token]["kind"] == BROADCAST:  # receipts of broadcasts are counts: the device's own word stands
            return ARRIVED if (token, client) in self._got else None
        key = (self._offers[token]["product"], message, client)
        if key in self._receipts:
            return self._receipts[key]
        if key in self._dead:
            return DEAD_LETTER
        if key in self._pending:
            return PENDING
        if self._queued((token, client)):
            return QUEUED
        return None

    def _queued(self, pair: Pair) -> bool:
        """Does a record of it wait: in the shared topic, or, where it was moved, in its product's own queue?"""
        places = self._records.get(pair, {}).items()
        return any(offset >= self._committed.get((topic, partition), 1 << 62) for topic, (partition, offset) in places)

    def _early(self) -> Iterable[Pair]:
        for (product, message, client), at in self._expired.items():
            offer = self._offers.get(self._tokens.get((product, message), ""), {})
            if "ttl" in offer and at < offer["t"] + offer["ttl"]:
                yield self._tokens[product, message], client

    def _is_gone(self, client: str, returns: int) -> bool:
        # Who comes back may try more than once: a room that slept takes attempts that the device has given up, and ends them.
        return bool(self._offline[client] and not returns) or (client in self._last and self._last[client][2])

    def _disordered(self) -> Iterable[tuple[str, str, str]]:
        """Per client, product and priority class: first arrivals against the offsets of their records. (client, earlier, later).

        A body that is pulled comes when it is asked for, and at QoS 0 no order is promised.
        """
        queues: dict[tuple[str, str, int, str, int], list[tuple[int, int, str]]] = defaultdict(list)
        unordered = {(self._tokens.get(key[:2]), key[2]) for key, state in self._receipts.items() if state == State.WRITTEN}
        for (token, client), places in self._records.items():
            at = self._got.get((token, client))
            offer = self._offers.get(token)
            if at is None or offer is None or offer.get("mode") == Mode.PULL or (token, client) in unordered:
                continue
            topic, (partition, offset) = max(places.items())  # of one that was moved, where it came from: its own queue
            queues[client, offer["product"], offer["priority"], topic, partition].append((at, offset, token))
        for (client, *_), arrivals in queues.items():
            arrivals.sort()
            for (_, offset, token), (_, following, later) in pairwise(arrivals):
                if following < offset:
                    yield client, token, later


def _key(e: dict[str, Any]) -> Key:
    return (e["product"], e["id"], e["client"])
