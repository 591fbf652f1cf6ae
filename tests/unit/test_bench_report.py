"""The numbers that `make bench-gateway` writes and what they are held against; how hints fill batches."""

from __future__ import annotations

import json

import pytest

from bench.hints import batches
from bench.measures import Joined
from bench.report import BOUNDS, KEYS, Results, document, limit, meets, percentile, tables
from infra import wire

RATES = {"c_send": [90_000.0, 100_000.0, 130_000.0], "gateway_qos0": [70_000.0, 60_000.0], "nats": [50_000.0]}


def results(**rates: list[float]) -> Results:
    return Results(
        10_000,
        18_000,
        native_client=True,
        rates=rates,
        joined={"gateway": Joined(1_850.5, 12_000.0, 5_000.0), "gateway_qos1": Joined(1_900.0, 11_000.0, 5_500.0)},
        arrivals={"gateway": [(10.0, 20.0), (12.0, 80.0), (14.0, 30.0)]},
        pings_ms=[float(number) for number in range(1, 201)],
    )


@pytest.mark.parametrize(
    ("percent", "expected"),
    [(50, 2.0), (99, 4.0), (100, 4.0), (1, 1.0), (25, 1.0), (26, 2.0)],
)
def test_given_four_values_then_a_percentile_is_one_of_them(percent: int, expected: float) -> None:
    assert percentile([4.0, 2.0, 1.0, 3.0], percent) == expected


def test_given_200_pings_then_two_are_beyond_the_99th_percentile() -> None:
    assert document(results(**RATES))["ping_p99_ms"] == 198.0


def test_given_rounds_then_the_file_has_medians_spreads_and_none_for_what_was_not_taken() -> None:
    found = json.loads(json.dumps(document(results(**RATES))))
    assert found["c_send"] == 100_000
    assert found["gateway_qos0"] == 65_000
    assert found["spread"]["c_send"] == {"min": 90_000, "max": 130_000}
    assert found["mosquitto_qos0"] is None
    assert (found["native_sender"], found["compiled"], found["native_client"]) == (False, False, True)
    assert found["tls_full_handshakes"] is None
    assert found["bytes_per_connection"] == 1_850.5
    assert (found["connects_per_room_cpu_s"], found["connects_per_total_cpu_s"]) == (12_000, 5_000)
    assert found["spread"]["connects_per_total_cpu_s"] == {"min": 5_000, "max": 5_500}
    assert found["arrival_ms"]["gateway"] == {"p50": 12, "p99": 30, "p99_max": 80}
    assert set(KEYS) <= set(found)


def test_given_a_room_that_was_not_measured_then_its_memory_is_none() -> None:
    assert document(Results(10, 10, native_client=False))["bytes_per_connection"] is None


def test_given_a_number_and_multiples_then_the_largest_is_the_bound() -> None:
    values = {"nats": 50_000, "c_send": 100_000, "mosquitto_qos0": None}
    assert limit(values, None, {"c_send": 0.8, "nats": 1.35, "mosquitto_qos0": 2.2}) == 80_000
    assert limit(values, 90_000, {"c_send": 0.8}) == 90_000
    assert limit(values, None, {"mosquitto_qos0": 2.2}) is None
    assert limit(values, None, {}) is None


def test_given_a_bound_then_smaller_or_larger_is_better() -> None:
    assert meets(1_900, 1_900, most=True)
    assert not meets(1_901, 1_900, most=True)
    assert meets(5.0, 4.9, most=False)
    assert not meets(4.8, 4.9, most=False)


def test_given_every_bound_then_its_figures_are_in_the_file() -> None:
    found = document(results(**RATES))
    for bound in BOUNDS:
        assert {bound.key, *bound.least_of, *bound.aim_of} <= set(found)


def test_given_figures_that_are_missing_then_the_tables_are_drawn_all_the_same() -> None:
    assert [table.row_count for table in tables(results(**RATES))] == [len(KEYS), 2, len(BOUNDS)]
    assert tables(Results(10, 10, native_client=False))


def hint(size: int) -> wire.Hint:
    return wire.Hint("main:bench-1", 1, "bench", wire.Downlink("id", 1, b"x" * size))


def test_given_hints_then_batches_are_full_by_number_or_bytes_and_keep_the_order() -> None:
    small = [hint(0) for _ in range(wire.MAX_ITEMS)]
    assert [len(batch) for batch in batches(small)] == [
        wire.MAX_BYTES // wire.ITEM_OVERHEAD,
        wire.MAX_ITEMS - wire.MAX_BYTES // wire.ITEM_OVERHEAD,
    ]
    mixed = [hint(number) for number in range(1_500)]
    found = list(batches(mixed))
    assert [item for batch in found for item in batch] == mixed
    assert all(sum(wire.size_of(item.message) for item in batch) <= wire.MAX_BYTES for batch in found)
    assert list(batches([])) == []
