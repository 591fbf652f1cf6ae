"""Writes small MaxMind files: version 2.0 of the format, records of 32 bits, and only the types that a country's record has."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

_MARKER = b"\xab\xcd\xefMaxMind.com"
_SEPARATOR = bytes(16)
_KINDS = {16: 5, 32: 6, 64: 9}


class Number(NamedTuple):
    """Unsigned, of so many bits: readers want the very type."""

    bits: int
    value: int


def mmdb(records: Mapping[str, Any], *, ip_version: int = 6) -> bytes:
    """A file that says of each network (CIDR) what it is given; IPv4 networks lie in ::/96 where `ip_version` is 6."""
    nodes: list[list[Any]] = [[None, None]]
    data = bytearray()
    for text, record in records.items():
        at = len(data)
        data += _encoded(record)
        _insert(nodes, _bits(text, ip_version), at)
    tree = b"".join(_pointer(side, len(nodes)).to_bytes(4, "big") for node in nodes for side in node)
    about = {
        "binary_format_major_version": Number(16, 2),
        "binary_format_minor_version": Number(16, 0),
        "build_epoch": Number(64, int(time.time())),
        "database_type": "Test-Country",
        "description": {"en": "a test's own"},
        "ip_version": Number(16, ip_version),
        "languages": ["en"],
        "node_count": Number(32, len(nodes)),
        "record_size": Number(16, 32),
    }
    return tree + _SEPARATOR + bytes(data) + _MARKER + _encoded(about)


def _bits(text: str, ip_version: int) -> str:
    network = ipaddress.ip_network(text)
    bits = f"{int(network.network_address):0{network.max_prefixlen}b}"[: network.prefixlen]
    return "0" * 96 + bits if network.version == 4 and ip_version == 6 else bits


def _insert(nodes: list[list[Any]], bits: str, at: int) -> None:
    node = nodes[0]
    for bit in bits[:-1]:
        child = node[int(bit)]
        if child is None:
            child = node[int(bit)] = ("node", len(nodes))
            nodes.append([None, None])
        node = nodes[child[1]]
    node[int(bits[-1])] = ("data", at)


def _pointer(side: Any, count: int) -> int:
    if side is None:
        return count
    kind, at = side
    return int(at) if kind == "node" else count + len(_SEPARATOR) + int(at)


def _encoded(value: Any) -> bytes:
    match value:
        case str():
            data = value.encode()
            return _head(2, len(data)) + data
        case dict():
            return _head(7, len(value)) + b"".join(_encoded(key) + _encoded(item) for key, item in value.items())
        case list():
            return _head(11, len(value)) + b"".join(map(_encoded, value))
        case Number():
            data = value.value.to_bytes(8, "big").lstrip(b"\0")
            return _head(_KINDS[value.bits], len(data)) + data
    raise TypeError(value)


def _head(kind: int, size: int) -> bytes:
    assert size < 285
    length, more = (size, b"") if size < 29 else (29, bytes([size - 29]))
    return bytes([kind << 5 | length]) + more if kind < 8 else bytes([length, kind - 7]) + more
