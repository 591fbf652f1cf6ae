"""The choice itself: who gets which rooms."""

from __future__ import annotations

from collections import Counter

import pytest

from workers.center.dispatch.choice import ADDRESSES, TRIES, Place, Ranking, Table, Wish, hashed

CLIENTS = [f"client-{i}" for i in range(2000)]


def place(number: int, *, port: int = 1883, idc: str = "", weight: float = 1.0, busy: bool = False) -> Place:
    host = f"10.0.{number // 256}.{number % 256}"
    return Place(f"r{number}", host, port, f"{host}:{port}", idc, weight, busy)


def places(count: int) -> list[Place]:
    return [place(number) for number in range(count)]


def table(*items: Place, region: str = "") -> Table:
    return Table({region: list(items)})


def first(client: str, among: Table) -> Place:
    return among.choose(Wish(client))[0]


def test_given_rooms_then_each_client_gets_three_different_ones_the_same_in_any_order() -> None:
    among = places(5)
    for client in CLIENTS[:100]:
        chosen = table(*among).choose(Wish(client))
        assert len({item.room for item in chosen}) == ADDRESSES
        assert table(*among[::-1]).choose(Wish(client)) == chosen


def test_given_one_room_is_lost_then_only_its_clients_move_to_what_was_their_second_and_spread() -> None:
    before, lost = places(8), "r3"
    after = table(*(item for item in before if item.room != lost))
    moved = [client for client in CLIENTS if first(client, table(*before)) != first(client, after)]
    assert {first(client, table(*before)).room for client in moved} == {lost}
    assert all(table(*before).choose(Wish(client))[1] == first(client, after) for client in moved)
    assert len({first(client, after).room for client in moved}) == 7


def test_given_many_clients_then_rooms_are_about_even() -> None:
    counts = Counter(first(client, table(*places(8))).room for client in CLIENTS)
    assert len(counts) == 8
    assert max(counts.values()) < 1.4 * len(CLIENTS) / 8


def test_given_failed_addresses_then_they_are_left_out_and_if_all_failed_all_are_given() -> None:
    among = table(*places(3))
    best = among.choose(Wish("c"))
    assert among.choose(Wish("c", failed=(best[0].address,))) == best[1:]
    assert among.choose(Wish("c", failed=[item.address for item in best])) == best


def test_given_a_last_room_then_it_comes_first_while_it_is_there_and_did_not_fail() -> None:
    among = table(*places(20))
    [*_, other] = [item for item in places(20) if item not in among.choose(Wish("c"))]
    chosen = among.choose(Wish("c", last=other.room))
    assert (chosen[0], chosen[1:]) == (other, among.choose(Wish("c"))[:2])
    for wish in (
        Wish("c", last="r99"),
        Wish("c", last=other.room, failed=(other.address,)),
        Wish("c", last=other.room, attempt=TRIES),
    ):
        assert other not in among.choose(wish)


def test_given_data_centres_then_two_of_one_and_one_of_another_and_the_other_first_after_some_failures() -> None:
    among = table(*(place(number, idc="ab"[number % 2]) for number in range(20)))
    for client in CLIENTS[:50]:
        home = first(client, among).idc
        for attempt in range(2 * TRIES):
            found = [item.idc for item in among.choose(Wish(client, attempt=attempt))]
            other = {"a": "b", "b": "a"}[home]
            assert found == ([home, home, other] if attempt < TRIES else [other, other, home])


def test_given_rooms_with_several_ports_then_a_client_gets_different_ones() -> None:
    among = table(*(place(number, port=(443, 1883, 8883)[number % 3]) for number in range(30)))
    for client in CLIENTS[:50]:
        assert {item.port for item in among.choose(Wish(client))} == {443, 1883, 8883}


def test_given_regions_then_the_own_comes_first_and_others_fill_up() -> None:
    among = Table({"eu": [place(1), place(2)], "us": [place(3), place(4)], "": [place(5)]})
    for client in CLIENTS[:50]:
        assert {item.room for item in among.choose(Wish(client, region="eu"))[:2]} == {"r1", "r2"}
        assert len(among.choose(Wish(client, region="eu"))) == ADDRESSES
        assert among.choose(Wish(client, region="eu", last="r3"))[0].room in ("r1", "r2")
        assert among.choose(Wish(client, region="mars")) == among.choose(Wish(client))
    assert {first(client, among).room for client in CLIENTS} == {"r1", "r2", "r3", "r4", "r5"}


def test_given_a_busy_room_then_it_is_for_who_finds_no_other() -> None:
    among = table(place(1), place(2, busy=True), place(3))
    for client in CLIENTS[:50]:
        assert [item.room for item in among.choose(Wish(client))][-1] == "r2"
        assert first(client, among) == among.choose(Wish(client, last="r2"))[0]
    assert table(place(2, busy=True)).choose(Wish("c"))[0].room == "r2"


def test_given_weights_then_clients_come_in_their_proportion() -> None:
    among = table(place(1, weight=3.0), place(2, weight=1.0))
    heavy = sum(first(client, among).room == "r1" for client in CLIENTS)
    assert heavy == pytest.approx(0.75 * len(CLIENTS), rel=0.06)


@pytest.mark.parametrize("count", [1, 2, 11, 12, 13, 100, 1000])
def test_given_any_number_of_rooms_then_the_best_are_those_with_the_greatest_numbers(count: int) -> None:
    ranking = Ranking(places(count))
    for client in CLIENTS[:20]:
        numbers = ranking.numbers(hashed(client))
        assert len(numbers) == count
        best = [ranking.places.index(item) for item in ranking.best(hashed(client), 12)]
        assert best == sorted(range(count), key=numbers.__getitem__, reverse=True)[:12]


def test_given_one_room_then_its_number_is_that_of_murmur3() -> None:
    """The numbers of all rooms at once are those of each alone: nothing flows from one into the next."""
    for size in (1, 3, 50):
        ranking = Ranking(places(size))
        for client in CLIENTS[:20]:
            expected = [_fmix32(hashed(item.room) ^ hashed(client)) for item in ranking.places]
            assert ranking.numbers(hashed(client)) == expected


def _fmix32(value: int) -> int:
    value ^= value >> 16
    value = value * 0x85EBCA6B & 0xFFFF_FFFF
    value ^= value >> 13
    value = value * 0xC2B2AE35 & 0xFFFF_FFFF
    return value ^ value >> 16
