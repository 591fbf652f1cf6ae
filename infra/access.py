"""What a list of the document `access` may hold: CIDR networks, and patterns of client ids. Bounded, so that a check is cheap."""

from __future__ import annotations

import ipaddress
import re
from typing import Final

MAX_NETWORKS: Final = 1024
MAX_CLIENTS: Final = 4096
MAX_PATTERNS: Final = 128
MAX_STARS: Final = 4

_PATTERN: Final = re.compile(r"[A-Za-z0-9._:@=+~*?-]{1,128}")

NOT_COUNTED: Final = (
    "10.0.0.0/8",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "::1/128",
    "fc00::/7",
    "fe80::/10",
)
"""Loopback, private and link-local: who comes from there is behind a balancer that hides its clients, or one of us."""


def network(value: str) -> str:
    """A CIDR network in its usual form; raises ValueError, also where bits are set that its prefix does not cover."""
    return str(ipaddress.ip_network(value))


def pattern(value: str) -> str:
    """Return `value` if it is a pattern of client ids, else raise ValueError: `*` any characters, `?` one, the rest as it is."""
    if _PATTERN.fullmatch(value) is None:
        raise ValueError(f"pattern {value[:40]!a} does not fit {_PATTERN.pattern}")
    if value.count("*") > MAX_STARS:
        raise ValueError(f"pattern {value[:40]!a} has more than {MAX_STARS} stars")
    return value
