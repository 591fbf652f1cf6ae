"""The simulation behind `pushctl plan broadcast`: the real planner, rooms as densities."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

import cli
from schemas.codec import MAX_RECORD
from schemas.codes import SLOTS
from tests.unit.pacing_world import World, room_of
from workers.broadcast.pace import Pace
from workers.broadcast.pacing import Order
from workers.broadcast.plansim import COSTS, Campaign, DenseRoom, NoPlan, Simulation

SMALL = Campaign(clients=10_000, rooms=2, rate=500, qos=0)


def order(*, lo: int = 0, hi: int = SLOTS, most: int = 0, spread_ms: int = 0) -> Order:
    return Order("room", 1, 1, lo, hi, spread_ms, 0, most)


@given(st.integers(0, 50_000), st.lists(st.tuples(st.integers(0, SLOTS), st.integers(0, 4000)), max_size=30))
@settings(deadline=None)
def test_given_any_slices_when_a_dense_room_is_walked_then_each_client_is_counted_once(
    clients: int, slices: list[tuple[int, int]]
) -> None:
    room = DenseRoom(clients)
    persons = 0
    for slots, most in slices:
        asked = order(lo=room.cursor, hi=min(SLOTS, room.cursor + slots), most=most)
        _, reply = room.answer(asked)
        assert asked.lo <= reply.slot <= asked.hi
        # The walk ends after the slot in which the bound is reached.
        assert not most or reply.persons <= most + clients / SLOTS + 1
        persons += reply.persons
    _, last = room.answer(order(lo=room.cursor))
    assert persons + last.persons == last.counts.sent == clients


def test_given_a_rate_when_simulated_then_everybody_is_reached_at_that_rate() -> None:
    forecast = Simulation(SMALL).run()
    assert forecast.persons == 10_000
    assert forecast.persons_per_s == pytest.approx(500, rel=0.03)
    assert forecast.first_room_s <= forecast.seconds
    assert forecast.nats_messages == 2 * (forecast.slices + forecast.announces)


@pytest.mark.parametrize(("rooms", "rate"), [(2, 500), (5, 2_000), (16, 4_000)])
def test_given_rooms_with_clients_in_slots_by_hash_when_simulated_then_densities_need_as_many_orders(
    rooms: int, rate: int
) -> None:
    rng = random.Random(1)
    clients = rate * 15
    world = World(Pace(rate, 0.0))
    world.add("job", rate, {f"r{number}": room_of(clients // rooms, rng) for number in range(rooms)})
    world.run(60.0)
    forecast = Simulation(Campaign(clients=clients, rooms=rooms, rate=rate, qos=0)).run()
    assert forecast.slices == pytest.approx(world.orders, rel=0.1)


def test_given_more_rooms_when_simulated_then_orders_grow_with_them_and_the_time_does_not() -> None:
    one, four = Simulation(SMALL).run(), Simulation(replace(SMALL, rooms=8)).run()
    assert four.slices == pytest.approx(4 * one.slices, rel=0.1)
    assert four.seconds == pytest.approx(one.seconds, rel=0.05)


def test_given_costs_when_simulated_then_cpu_is_what_was_counted_times_these() -> None:
    campaign = Campaign(clients=50_000, rooms=10, rate=5_000)
    cheap = Simulation(
        campaign, replace(COSTS, look_us=0.0, cursor_us=0.0, save_us=0.0, slice_us=1_000.0, delivery_us=(1.0, 2.0))
    ).run()
    assert cheap.owner_cores * cheap.seconds == pytest.approx(cheap.slices / 1_000)
    assert cheap.rooms_cpu_s == pytest.approx(50_000 * 2 / 1e6)


def test_given_a_rate_that_rooms_cannot_write_when_simulated_then_it_takes_as_long_as_they_do() -> None:
    slow = replace(COSTS, delivery_us=(1_000.0, 1_000.0))
    forecast = Simulation(Campaign(clients=20_000, rooms=2, rate=1_000_000), slow).run()
    assert forecast.seconds == pytest.approx(10.0, rel=0.05)
    assert forecast.room_cores == pytest.approx(1.0, rel=0.05)


def test_given_more_rooms_than_a_cursor_can_hold_when_simulated_then_it_says_so() -> None:
    with pytest.raises(NoPlan, match=f"more than {MAX_RECORD}"):
        Simulation(Campaign(clients=10_000_000, rooms=5_000, rate=1_000_000)).run()


def test_given_more_than_can_be_simulated_in_a_minute_when_asked_then_it_says_so_at_once() -> None:
    with pytest.raises(NoPlan, match="too much to simulate"):
        Simulation(Campaign(clients=10_000_000, rooms=1, rate=1))


# --- the command -------------------------------------------------------------------------------------------------------


def pushctl(*arguments: object) -> Result:
    return CliRunner().invoke(cli.cli, ["plan", "broadcast", *map(str, arguments)])


def test_given_the_command_when_asked_for_json_then_what_was_asked_and_the_forecast_are_one_document() -> None:
    result = pushctl("--clients", 20_000, "--rooms", 4, "--rate", 2_000, "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.output)
    assert (document["clients"], document["rooms"], document["rate"], document["payload"], document["qos"]) == (
        20_000,
        4,
        2_000,
        256,
        1,
    )
    assert document["seconds"] == pytest.approx(10, rel=0.05)
    assert document["cursor_bytes"] > 0


def test_given_the_command_when_read_by_a_person_then_each_figure_has_its_line() -> None:
    result = pushctl("--clients", 20_000, "--rooms", 4, "--rate", 2_000)
    assert result.exit_code == 0, result.output
    for word in ("duration", "slices", "NATS messages", "cursor", "owner", "each room"):
        assert word in result.output


def test_given_what_cannot_be_planned_when_asked_then_a_sentence_and_status_1() -> None:
    result = pushctl("--clients", 10_000_000, "--rooms", 5_000, "--rate", 1_000_000)
    assert result.exit_code == 1
    assert "can't be kept" in result.output
