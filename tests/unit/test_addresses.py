"""Sockets by address: the caps of an address, a /64 and a /48, the pace of new ones, and that no attacker makes a table grow."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.admission.addresses import Addresses
from infra.buckets import SLOTS, Buckets
from infra.documents import Policy
from infra.peers import MAPPED, UNKNOWN, is_v4, number

V4 = number("203.0.113.9")
NETWORK = 0x20010DB8_00010002 << 64  # 2001:db8:1:2::/64


def limited(**limits: float) -> Addresses:
    policy = Policy.model_validate(limits)
    return Addresses(lambda: policy)


def test_an_address_is_a_number_of_128_bits_and_ipv4_is_mapped() -> None:
    assert number("203.0.113.9") == MAPPED | 0xCB007109 == number("::ffff:203.0.113.9")
    assert number("2001:db8:1:2::5") == NETWORK | 5
    assert number("fe80::1%eth0") == 0xFE80 << 112 | 1
    assert number("") == number("a socket's path") == UNKNOWN
    assert is_v4(V4)
    assert not is_v4(NETWORK)


def test_given_an_address_at_its_cap_when_one_more_comes_then_it_is_turned_away_until_one_has_left_and_others_are_not() -> None:
    addresses = limited(connections_per_address=3)
    assert [addresses.enter(V4, 0.0) for _ in range(4)] == ["", "", "", "address"]
    assert addresses.enter(V4 + 1, 0.0) == ""
    addresses.leave(V4)
    assert [addresses.enter(V4, 0.0) for _ in range(2)] == ["", "address"]


def test_given_an_ipv6_64_at_its_cap_when_another_address_of_it_comes_then_it_is_turned_away() -> None:
    addresses = limited(connections_per_address=3)
    assert [addresses.enter(NETWORK | host, 0.0) for host in (1, 2, 1 << 63, 4)] == ["", "", "", "address"]
    assert addresses.enter(NETWORK + (1 << 64), 0.0) == ""


def test_given_an_attacker_with_a_48_when_every_socket_comes_from_another_64_then_the_site_is_capped() -> None:
    addresses = limited(connections_per_address=3, connections_per_site=50)
    answers = Counter(addresses.enter(NETWORK + (index << 64), 0.0) for index in range(5_000))
    assert answers == {"": 50, "site": 4_950}
    assert len(addresses) == 51
    assert addresses.enter(NETWORK + (1 << 80), 0.0) == ""


def test_given_who_is_not_counted_then_only_the_pace_of_all_holds_and_what_is_open_is_known_all_the_same() -> None:
    addresses = limited(connections_per_address=1, accepts_per_address=1, accept_rate=5)
    assert [addresses.enter(V4, 0.0, counted=False) for _ in range(6)] == [""] * 5 + ["accept_rate"]
    assert addresses.enter(V4, 9.0) == "address"


def test_given_sockets_faster_than_an_address_may_when_time_passes_then_a_burst_and_the_rate_are_let_in() -> None:
    addresses = limited(accepts_per_address=10, accept_burst=2)
    assert Counter(addresses.enter(V4, 0.0) for _ in range(100)) == {"": 20, "address_rate": 80}
    assert Counter(addresses.enter(V4, 1.0) for _ in range(100)) == {"": 10, "address_rate": 90}


def test_given_sockets_of_a_million_addresses_when_they_come_and_go_then_nothing_is_left_of_them() -> None:
    addresses = limited(accept_rate=1_000_000)
    size = addresses._buckets.nbytes
    for index in range(20_000):
        address = NETWORK + (index * 49 << 64)
        if addresses.enter(address, index / 1_000) == "":
            addresses.leave(address)
    assert len(addresses) == 0
    assert addresses._buckets.nbytes == size == 2 * SLOTS * 8


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3), st.integers(0, 3)), max_size=200))
def test_given_any_comings_and_goings_then_no_cap_is_passed_and_only_open_ones_have_entries(
    steps: list[tuple[bool, int, int]],
) -> None:
    addresses = limited(connections_per_address=2, connections_per_site=4, accept_burst=1_000)
    open_: list[tuple[int, int]] = []
    for comes, site, network in steps:
        if comes:
            address = NETWORK + (site << 80) + (network << 64)
            of_network, of_site = open_.count((site, network)), sum(item[0] == site for item in open_)
            expected = "address" if of_network == 2 else "site" if of_site == 4 else ""
            assert addresses.enter(address, 0.0) == expected
            if not expected:
                open_.append((site, network))
        elif open_:
            of, gone = open_.pop(network % len(open_))
            addresses.leave(NETWORK + (of << 80) + (gone << 64))
    assert len(addresses) == len(set(open_)) + len({item[0] for item in open_})


@given(
    st.lists(st.tuples(st.integers(0, 5), st.floats(0, 2)), min_size=1, max_size=300),
    st.integers(1, 50),
    st.integers(1, 20),
)
def test_given_any_keys_at_any_times_then_none_gets_more_than_its_rate_and_one_burst(
    steps: list[tuple[int, float]], rate: int, burst: int
) -> None:
    buckets, now = Buckets(), 0.0
    taken: dict[int, list[float]] = {}
    for key, passed in steps:
        now += passed
        if buckets.take(key, now, rate=rate, burst=burst):
            taken.setdefault(key, []).append(now)
    for times in taken.values():
        for first in range(len(times)):
            for last in range(first, len(times)):
                assert last - first + 1 <= burst + rate * (times[last] - times[first]) + 1e-6


@pytest.mark.parametrize("attackers", [1, 200])
def test_given_attackers_at_their_rate_when_others_come_once_then_hardly_any_of_them_shares_their_places(attackers: int) -> None:
    buckets = Buckets()
    for key in range(attackers):
        while buckets.take(key, 0.0, rate=10, burst=10):
            pass
    refused = sum(not buckets.take(1_000_000 + key, 0.0, rate=10, burst=10) for key in range(2_000))
    assert refused <= 12  # (attackers / SLOTS)² of them on average: 1.2
