"""Counters for hot paths are what Prometheus's own would be to a scrape."""

from __future__ import annotations

import pytest
from prometheus_client import REGISTRY, Counter, generate_latest

from infra.tally import Tallies


def scraped(name: str) -> list[str]:
    lines = generate_latest(REGISTRY).decode().splitlines()
    return [line for line in lines if name in line and "_created" not in line]


def test_given_a_label_when_scraped_then_it_reads_as_a_counter_of_prometheus_client() -> None:
    ours, theirs = Tallies("tally_ours_total", "Some things", "state"), Counter("tally_their_total", "Some things", ["state"])
    for state, count in (("acked", 3), ("dead", 0), ('a"b', 2)):
        ours.labels(state).value += count
        theirs.labels(state).inc(count)
    assert scraped("tally_ours") == [line.replace("their", "ours") for line in scraped("tally_their")]


def test_given_no_label_when_scraped_then_there_is_one_sample() -> None:
    tally = Tallies("tally_plain_total", "Some things").labels()
    tally.value += 2
    assert REGISTRY.get_sample_value("tally_plain_total") == 2


def test_given_a_name_that_is_taken_then_it_is_refused() -> None:
    Tallies("tally_taken_total", "Some things")
    with pytest.raises(ValueError, match="Duplicated"):
        Tallies("tally_taken_total", "Others")
