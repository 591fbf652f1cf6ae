"""How fast the broadcasts of a product go: token buckets of persons, and their shares. No I/O, no clock: `now` is passed in.

A product's jobs share one bucket of persons per second; each job has a bucket of its own, whose rate is its fair share. Who
takes from them reserves, and gives back what was not used: so the persons in any time never exceed the rate × the time + one
burst. `ramped` and `Pressure` say what a job and a product may ask for now.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from schemas.codes import Priority

PERIOD: Final = 1.0
"""A room gets a slice so often, s."""
BURST: Final = 1.25
"""A bucket holds so many seconds of its rate: what a late reply delays is made up for."""
WEIGHTS: Final[Mapping[int, float]] = {Priority.HIGH: 16.0, Priority.NORMAL: 4.0, Priority.LOW: 1.0}
"""Shares of jobs that want more than there is: a transactional one has 16 parts where a bulk one has 1, so nobody starves."""
SLOWEST: Final = 1 / 16
"""Back-pressure leaves at least this part of the rate, so that a recovery is noticed by more than a probe."""


class Bucket:
    """Tokens are persons. It starts with one second's worth: what is taken is spread over the second that comes."""

    def __init__(self, rate: float, now: float) -> None:
        self.rate = rate
        self._tokens = rate * PERIOD
        self._at = now

    def available(self, now: float) -> float:
        """How many may be taken."""
        if now > self._at:
            self.give(self.rate * (now - self._at))
            self._at = now
        return self._tokens

    def take(self, persons: float) -> None:
        """Reserve them."""
        self._tokens -= persons

    def give(self, persons: float) -> None:
        """Take back what was not used (or, negative, what was used beyond); the burst stays the bound."""
        self._tokens = min(self.rate * BURST, self._tokens + persons)

    def set_rate(self, rate: float, now: float) -> None:
        """Go on at another rate; what is there above its burst is forfeited."""
        self.available(now)
        self.rate = rate
        self._tokens = min(self._tokens, rate * BURST)


class Ask(NamedTuple):
    """What a job would like: persons a second, and its weight among others."""

    rate: float
    weight: float = 1.0


_NOTHING: Final = Ask(0.0)


def fair_shares(rate: float, asks: Mapping[str, Ask]) -> dict[str, float]:
    """Divide `rate` by weight so that nobody gets more than it asks, and what one leaves goes to the others by weight."""
    shares: dict[str, float] = {}
    left, weight = rate, sum(ask.weight for ask in asks.values())
    for name, ask in sorted(asks.items(), key=lambda item: item[1].rate / item[1].weight):
        shares[name] = min(ask.rate, left * ask.weight / weight)
        left -= shares[name]
        weight -= ask.weight
    return shares


def ramped(rate: float, ramp_s: float, elapsed: float) -> float:
    """The rate after `elapsed` seconds of a ramp: it grows evenly from one second's step to the whole; one person at least."""
    if ramp_s <= 0:
        return rate
    return max(1.0, rate * min(1.0, (elapsed + PERIOD) / (ramp_s + PERIOD)))


class Pressure:
    """Back-pressure of a product's own servers: the part of its rate that they can take now, 1/16 … 1."""

    def __init__(self) -> None:
        self.factor = 1.0

    def probed(self, *, healthy: bool) -> None:
        """One look at the product's health: half the rate for each bad one, and back the same way."""
        self.factor = min(1.0, self.factor * 2) if healthy else max(SLOWEST, self.factor / 2)


class Pace:
    """The pace of one product: its bucket, and the buckets of its jobs."""

    def __init__(self, rate: float, now: float) -> None:
        self._rate = rate
        self._bucket = Bucket(rate, now)
        self._asks: dict[str, Ask] = {}
        self._jobs: dict[str, Bucket] = {}

    def ask(self, job: str, rate: float, now: float, *, weight: float = 1.0) -> None:
        """The job wants `rate` persons a second from now on; 0: nothing for now, so that others have its share."""
        if self._asks.get(job, _NOTHING).rate != rate:
            self._asks[job] = Ask(rate, weight)
            self._divide(now)

    def leave(self, job: str, now: float) -> None:
        """The job is over."""
        self._asks.pop(job, None)
        self._jobs.pop(job, None)
        self._divide(now)

    def set_rate(self, rate: float, now: float) -> None:
        """The product's limit is another one."""
        if rate != self._rate:
            self._rate = rate
            self._bucket.set_rate(rate, now)
            self._divide(now)

    def share(self, job: str) -> float:
        """Persons a second that the job has now; where it asks for none, what it had last."""
        bucket = self._jobs.get(job)
        return bucket.rate if bucket is not None else 0.0

    def available(self, job: str, now: float) -> float:
        """Persons that the job may reserve now."""
        bucket = self._jobs.get(job)
        return 0.0 if bucket is None else min(bucket.available(now), self._bucket.available(now))

    def take(self, job: str, persons: float) -> None:
        """Reserve persons for the job: no more than are available, so none for one that has not asked for a rate yet."""
        if job in self._jobs:
            self._bucket.take(persons)
            self._jobs[job].take(persons)

    def give(self, job: str, persons: float) -> None:
        """Take back what the job did not use (or, negative, what it used beyond)."""
        if job in self._jobs:
            self._bucket.give(persons)
            self._jobs[job].give(persons)

    def _divide(self, now: float) -> None:
        shares = fair_shares(self._rate, {job: ask for job, ask in self._asks.items() if ask.rate > 0})
        for job, share in shares.items():
            if job in self._jobs:
                self._jobs[job].set_rate(share, now)
            else:
                self._jobs[job] = Bucket(share, now)
