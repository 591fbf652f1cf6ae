"""Values for networks: the smallest that has an address decides."""

from __future__ import annotations

import pytest

from infra.networks import NetworkTable
from infra.peers import UNKNOWN, customer, number

TABLE = NetworkTable({"10.0.0.0/8": "a", "10.1.0.0/16": "b", "10.1.2.3/32": "c", "2001:db8::/32": "d", "::/0": "e"})


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("10.9.9.9", "a"),
        ("10.1.9.9", "b"),
        ("10.1.2.3", "c"),
        ("::ffff:10.1.2.3", "c"),
        ("11.0.0.1", None),
        ("2001:db8::1", "d"),
        ("2001:db9::1", "e"),
    ],
)
def test_given_networks_inside_others_then_the_smallest_holds_and_versions_are_apart(address: str, expected: str | None) -> None:
    assert TABLE.get(number(address)) == expected


@pytest.mark.parametrize("text", ["", "10.0.0.1/8", "10.0.0.0/33", "a.b.c.d/8", "10.0.0.0/8\n"])
def test_given_no_network_then_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        NetworkTable({text: 1})


def test_given_addresses_then_a_customer_is_an_ipv4_address_or_a_64() -> None:
    assert customer(number("10.1.2.3")) == number("10.1.2.3")
    assert customer(number("2001:db8::1")) == customer(number("2001:db8::ffff:1"))
    assert customer(number("2001:db8::1")) != customer(number("2001:db8:0:1::1"))
    assert customer(UNKNOWN) == UNKNOWN
