"""Allow and deny lists: what the document may hold, whom it means, and that no id makes a look-up slow."""

from __future__ import annotations

import fnmatch
import ipaddress
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gateway.admission.lists import Lists, Verdict, glob
from infra.access import MAX_CLIENTS, MAX_NETWORKS, MAX_PATTERNS
from infra.documents import Access
from infra.networks import Networks
from infra.peers import number

HERE = number("198.51.100.7")


def lists(**rules: Any) -> Lists:
    return Lists(Access.model_validate(rules))


def test_given_no_lists_then_everybody_is_admitted() -> None:
    assert lists().both(HERE, "c1") is Verdict.ADMITTED


@pytest.mark.parametrize(
    "deny",
    [
        {"networks": ["198.51.100.0/24"]},
        {"networks": ["198.51.100.7"]},
        {"networks": ["0.0.0.0/0"]},
        {"clients": ["c1"]},
        {"patterns": ["c*"]},
        {"patterns": ["x", "?1"]},
        {"patterns": ["*"]},
    ],
)
def test_given_somebody_on_both_lists_then_deny_wins(deny: dict[str, Any]) -> None:
    assert lists(deny=deny, allow={"networks": ["198.51.0.0/16"], "clients": ["c1"]}).both(HERE, "c1") is Verdict.DENIED


@pytest.mark.parametrize(
    "deny",
    [
        {"networks": ["198.51.101.0/24"]},
        {"networks": ["::/0"]},
        {"networks": ["::ffff:198.51.100.7"]},  # a network of IPv6: IPv4 is named as IPv4
        {"clients": ["c"]},
        {"clients": ["C1"]},
        {"patterns": ["c"]},
        {"patterns": ["?"]},
        {"patterns": ["c1?"]},
        {"patterns": ["C*", "1*"]},
        {"patterns": ["."]},
        {"patterns": [".."]},
    ],
)
def test_given_a_list_that_means_others_then_who_is_not_on_it_is_admitted(deny: dict[str, Any]) -> None:
    assert lists(deny=deny).both(HERE, "c1") is Verdict.ADMITTED


@pytest.mark.parametrize(
    ("allow", "verdict"),
    [
        ({"networks": ["198.51.100.0/24"]}, Verdict.ADMITTED),
        ({"networks": ["192.0.2.0/24"]}, Verdict.NOT_ALLOWED),
        ({"networks": ["192.0.2.0/24"], "clients": ["c1"]}, Verdict.NOT_ALLOWED),
        ({"networks": ["198.51.100.0/24"], "clients": ["c1"]}, Verdict.ADMITTED),
        ({"clients": ["c2"], "patterns": ["c1*"]}, Verdict.ADMITTED),
        ({"clients": ["c2"], "patterns": ["d*"]}, Verdict.NOT_ALLOWED),
    ],
)
def test_given_an_allow_list_then_address_and_client_must_each_be_meant_where_it_has_any(
    allow: dict[str, Any], verdict: Verdict
) -> None:
    assert lists(allow=allow).both(HERE, "c1") is verdict


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("networks", "198.51.100.7/24"),
        ("networks", "198.51.100"),
        ("networks", "example.com"),
        ("networks", "2001:db8::/129"),
        ("clients", "a b"),
        ("clients", "a*"),
        ("clients", "x" * 129),
        ("patterns", ""),
        ("patterns", "x" * 129),
        ("patterns", "(a+)+$"),
        ("patterns", "[a-z]*"),
        ("patterns", "a*b*c*d*e*"),
        ("patterns", "a\nb"),
    ],
)
@pytest.mark.parametrize("side", ["allow", "deny"])
def test_given_a_document_with_a_bad_entry_then_it_is_refused(side: str, where: str, value: str) -> None:
    with pytest.raises(ValidationError):
        Access.model_validate({side: {where: [value]}})


@pytest.mark.parametrize(
    ("where", "most", "entry"),
    [
        ("networks", MAX_NETWORKS, lambda index: f"10.{index >> 8}.{index & 255}.0/24"),
        ("clients", MAX_CLIENTS, lambda index: f"c{index}"),
        ("patterns", MAX_PATTERNS, lambda index: f"c{index}*"),
    ],
)
def test_given_more_entries_than_a_list_may_have_then_the_document_is_refused(where: str, most: int, entry: Any) -> None:
    assert Access.model_validate({"deny": {where: [entry(index) for index in range(most)]}})
    with pytest.raises(ValidationError):
        Access.model_validate({"deny": {where: [entry(index) for index in range(most + 1)]}})


def test_given_the_worst_patterns_and_ids_when_matched_then_it_takes_no_time() -> None:
    worst = lists(deny={"patterns": [f"*{'a' * length}*a*a*b" for length in range(1, 1 + MAX_PATTERNS // 2)] * 2})
    begun = time.process_time()  # what others do meanwhile is not in it
    for _ in range(10):
        assert worst.both(HERE, "a" * 128) is Verdict.ADMITTED
        assert worst.both(HERE, "a" * 4096) is Verdict.ADMITTED
    assert (time.process_time() - begun) / 20 < 0.02


@given(
    st.lists(st.text("ab*?.", min_size=1, max_size=8).filter(lambda text: text.count("*") <= 4), min_size=1, max_size=4),
    st.text("ab.", max_size=10),
)
def test_given_any_patterns_then_they_match_as_a_shells_do(patterns: list[str], name: str) -> None:
    compiled = glob(patterns)
    assert compiled is not None
    assert (compiled.fullmatch(name) is not None) == any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


@given(
    st.lists(st.ip_addresses(v=4).map(str) | st.ip_addresses(v=6).map(str), min_size=1, max_size=5),
    st.data(),
)
def test_given_any_networks_then_exactly_the_addresses_of_one_are_in_them(hosts: list[str], data: st.DataObject) -> None:
    networks = []
    for host in hosts:
        bits = ipaddress.ip_address(host).max_prefixlen
        networks.append(ipaddress.ip_network(f"{host}/{data.draw(st.integers(0, bits))}", strict=False))
    candidate = data.draw(st.sampled_from(hosts) | st.ip_addresses(v=4).map(str) | st.ip_addresses(v=6).map(str))
    address = ipaddress.ip_address(candidate)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    expected = any(address in network for network in networks if network.version == address.version)
    assert (number(candidate) in Networks(str(network) for network in networks)) == expected
