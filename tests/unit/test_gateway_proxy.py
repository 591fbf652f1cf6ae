"""The PROXY header, version 2, as bytes."""

from __future__ import annotations

import ipaddress

import pytest

from gateway.edge.proxy import FIXED, LIMIT, BadHeader, following, source
from infra.networks import Networks
from infra.peers import UNKNOWN, number

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
V4 = bytes((198, 51, 100, 7)) + bytes((10, 0, 0, 1)) + (40_000).to_bytes(2) + (1883).to_bytes(2)
V6 = ipaddress.ip_address("2001:db8::7").packed + ipaddress.ip_address("2001:db8::1").packed + bytes(4)


def header(command: int = 0x21, family: int = 0x11, rest: bytes = V4, *, size: int | None = None) -> bytes:
    return SIGNATURE + bytes((command, family)) + (len(rest) if size is None else size).to_bytes(2) + rest


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (header(), number("198.51.100.7")),
        (header(rest=V4 + b"\x04\x00\x01x"), number("198.51.100.7")),
        (header(family=0x21, rest=V6), number("2001:db8::7")),
        (header(command=0x20), None),
        (header(command=0x20, family=0, rest=b""), None),
        (header(family=0x31, rest=bytes(216)), None),
        (header(family=0x12), None),
    ],
)
def test_given_a_good_header_then_its_source(data: bytes, expected: int | None) -> None:
    assert source(data) == expected
    assert FIXED + following(data[:FIXED]) == len(data)


@pytest.mark.parametrize(
    "data",
    [
        b"PROXY TCP4 198.51.100.7 10.0.0.1 40000 1883\r\n",
        header(command=0x11),
        header(command=0x22),
        header(family=0x13),
        header(rest=V4[:-1]),
        header(family=0x21, rest=V4),
        header(rest=bytes(LIMIT + 1)),
        header(size=0xFFFF),
        header()[:-1],
        header() + b"x",
        b"",
    ],
)
def test_given_a_bad_header_then_it_is_refused(data: bytes) -> None:
    with pytest.raises(BadHeader):
        source(data)


@pytest.mark.parametrize("at", range(14))
def test_given_a_wrong_byte_then_it_is_refused_when_it_comes(at: int) -> None:
    data = bytearray(header())
    data[at] ^= 0x44
    assert following(bytes(data[:at])) == 0
    with pytest.raises(BadHeader):
        following(bytes(data[: at + 1]))


def test_given_networks_then_both_versions_are_told_apart() -> None:
    networks = Networks(["10.1.0.0/16", "2001:db8::/32"])
    assert number("10.1.255.1") in networks
    assert number("2001:db8:ffff::1") in networks
    assert number("::ffff:10.1.2.3") in networks
    for other in ("10.2.0.1", "2001:db9::1", "::a01:203", "fe80::1%lo"):
        assert number(other) not in networks
    assert number("no address") == UNKNOWN
    assert UNKNOWN not in networks
    assert number("127.0.0.1") in Networks(["0.0.0.0/0"])
