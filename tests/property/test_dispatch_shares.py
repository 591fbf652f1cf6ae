"""Whatever rooms there are: a change moves only whom it has to, and everyone has a share by weight."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from workers.center.dispatch.choice import Place, Table, Wish

CLIENTS = [f"device-{number:05}" for number in range(1_500)]


def table(weights: dict[str, float]) -> Table:
    return Table({"": [Place(room, room, 1883, f"{room}:1883", "", weight) for room, weight in weights.items()]})


def firsts(weights: dict[str, float]) -> list[str]:
    among = table(weights)
    return [among.choose(Wish(client))[0].room for client in CLIENTS]


names = st.from_regex(r"[a-z0-9][a-z0-9_-]{0,20}", fullmatch=True)
clusters = st.dictionaries(names, st.sampled_from([0.25, 1.0, 2.0, 18_000.0]), min_size=2, max_size=40)


@settings(max_examples=30, deadline=None)
@given(clusters, st.data())
def test_given_a_room_is_lost_then_only_its_clients_move(weights: dict[str, float], data: st.DataObject) -> None:
    lost = data.draw(st.sampled_from(sorted(weights)))
    before, after = firsts(weights), firsts({room: weight for room, weight in weights.items() if room != lost})
    assert all(one == lost for one, other in zip(before, after, strict=True) if one != other)
    assert lost not in after


@settings(max_examples=30, deadline=None)
@given(clusters, st.data())
def test_given_a_room_loses_weight_then_clients_only_leave_it(weights: dict[str, float], data: st.DataObject) -> None:
    room = data.draw(st.sampled_from(sorted(weights)))
    before, after = firsts(weights), firsts({**weights, room: weights[room] / 4})
    assert all(one == room for one, other in zip(before, after, strict=True) if one != other)


@settings(max_examples=15, deadline=None)
@given(st.lists(names, min_size=100, max_size=100, unique=True))
def test_given_a_hundred_rooms_then_losing_one_moves_about_a_hundredth(rooms: list[str]) -> None:
    """Fifteen clients a room are expected; over forty have odds of one in ten million."""
    even = dict.fromkeys(rooms, 1.0)
    before = firsts(even)
    counts = Counter(before)
    assert max(counts.values()) <= 45
    lost = rooms[0]
    del even[lost]
    assert sum(one != other for one, other in zip(before, firsts(even), strict=True)) == counts[lost]


@settings(max_examples=15, deadline=None)
@given(st.dictionaries(names, st.sampled_from([1.0, 2.0, 4.0]), min_size=2, max_size=8))
def test_given_weights_then_shares_are_by_weight(weights: dict[str, float]) -> None:
    counts, total = Counter(firsts(weights)), sum(weights.values())
    for room, weight in weights.items():
        share = weight / total
        assert abs(counts[room] / len(CLIENTS) - share) < 6 * (share * (1 - share) / len(CLIENTS)) ** 0.5
