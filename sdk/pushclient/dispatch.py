"""Asking the dispatcher where to connect."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

from . import fetch
from .address import Address
from .backoff import Backoff, parse_seconds
from .errors import DispatchError

MAX_ADDRESSES = 64
DEFAULT_TTL_S = 60.0
MAX_TTL_S = 86_400.0
_ROOM = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """At least one address, best first; `rooms`: what some of them are called. What it left open, or said wrongly, is None."""

    addresses: tuple[Address, ...]
    rooms: Mapping[Address, str]
    ttl_s: float
    heartbeat_s: int | None
    backoff: Backoff | None


class Dispatcher:
    """`GET {url}/v1/dispatch?client=…&network=…&attempt=…[&transport=mqtts][&product=…][&region=…][&last=…][&failed=…]`."""

    def __init__(
        self,
        url: str,
        *,
        client_id: str,
        network: str,
        timeout_s: float,
        tls: bool = False,
        product: str | None = None,
        region: str | None = None,
    ) -> None:
        """`tls`: only where rooms take clients by TLS; `product`: only its rooms; `region`: if our address does not say it."""
        fetch.parse_url(url)
        self.network = network
        self._url = url.rstrip("/") + "/v1/dispatch"
        self._client_id = client_id
        self._timeout_s = timeout_s
        wishes = {"transport": "mqtts" if tls else None, "product": product, "region": region}
        self._wishes = [(name, value) for name, value in wishes.items() if value]

    async def ask(self, attempt: int, failed: Sequence[Address] = (), last: str = "") -> Answer:
        """`attempt` counts the failures since the last good connection, `failed` are the addresses that failed since then, `last`
        is the room of that connection. Raises DispatchError."""
        query = [("client", self._client_id), ("network", self.network), ("attempt", str(attempt)), *self._wishes]
        query += [("last", last)] if last else []
        query += [("failed", str(address)) for address in failed]
        try:
            response = await fetch.get(f"{self._url}?{urlencode(query)}", self._timeout_s)
        except (OSError, UnicodeError, fetch.BadResponse) as error:
            raise DispatchError(f"{self._url}: {str(error) or type(error).__name__}") from error
        if response.status != 200:
            wish = parse_seconds(response.headers.get("retry-after", ""))
            raise DispatchError(f"{self._url}: status {response.status}", wish)
        return parse_answer(response.body)


def parse_answer(body: bytes) -> Answer:
    """Raises DispatchError unless it names an address. The rest is advice: a device in the field outlives a bad answer."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise DispatchError(f"the dispatcher's answer is not JSON: {error}") from error
    fields = document if isinstance(document, dict) else {}
    rooms = _addresses(fields.get("addresses"))
    addresses = tuple(rooms)
    if not addresses:
        raise DispatchError("the dispatcher's answer has no usable entry in 'addresses'")
    heartbeat = _number(fields.get("heartbeat_s"))
    return Answer(
        addresses=addresses,
        rooms={address: room for address, room in rooms.items() if room},
        ttl_s=min(_number(fields.get("ttl_s")) or DEFAULT_TTL_S, MAX_TTL_S),
        heartbeat_s=int(heartbeat) if heartbeat and 1 <= heartbeat <= 65_535 else None,
        backoff=_backoff(fields.get("backoff")),
    )


def _addresses(value: object) -> dict[Address, str]:
    """Each address once, with the name of its room, "" where it has none that could be said again."""
    entries = value[:MAX_ADDRESSES] if isinstance(value, list) else []
    found: dict[Address, str] = {}
    for entry in entries:
        if (address := _address(entry)) is not None:
            found.setdefault(address, _room(entry))
    return found


def _address(entry: object) -> Address | None:
    match entry:
        case {"host": str(host), "port": int(port)} if 1 <= len(host) <= 253 and host.isprintable() and " " not in host:
            return Address(host, port) if 1 <= port <= 65_535 and port is not True else None
    return None


def _room(entry: object) -> str:
    match entry:
        case {"room": str(room)} if _ROOM.fullmatch(room):
            return room
    return ""


def _backoff(value: object) -> Backoff | None:
    match value:
        case {"base_s": base, "cap_s": cap}:
            try:
                return Backoff(base_s=_number(base) or 0.0, cap_s=_number(cap) or 0.0)
            except ValueError:
                return None
    return None


def _number(value: object) -> float | None:
    """A finite, non-negative number; true and false are none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return parse_seconds(str(value))
