"""Where a room listens."""

from __future__ import annotations

import re
from typing import NamedTuple

MAX_REFERENCES = 16
_ADDRESS = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.%\w]{2,64})\]|(?P<host>[A-Za-z0-9._-]{1,253})):(?P<port>[0-9]{1,5})")


class Address(NamedTuple):
    """A host name or IP address, and a TCP port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse(text: str) -> Address:
    """`host:port` or `[v6]:port`. Raises ValueError on anything else."""
    match = _ADDRESS.fullmatch(text)
    port = int(match["port"]) if match else 0
    if match is None or not 1 <= port <= 65_535:
        raise ValueError(f"{text[:80]!r} is not an address: expected host:port or [v6]:port")
    return Address(match["v6"] or match["host"], port)


def parse_references(text: str | None) -> tuple[Address, ...]:
    """A Server Reference (MQTT 5, 4.11): addresses separated by spaces. What cannot be read is skipped: it is advice."""
    found: list[Address] = []
    for word in (text or "").split(" ")[:MAX_REFERENCES]:
        try:
            found.append(parse(word))
        except ValueError:
            continue
    return tuple(found)
