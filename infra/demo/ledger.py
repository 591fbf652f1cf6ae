"""The ledger: for every accepted (message, client), the one state it is in. Pure: no I/O, no clock.

At QoS 1 a pair must be acked, written, rejected, pending, expired, replaced, evicted or dead; else it is lost. What a receipt
says is held against what the device saw: a pair with the receipt `acked` that no device ever got does not add up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from schemas.codes import State

Pair = tuple[str, str]
"""(message id, client id)."""

SETTLED = (State.ACKED, State.WRITTEN, State.REJECTED, State.EXPIRED, State.REPLACED, State.EVICTED, State.DEAD)


@dataclass(slots=True)
class Ledger:
    """What was accepted, what receipts say, what devices saw, what still waits."""

    accepted: set[Pair] = field(default_factory=set)
    broadcasts: set[Pair] = field(default_factory=set)
    receipts: dict[Pair, State] = field(default_factory=dict)
    seen: Counter[Pair] = field(default_factory=Counter)
    pending: dict[str, int] = field(default_factory=dict)
    repeats: int = 0
    """what the SDK recognised as a repeat and kept from the application"""
    duplicate_bound: int = 0

    def accept(self, message: str, client: str) -> None:
        """A unicast message was accepted for a client."""
        self.accepted.add((message, client))

    def accept_broadcast(self, job: str, clients: Iterable[str]) -> None:
        """A broadcast was accepted while these clients were eligible."""
        pairs = {(job, client) for client in clients}
        self.accepted |= pairs
        self.broadcasts |= pairs

    def receipt(self, message: str, client: str, state: State) -> None:
        """A receipt from Kafka; of several for one pair the first that settles counts."""
        if state in SETTLED:
            self.receipts.setdefault((message, client), state)

    def balance(self) -> Balance:
        """Add it up."""
        counts: Counter[str] = Counter()
        lost: list[Pair] = []
        contradictions: list[str] = []
        waiting: Counter[str] = Counter()
        for pair in sorted(self.accepted):
            state = self._state(pair)
            if state is None:
                waiting[pair[1]] += 1
            else:
                counts[state] += 1
            if state == State.ACKED and not self.seen[pair]:
                contradictions.append(f"{pair[0]} for {pair[1]} has an ack, and the device never saw it")
        for client, count in waiting.items():
            held = min(count, self.pending.get(client, 0))
            counts["pending"] += held
            lost += [pair for pair in sorted(self.accepted) if pair[1] == client and self._state(pair) is None][held:]
        strangers = [pair for pair in self.seen if pair not in self.accepted]
        contradictions += [f"{message} came to {client}, for whom it was not accepted" for message, client in strangers]
        twice = [pair for pair, count in self.seen.items() if count > 1]
        contradictions += [f"{message} came to the application on {client} more than once" for message, client in twice]
        duplicates = self.repeats
        if duplicates > self.duplicate_bound:
            contradictions.append(f"{duplicates} duplicates, more than the bound of {self.duplicate_bound}")
        return Balance(len(self.accepted), dict(counts), duplicates, self.duplicate_bound, lost, contradictions)

    def _state(self, pair: Pair) -> State | None:
        if pair in self.broadcasts:  # receipts of broadcasts are counts by room: the device's own word stands for the pair
            return State.ACKED if self.seen[pair] else None
        return self.receipts.get(pair)


@dataclass(frozen=True, slots=True)
class Balance:
    """The result: `counts` by state; it adds up if nothing is lost and nothing contradicts."""

    accepted: int
    counts: dict[str, int]
    duplicates: int
    duplicate_bound: int
    lost: list[Pair]
    contradictions: list[str]

    @property
    def adds_up(self) -> bool:
        """Is every accepted pair in exactly one state, as everybody saw it?"""
        return not self.lost and not self.contradictions and sum(self.counts.values()) == self.accepted

    def remarks(self) -> dict[str, str]:
        """What a reader may wonder about."""
        return {
            "pending": "stored for devices that did not come",
            "expired": "their time to live ended first",
            "duplicates": f"after the kill, known by their id; at most {self.duplicate_bound}",
        }

    def document(self) -> dict[str, object]:
        """For `--json`."""
        return {
            "accepted": self.accepted,
            **{state: self.counts.get(state, 0) for state in ("acked", "written", "pending", "expired")},
            "other": sum(n for state, n in self.counts.items() if state not in ("acked", "written", "pending", "expired")),
            "duplicates": self.duplicates,
            "duplicate_bound": self.duplicate_bound,
            "lost": len(self.lost),
            "contradictions": self.contradictions[:20],
            "adds_up": self.adds_up,
        }
