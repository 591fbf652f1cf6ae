"""Counters for what a process does tens of thousands of times a second."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from prometheus_client import REGISTRY
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

NO_LABEL: Final = ""


class Tally:
    """One series: whoever counts adds to `value`. One thread only; a scrape, in another, reads."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0


class Tallies(Collector):
    """A Prometheus counter with one label or none, registered at once.

    Adding is an attribute's; that of `prometheus_client.Counter` takes a lock and four calls, a microsecond: as much as all else
    that is done for an acknowledgement (docs/benchmarks.md).
    """

    def __init__(self, name: str, documentation: str, label: str = NO_LABEL) -> None:
        """`name` ends in `_total`. Raises ValueError if it is taken."""
        self._name = name
        self._documentation = documentation
        self._label = label
        self._series: dict[str, Tally] = {}
        REGISTRY.register(self)

    def labels(self, value: str = NO_LABEL) -> Tally:
        """The series of a label's value; it is there from now on."""
        return self._series.setdefault(value, Tally())

    def collect(self) -> Iterator[CounterMetricFamily]:
        """See `prometheus_client.registry.Collector`."""
        labels = [self._label] if self._label else []
        found = CounterMetricFamily(self._name, self._documentation, labels=labels)
        for value, tally in tuple(self._series.items()):
            found.add_metric([value] if self._label else [], tally.value)
        yield found
